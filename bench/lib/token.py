"""A key pair, a token that it signs, and the key set that verifies it, made by openssl."""

import base64
import json
import subprocess
import time
from dataclasses import dataclass

ISSUER = "https://issuer.bench"
AUDIENCE = "bench"


@dataclass
class Token:
    """A token that lives for a day, the text of its issuer's key set, and a file with that."""

    text: str
    jwks: str
    file: str


def make(folder):
    """Makes all of it in a folder."""
    key = folder / "issuer.key"
    _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(key))
    modulus = _openssl("rsa", "-in", str(key), "-noout", "-modulus").decode().strip().partition("=")[2]
    jwks = json.dumps({"keys": [{"kty": "RSA", "kid": "k1", "alg": "RS256", "use": "sig",
                                 "n": _base64(bytes.fromhex(modulus)), "e": "AQAB"}]})
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "user-1", "iat": now, "nbf": now, "exp": now + 86400,
              "scope": "read write", "email": "user@example.com"}
    signed = ".".join(_base64(json.dumps(part).encode())
                      for part in ({"alg": "RS256", "typ": "JWT", "kid": "k1"}, claims))
    signature = _openssl("dgst", "-sha256", "-sign", str(key), given=signed.encode())
    path = folder / "jwks.json"
    path.write_text(jwks)
    return Token(f"{signed}.{_base64(signature)}", jwks, str(path))


def _openssl(*arguments, given=None):
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, input=given, timeout=60).stdout


def _base64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
