"""Sends a mail with a large attachment through an MTA, and judges what arrived.

    mail.py send HOST:PORT CA_FILE SEED   submits with STARTTLS and AUTH (SMTP_USER, SMTP_PASSWORD)
    mail.py check FILE SEED               compares a delivered message, byte by byte

Each prints one JSON line and exits 1 when something is not as it should be. Sender and judge
make the same content from the same seed, so neither has to trust the other's hash.
"""

import email
import email.policy
import hashlib
import json
import os
import smtplib
import ssl
import sys
from email.message import EmailMessage

ATTACHMENT_BYTES = 20 * 1024 * 1024
# Lines that a careless relay of SMTP's DATA would end at, double or swallow.
TEXT = "First line\n.\n..\n.hidden\nQUIT\n\n  spaces kept  \nlast line\n"


def attachment(seed):
    return hashlib.shake_256(f"attachment {seed}".encode()).digest(ATTACHMENT_BYTES)


def send(address, ca_file, seed):
    host, port = address.rsplit(":", 1)
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "app@example.test", "inbox@example.test", f"seed {seed}"
    message.set_content(TEXT)
    message.add_attachment(attachment(seed), maintype="application", subtype="octet-stream", filename="random.bin")
    with smtplib.SMTP(host, int(port), timeout=60) as smtp:
        smtp.starttls(context=ssl.create_default_context(cafile=ca_file))
        tls = smtp.sock.version()
        smtp.login(os.environ["SMTP_USER"], os.environ["SMTP_PASSWORD"])
        smtp.send_message(message)
    return {"step": "send", "ok": True, "tls": tls, "bytes": ATTACHMENT_BYTES}


def check(path, seed):
    with open(path, "rb") as file:
        message = email.message_from_binary_file(file, policy=email.policy.default)
    assert message["Subject"] == f"seed {seed}", message["Subject"]
    text = message.get_body().get_content()
    assert text == TEXT, f"the text arrived as {text!r}"
    (part,) = message.iter_attachments()
    arrived, sent = part.get_content(), attachment(seed)
    assert len(arrived) == len(sent), f"{len(arrived)} bytes arrived of {len(sent)}"
    assert arrived == sent, "the attachment arrived altered"
    return {"step": "check", "ok": True, "bytes": len(arrived), "sha256": hashlib.sha256(arrived).hexdigest()}


def main():
    verb, *rest = sys.argv[1:]
    try:
        print(json.dumps({"send": send, "check": check}[verb](*rest)))
    except Exception as error:  # whatever it was, the runner gets it as this step's failure
        print(json.dumps({"step": verb, "ok": False, "error": repr(error)}), flush=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
