"""Calls the SOAP service at HOST:PORT with zeep; one JSON line a step, exit 1 at the first that fails.

    client.py HOST:PORT
"""

import hashlib
import json
import sys
import time

import zeep
from requests import Session
from zeep.transports import Transport

ATTACHMENT_BYTES = 10 * 1024 * 1024
CALLS = 200


class ChunkedTransport(Transport):
    """Sends every request body with Transfer-Encoding: chunked, in pieces of uneven size."""

    def post(self, address, message, headers):
        return self.session.post(address, data=self.pieces(message), headers=headers, timeout=60)

    @staticmethod
    def pieces(message, sizes=(1, 7, 4096, 65536)):
        at = turn = 0
        while at < len(message):
            size = sizes[turn % len(sizes)]
            yield message[at:at + size]
            at, turn = at + size, turn + 1


def connect(address, transport):
    return zeep.Client(
        f"http://{address}/?wsdl",
        transport=transport(session=Session(), timeout=60, operation_timeout=60),
        settings=zeep.Settings(xml_huge_tree=True),
    )


def wsdl(client, address):
    operations = sorted(client.service._binding._operations)
    assert operations == ["add", "cancel", "echo", "fetch", "store", "transport"], operations
    # The service names the address it was asked at: the listener's, when it stands behind one.
    assert client.service._binding_options["address"] == f"http://{address}/", client.service._binding_options
    return {"operations": len(operations)}


def calls(client, address):
    assert client.service.add(20, 22) == 42
    text = "Grüße, <Ωμέγα> & 漢字 \U0001f6aa"
    assert client.service.echo(text) == text
    return {}


def fault(client, address):
    try:
        client.service.cancel(7)
    except zeep.exceptions.Fault as fault:
        assert fault.message == "there is no order 7", fault.message
        assert fault.code.endswith("Client.NoSuchOrder"), fault.code
        return {"code": fault.code}
    raise AssertionError("the service should have answered with a fault")


def keep_alive(client, address):
    """Every call on one connection: the service sees one peer port throughout."""
    ports = set()
    for number in range(CALLS):
        assert client.service.add(number, 1) == number + 1
        if number % 20 == 0:
            ports.add(json.loads(client.service.transport())["peer_port"])
    assert len(ports) == 1, f"{CALLS} calls came over {len(ports)} connections"
    return {"calls": CALLS, "connections": 1}


def attachment(client, address):
    up = hashlib.shake_256(b"up").digest(ATTACHMENT_BYTES)
    assert client.service.store(up) == hashlib.sha256(up).hexdigest()
    down = client.service.fetch(11, ATTACHMENT_BYTES)
    assert down == hashlib.shake_256(b"11").digest(ATTACHMENT_BYTES)
    return {"bytes": ATTACHMENT_BYTES, "sha256": hashlib.sha256(up).hexdigest()}


def chunked(client, address):
    sender = connect(address, ChunkedTransport)
    seen = json.loads(sender.service.transport())
    assert seen["transfer_encoding"] == "chunked" and not seen["content_length"], seen
    up = hashlib.shake_256(b"chunked").digest(ATTACHMENT_BYTES)
    assert sender.service.store(up) == hashlib.sha256(up).hexdigest()
    return {"bytes": ATTACHMENT_BYTES}


def main():
    address = sys.argv[1]
    client = connect(address, Transport)
    for step in (wsdl, calls, fault, keep_alive, attachment, chunked):
        started = time.monotonic()
        try:
            found = step(client, address)
        except Exception as error:  # whatever it was, the runner gets it as this step's failure
            print(json.dumps({"step": step.__name__, "ok": False, "error": repr(error)}), flush=True)
            raise SystemExit(1) from error
        took_ms = round((time.monotonic() - started) * 1000)
        print(json.dumps({"step": step.__name__, "ok": True, "ms": took_ms, **found}), flush=True)


if __name__ == "__main__":
    main()
