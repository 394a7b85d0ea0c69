"""A SOAP 1.1 service, as one finds them at customers': spyne, served by cheroot.

Listens on a free loopback port, prints {"port": N} on one line, and serves until it is killed.
Responses are chunked; request bodies may be; connections are kept alive.
"""

import hashlib
import json

from cheroot.wsgi import Server
from spyne import Application, ByteArray, Fault, Integer, ServiceBase, Unicode, rpc
from spyne.protocol.soap import Soap11
from spyne.server.wsgi import WsgiApplication

BODY_BYTES_MAX = 64 * 1024 * 1024


class Orders(ServiceBase):
    @rpc(Integer, Integer, _returns=Integer)
    def add(ctx, left, right):
        return left + right

    @rpc(Unicode, _returns=Unicode)
    def echo(ctx, text):
        return text

    @rpc(Integer, _returns=Unicode)
    def cancel(ctx, order):
        raise Fault("Client.NoSuchOrder", f"there is no order {order}")

    @rpc(ByteArray, _returns=Unicode)
    def store(ctx, attachment):
        """Takes an attachment, answers with its SHA-256."""
        return hashlib.sha256(b"".join(attachment)).hexdigest()

    @rpc(Integer, Integer, _returns=ByteArray)
    def fetch(ctx, seed, length):
        """Answers with `length` bytes that the caller can make himself."""
        return [hashlib.shake_256(str(seed).encode()).digest(length)]

    @rpc(_returns=Unicode)
    def transport(ctx):
        """How the request came: the peer's port names the connection."""
        seen = ctx.transport.req_env
        return json.dumps({
            "peer_port": seen["REMOTE_PORT"],
            "transfer_encoding": seen.get("HTTP_TRANSFER_ENCODING", ""),
            "content_length": seen.get("CONTENT_LENGTH", ""),
        })


def main():
    application = WsgiApplication(
        Application([Orders], tns="urn:postern:orders", in_protocol=Soap11(validator="lxml", huge_tree=True),
                    out_protocol=Soap11()),
        max_content_length=BODY_BYTES_MAX,
    )
    server = Server(("127.0.0.1", 0), application, numthreads=8)
    server.prepare()
    print(json.dumps({"port": server.bind_addr[1]}), flush=True)
    server.serve()


if __name__ == "__main__":
    main()
