"""Asks the reference library whether a webhook is signed with a secret, and new.

    verify.py FILE     JSON: {"secret": "whsec_...", "headers": {...}, "body": "..."}

Prints one JSON line: "verified" is the library's verdict, "why" its reason against it.
"""

import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError


def main(path):
    with open(path, encoding="utf-8") as file:
        given = json.load(file)
    answer = {"step": "verify", "ok": True}
    try:
        Webhook(given["secret"]).verify(given["body"], given["headers"])
        answer["verified"] = True
    except WebhookVerificationError as error:
        answer.update(verified=False, why=str(error))
    print(json.dumps(answer))


main(sys.argv[1])
