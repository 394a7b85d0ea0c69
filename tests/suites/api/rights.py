"""What schemathesis must know to try the API as one role, and what it is to find wrong there.

POSTERN_TEST_ROLE is `none` or the role of POSTERN_TEST_TOKEN, a token's text. Which role an operation needs stands in
the document itself, as `x-role`; central's own tests hold that equal to the table that its router is made from.
"""

import os

import schemathesis

ROLES = ["none", "viewer", "operator", "administrator", "cloud_administrator"]
ROLE = os.environ["POSTERN_TEST_ROLE"]
TOKEN = os.environ.get("POSTERN_TEST_TOKEN")

# Said before anybody asks whose request it is: it is no HTTP, or too much of it, or leads to no route.
NOBODY_ASKED = {400, 405, 414, 431}


@schemathesis.hook
def before_call(context, case, kwargs):
    """With our token and no other: what a generator puts there would be another role's test."""
    for name in [name for name in case.headers or {} if name.lower() == "authorization"]:
        del case.headers[name]
    if TOKEN:
        case.headers["Authorization"] = f"Bearer {TOKEN}"


@schemathesis.hook
def filter_case(context, case):
    """Identifiers that were seen in answers are tried elsewhere: whoever revokes its own token learns no more."""
    own = (TOKEN or "__").split("_")[2]
    return not own or own not in str((case.path_parameters or {}).get("id", ""))


@schemathesis.check
def rights(context, response, case):
    """Who lacks the role is refused for that, whatever else is wrong with the request; who has it is not."""
    needed = case.operation.definition.raw.get("x-role", "none")
    lacks = ROLES.index(ROLE) < ROLES.index(needed)
    status, code = response.status_code, code_of(response)
    if lacks:
        refusal = 401 if ROLE == "none" else 403
        astray = status in NOBODY_ASKED or code == "no_such_route"
        assert status == refusal or astray, f"{ROLE} got {status} {code} where {needed} is needed"
    elif ROLE != "none":
        assert (status, code) != (401, "unauthenticated"), "a valid token was not known"
        assert (status, code) != (403, "forbidden") or writes_roles(case), f"{ROLE} was refused, {needed} is enough"


def writes_roles(case):
    """Nobody gives or takes a role above their own: that is refused by what is in the body or the record."""
    return case.operation.path.startswith(("/api/v1/users", "/api/v1/api-tokens"))


def code_of(response):
    try:
        return response.json().get("code")
    except Exception:
        return None
