"""Makes the test certificates of a run with the openssl command: a CA and three leaves."""

import subprocess
from dataclasses import dataclass

from .process import BenchError

TRUST_DOMAIN = "bench.local"
WEB_ID = f"spiffe://{TRUST_DOMAIN}/ns/bench/sa/web"
ORDERS_ID = f"spiffe://{TRUST_DOMAIN}/ns/bench/sa/orders"


@dataclass
class Leaf:
    """The files of one leaf certificate."""

    certificate: str
    key: str
    both: str  # certificate and key in one file, as HAProxy wants it


@dataclass
class Certificates:
    """All certificates of a run; every key is P-256."""

    ca: str
    server: Leaf  # for localhost, shown to clients
    web: Leaf  # identity of the calling side of the pair
    orders: Leaf  # identity of the called side of the pair


def make(folder):
    """Writes the CA and the leaves into the folder and returns where they are."""
    ca = folder / "ca.pem"
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", folder / "ca.key", "-out", ca, "-days", "2", "-subj", "/CN=bench CA",
        "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )
    return Certificates(
        ca=str(ca),
        server=_leaf(folder, "server", "DNS:localhost,IP:127.0.0.1", "serverAuth"),
        # The DNS name is there for nginx and HAProxy: they check names, not URIs.
        web=_leaf(folder, "web", f"URI:{WEB_ID},DNS:web", "serverAuth,clientAuth"),
        orders=_leaf(folder, "orders", f"URI:{ORDERS_ID},DNS:orders", "serverAuth,clientAuth"),
    )


def _leaf(folder, name, subject_alternative_names, usage):
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    extensions.write_text(
        "basicConstraints=critical,CA:FALSE\n"
        "keyUsage=critical,digitalSignature\n"
        f"extendedKeyUsage={usage}\n"
        f"subjectAltName={subject_alternative_names}\n"
        "authorityKeyIdentifier=keyid\n"
    )
    _openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", key, "-out", request, "-subj", f"/CN={name}",
    )
    _openssl(
        "x509", "-req", "-in", request, "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
        "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", certificate,
    )
    both = folder / f"{name}.both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    return Leaf(str(certificate), str(key), str(both))


def _openssl(*arguments):
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise BenchError(f"openssl {arguments[0]} failed: {done.stderr.strip()[-400:]}")
