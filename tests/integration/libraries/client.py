"""PyJWT and Authlib against a running gateway. Each step asserts; the last line printed says that all were passed.

Standard input: a JSON object with `issuer`, `access`, `refresh` (of one login), `secret` (of the client "worker"),
`key` (private key in PEM of the client "signer").
"""

import json
import sys

import jwt
import requests
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey

given = json.load(sys.stdin)
issuer = given["issuer"]

# RFC 8414: everything else is found from here.
metadata = requests.get(f"{issuer}/.well-known/oauth-authorization-server", timeout=30).json()
assert metadata["issuer"] == issuer, metadata
token_url = metadata["token_endpoint"]

# PyJWT verifies our tokens by our keys.
keys = jwt.PyJWKClient(metadata["jwks_uri"])


def verified(token, typ="at+jwt", **more):
    assert jwt.get_unverified_header(token)["typ"] == typ
    key = keys.get_signing_key_from_jwt(token)
    return jwt.decode(token, key.key, algorithms=["ES256"], issuer=issuer, **more)


claims = verified(given["access"], options={"require": ["exp", "iat", "sub", "jti", "sid"]})
head, payload, signature = given["access"].split(".")
forged = f"{head}.{payload}.{signature[:-4]}AAAA"
try:
    verified(forged)
    sys.exit("a forged token was verified")
except jwt.InvalidSignatureError:
    pass


def session(client, secret, method):
    return OAuth2Session(client, secret, token_endpoint_auth_method=method)


by_basic = session("worker", given["secret"], "client_secret_basic")
by_body = session("worker", given["secret"], "client_secret_post")
by_key = session("signer", ECKey.import_key(given["key"]), PrivateKeyJWT(token_url, alg="ES256"))


def introspected(token, by=by_basic):
    answer = by.introspect_token(metadata["introspection_endpoint"], token=token)
    answer.raise_for_status()
    return answer.json()


def refused(error, action):
    try:
        action()
    except OAuthError as refusal:
        assert refusal.error == error, refusal
    else:
        sys.exit(f"{error} was expected")


# client_credentials in three ways to authenticate.
for by, client in [(by_basic, "worker"), (by_body, "worker"), (by_key, "signer")]:
    token = by.fetch_token(token_url, grant_type="client_credentials", scope="read")
    assert token["token_type"] == "Bearer" and token["scope"] == "read", token
    assert "refresh_token" not in token, token
    said = verified(token["access_token"])
    assert (said["sub"], said["client_id"], said["scope"]) == (client, client, "read"), said
    seen = introspected(token["access_token"], by)
    assert seen["active"] and seen["client_id"] == client and seen["iss"] == issuer, seen

refused("invalid_scope", lambda: by_basic.fetch_token(token_url, grant_type="client_credentials", scope="root"))
refused(
    "invalid_client",
    lambda: session("worker", "wrong", "client_secret_basic").fetch_token(token_url, grant_type="client_credentials"),
)
refused(
    "unsupported_grant_type",
    lambda: by_basic.fetch_token(token_url, grant_type="password", username="ada", password="x"),
)

# Introspection in JSON and as a JWT (RFC 9701).
seen = introspected(given["access"])
assert seen["sub"] == claims["sub"] and seen["sid"] == claims["sid"] and seen["jti"] == claims["jti"], seen
assert introspected("garbage") == {"active": False}
answer = requests.post(
    metadata["introspection_endpoint"],
    data={"token": given["access"]},
    auth=("worker", given["secret"]),
    headers={"Accept": "application/token-introspection+jwt"},
    timeout=30,
)
assert answer.headers["Content-Type"] == "application/token-introspection+jwt", answer.headers
said = verified(answer.text, "token-introspection+jwt", audience="worker")
assert said["token_introspection"] == seen, said

# Refresh, then revoke: the access token alone, then the session by its refresh token.
fresh = by_basic.refresh_token(token_url, refresh_token=given["refresh"])
assert fresh["refresh_token"] != given["refresh"], "rotated"
assert verified(fresh["access_token"])["sid"] == claims["sid"]
by_basic.revoke_token(metadata["revocation_endpoint"], token=given["access"]).raise_for_status()
assert introspected(given["access"]) == {"active": False}
assert introspected(fresh["access_token"])["active"]
by_basic.revoke_token(
    metadata["revocation_endpoint"], token=fresh["refresh_token"], token_type_hint="refresh_token"
).raise_for_status()
assert introspected(fresh["access_token"]) == {"active": False}
refused("invalid_grant", lambda: by_basic.refresh_token(token_url, refresh_token=fresh["refresh_token"]))
print("passed")
