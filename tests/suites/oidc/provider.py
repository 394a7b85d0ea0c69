"""An OpenID Connect provider that others wrote: oidc-provider-mock (Flask and Authlib), served over TLS by cheroot.

    provider.py CERTIFICATE KEY REDIRECT_URI

Listens on a free port of localhost, prints {"port": N, "client_id": ..., "client_secret": ...} on one line, and serves
until it is killed. It knows one client, which comes back to REDIRECT_URI and proves itself with the secret. Who is who
is told with PUT /users/SUB and the claims; whoever is not known has none but sub and email.
"""

import json
import sys

from authlib.oauth2.rfc7636 import CodeChallenge
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server
from oidc_provider_mock import _app


class CheckedChallenge(CodeChallenge):
    """Authlib's own check of PKCE, which the provider leaves out; here nobody comes without, and only by S256."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ["S256"]

    def __init__(self, kept):
        super().__init__(required=True)
        self.kept = kept

    def get_authorization_code_challenge(self, authorization_code):
        return self.kept[authorization_code.code]

    def get_authorization_code_challenge_method(self, authorization_code):
        return "S256"


class Grant(_app.AuthorizationCodeGrant):
    kept = {}

    def __init__(self, *given):
        super().__init__(*given)
        CheckedChallenge(self.kept)(self)

    def save_authorization_code(self, code, request):
        asked = request.payload.data
        assert asked["code_challenge_method"] == "S256", asked
        self.kept[code] = asked["code_challenge"]
        super().save_authorization_code(code, request)


def main():
    certificate, key, redirect_uri = sys.argv[1:]
    _app.AuthorizationCodeGrant = Grant
    app = _app.app(require_client_registration=True, require_nonce=True)

    @app.after_request
    def without_strangers(response):
        # Its pages ask for a style from the internet, which no test waits for.
        response.headers["Content-Security-Policy"] = "style-src 'unsafe-inline'"
        return response

    wanted = {"redirect_uris": [redirect_uri], "token_endpoint_auth_method": "client_secret_basic"}
    client = app.test_client().post("/oauth2/clients", json=wanted).get_json()
    server = Server(("127.0.0.1", 0), app, numthreads=8)
    server.ssl_adapter = BuiltinSSLAdapter(certificate, key)
    server.prepare()
    told = {"port": server.bind_addr[1], "client_id": client["client_id"], "client_secret": client["client_secret"]}
    print(json.dumps(told), flush=True)
    server.serve()


if __name__ == "__main__":
    main()
