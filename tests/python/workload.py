"""The socket for applications, the CA, and Envoy's secrets, as clients that others have written see them.

    workload.py fetch SOCKET DIR        py-spiffe: certificate, tokens and bundles; the chain goes to DIR
    workload.py watch SOCKET READY      py-spiffe: until a second root and another certificate have come
    workload.py codes SOCKET            grpcio: what callers who do wrong are told
    workload.py as UID SOCKET           grpcio: what this user is told
    workload.py create ADDRESS DIR      grpcio: CreateCertificate with stubs of the public proto
    workload.py partner DIR             makes another trust domain: its bundle, and a token
    workload.py foreign SOCKET DIR      what is said of that domain, and of lists of what was revoked
    workload.py secrets SOCKET          grpcio: an Envoy's secrets, with stubs of the proto

Prints what is told as JSON, or fails.
"""

import base64
import datetime
import importlib
import json
import os
import pathlib
import sys
import tempfile
import threading

import grpc
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from spiffe import JwtSvid, TrustDomain, WorkloadApiClient

PATIENCE = 30
DAY = datetime.timedelta(days=1)
DOMAIN = TrustDomain("shop.local")
PROTOS = pathlib.Path(__file__).parents[2] / "proxy/contract/proto"


def stubs(proto):
    from grpc_tools import protoc

    out = tempfile.mkdtemp()
    well_known = str(pathlib.Path(protoc.__file__).parent / "_proto")
    arguments = [f"-I{PROTOS}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}"]
    assert protoc.main(["", *arguments, f"{proto}.proto"]) == 0
    sys.path.insert(0, out)
    return importlib.import_module(f"{proto}_pb2"), importlib.import_module(f"{proto}_pb2_grpc")


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def public(key):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.DER, form)


def fetch(socket, directory):
    directory = pathlib.Path(directory)
    with WorkloadApiClient("unix://" + socket) as client:
        svid = client.fetch_x509_svid(timeout=PATIENCE)
        again = client.fetch_x509_svid(timeout=PATIENCE)
        assert svid.leaf == again.leaf, "one certificate for all who ask"
        assert public(svid.private_key.public_key()) == public(svid.leaf.public_key())
        context = client.fetch_x509_context(timeout=PATIENCE)
        roots = client.fetch_x509_bundles(timeout=PATIENCE).get_bundle_for_trust_domain(DOMAIN)
        own = context.x509_bundle_set.get_bundle_for_trust_domain(DOMAIN)
        assert own.x509_authorities == roots.x509_authorities
        token = client.fetch_jwt_svid({"billing"}, timeout=PATIENCE)
        same = client.fetch_jwt_svid({"billing"}, timeout=PATIENCE)
        assert token.token == same.token, "kept for half of its life"
        other = client.fetch_jwt_svid({"billing", "audit"}, timeout=PATIENCE)
        assert other.token != token.token and other.audience == {"billing", "audit"}
        keys = client.fetch_jwt_bundles(timeout=PATIENCE)
        bundle = keys.get_bundle_for_trust_domain(DOMAIN)
        # Here by the bundle, there by the sidecar.
        here = JwtSvid.parse_and_validate(token.token, bundle, {"billing"})
        there = client.validate_jwt_svid(token.token, "billing", timeout=PATIENCE)
        assert here.spiffe_id == there.spiffe_id == token.spiffe_id
    (directory / "leaf.pem").write_bytes(pem(svid.cert_chain[0]))
    (directory / "rest.pem").write_bytes(b"".join(map(pem, svid.cert_chain[1:])))
    (directory / "roots.pem").write_bytes(b"".join(map(pem, roots.x509_authorities)))
    return {
        "id": str(svid.spiffe_id),
        "token": token.token,
        "subject": str(token.spiffe_id),
        "roots": len(roots.x509_authorities),
        "keys": len(bundle.jwt_authorities),
        "serial": svid.leaf.serial_number.to_bytes(20, "big").hex()[-32:],
    }


def watch(socket, ready):
    told, wrong, serials, seen = threading.Event(), [], set(), {}

    def look():
        if seen.get("roots") == 1 and seen.get("keys") == 1:
            pathlib.Path(ready).touch()
        if seen.get("roots") == 2 and seen.get("keys") == 2 and len(serials) > 1:
            told.set()

    def certificates(context):
        serials.add(context.default_svid.leaf.serial_number)
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(DOMAIN)
        seen["roots"] = len(bundle.x509_authorities)
        look()

    def keys(bundles):
        seen["keys"] = len(bundles.get_bundle_for_trust_domain(DOMAIN).jwt_authorities)
        look()

    with WorkloadApiClient("unix://" + socket) as client:
        streams = [
            client.stream_x509_contexts(certificates, wrong.append, retry_connect=False),
            client.stream_jwt_bundles(keys, wrong.append, retry_connect=False),
        ]
        assert told.wait(PATIENCE), (seen, serials, wrong)
        for stream in streams:
            stream.cancel()
    assert not wrong, wrong
    return {"certificates": len(serials)}


def call(channel, method, message=b"", metadata=(("workload.spiffe.io", "true"),), stream=True):
    kind = channel.unary_stream if stream else channel.unary_unary
    plain = lambda data: data
    made = kind(method, request_serializer=plain, response_deserializer=plain)
    try:
        answer = made(message, metadata=metadata, timeout=PATIENCE)
        if stream:
            next(answer)
            answer.cancel()
        return "OK"
    except grpc.RpcError as error:
        return error.code().name


def codes(socket):
    api = "/SpiffeWorkloadAPI/"
    with grpc.insecure_channel("unix://" + socket) as channel:
        true = ("workload.spiffe.io", "true")
        # Field 1, 17 audiences; one of 256 bytes; an empty one.
        many, long, empty = b"\n\x01a" * 17, b"\n\x80\x02" + b"a" * 256, b"\n\x00"
        jwt = lambda message: call(channel, api + "FetchJWTSVID", message, stream=False)
        valid = lambda message: call(channel, api + "ValidateJWTSVID", message, stream=False)
        return {
            "well": call(channel, api + "FetchX509SVID"),
            "no header": call(channel, api + "FetchX509SVID", metadata=()),
            "no header for tokens": call(channel, api + "FetchJWTSVID", metadata=(), stream=False),
            "false": call(channel, api + "FetchX509SVID", metadata=(("workload.spiffe.io", "false"),)),
            "twice": call(channel, api + "FetchX509SVID", metadata=(true, true)),
            "WIT": call(channel, api + "FetchWITSVID"),
            "WIT bundles": call(channel, api + "FetchWITBundles"),
            "no such service": call(channel, "/other.Service/Call"),
            "no audience": jwt(b""),
            "many audiences": jwt(many),
            "long audience": jwt(long),
            "empty audience": jwt(empty),
            "another's": jwt(b"\n\x01a\x12\x15spiffe://shop.local/x"),
            "damaged": jwt(b"\n\xff\xff\xff\xff"),
            "too large": jwt(b"\n\x81\x80\x04" + b"a" * 65537),
            "no token": valid(b"\n\x01a"),
            "no token at all": valid(b"\n\x01a\x12\x05a.b.c"),
        }


def as_user(uid, socket):
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    with grpc.insecure_channel("unix://" + socket) as channel:
        secrets = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets"
        return {
            "workload": call(channel, "/SpiffeWorkloadAPI/FetchX509Bundles"),
            "secrets": call(channel, secrets, stream=False),
        }


def create(address, directory):
    directory = pathlib.Path(directory)
    messages, services = stubs("istio_ca")
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    roots = (directory / "roots.pem").read_bytes()
    token = (directory / "token").read_text()
    credentials = grpc.ssl_channel_credentials(root_certificates=roots)
    with grpc.secure_channel(address, credentials) as channel:
        stub = services.IstioCertificateServiceStub(channel)
        request = messages.IstioCertificateRequest(csr=pem(csr).decode(), validity_duration=3600)
        metadata = [("authorization", "Bearer " + token)]
        answer = stub.CreateCertificate(request, metadata=metadata, timeout=PATIENCE)
    leaf, *rest, last = answer.cert_chain
    read = x509.load_pem_x509_certificate(leaf.encode())
    assert public(read.public_key()) == public(key.public_key())
    (directory / "leaf.pem").write_text(leaf)
    (directory / "rest.pem").write_text("".join(rest))
    (directory / "roots.pem").write_text(last)
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {"id": names.get_values_for_type(x509.UniformResourceIdentifier)}


def partner(directory):
    directory = pathlib.Path(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "partner")])
    root = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + DAY)
    root = root.add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256())
    der = root.public_bytes(serialization.Encoding.DER)
    jwk = json.loads(ECAlgorithm.to_jwk(key.public_key()))
    keys = [
        {**jwk, "use": "x509-svid", "x5c": [base64.b64encode(der).decode()]},
        {**jwk, "use": "jwt-svid", "kid": "partner"},
    ]
    (directory / "partner.json").write_text(json.dumps({"keys": keys}))
    claims = {"sub": "spiffe://partner.example/a", "aud": "billing", "exp": now + DAY, "tier": [7]}
    token = jwt.encode(claims, key, "ES256", headers={"kid": "partner"})
    # The same key, for somebody of another domain: it may not vouch for them.
    claims["sub"] = "spiffe://shop.local/a"
    forged = jwt.encode(claims, key, "ES256", headers={"kid": "partner"})
    (directory / "tokens.json").write_text(json.dumps([token, forged]))
    return {}


def foreign(socket, directory):
    token, forged = json.loads((pathlib.Path(directory) / "tokens.json").read_text())
    domain = TrustDomain("partner.example")
    with WorkloadApiClient("unix://" + socket) as client:
        roots = client.fetch_x509_bundles(timeout=PATIENCE).get_bundle_for_trust_domain(domain)
        context = client.fetch_x509_context(timeout=PATIENCE)
        assert context.x509_bundle_set.get_bundle_for_trust_domain(domain) == roots
        bundle = client.fetch_jwt_bundles(timeout=PATIENCE).get_bundle_for_trust_domain(domain)
        svid = client.validate_jwt_svid(token, "billing", timeout=PATIENCE)
    from spiffe._proto import workload_pb2 as messages, workload_pb2_grpc as services

    metadata = [("workload.spiffe.io", "true")]
    with grpc.insecure_channel("unix://" + socket) as channel:
        stub = services.SpiffeWorkloadAPIStub(channel)
        answer = next(stub.FetchX509SVID(messages.X509SVIDRequest(), metadata=metadata, timeout=PATIENCE))
        lists = [x509.load_der_x509_crl(one) for one in answer.crl]
        asked = messages.ValidateJWTSVIDRequest(audience="billing", svid=token)
        claims = stub.ValidateJWTSVID(asked, metadata=metadata, timeout=PATIENCE).claims

        def refused(audience, svid):
            asked = messages.ValidateJWTSVIDRequest(audience=audience, svid=svid)
            try:
                stub.ValidateJWTSVID(asked, metadata=metadata, timeout=PATIENCE)
                return "OK"
            except grpc.RpcError as error:
                return error.details()

        return {
            "roots": len(roots.x509_authorities),
            "keys": list(bundle.jwt_authorities),
            "id": str(svid.spiffe_id),
            "tier": list(claims["tier"]),
            "lists": len(lists),
            "forged": refused("billing", forged),
            "other audience": refused("audit", token),
            "damaged": refused("billing", token[:-4] + "AAAA"),
        }


def secrets(socket):
    messages, services = stubs("envoy_secrets")
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

    def read(answer):
        assert answer.type_url == kind
        found = {}
        for resource in answer.resources:
            assert resource.type_url == kind
            secret = messages.Secret.FromString(resource.value)
            found[secret.name] = secret
        return found

    ask = lambda names, **more: messages.DiscoveryRequest(resource_names=names, type_url=kind, **more)
    says, more = [], threading.Condition()

    def say(message):
        with more:
            says.append(message)
            more.notify()

    def requests():
        while True:
            with more:
                more.wait_for(lambda: says)
                message = says.pop(0)
            if message is None:
                return
            yield message

    with grpc.insecure_channel("unix://" + socket) as channel:
        stub = services.SecretDiscoveryServiceStub(channel)
        answers = stub.StreamSecrets(requests(), timeout=PATIENCE)
        say(ask(["default", "ROOTCA"]))
        first = next(answers)
        given = read(first)
        chain = given["default"].tls_certificate.certificate_chain.inline_bytes
        leaf = x509.load_pem_x509_certificates(chain)[0]
        key = given["default"].tls_certificate.private_key.inline_bytes
        key = serialization.load_pem_private_key(key, None)
        assert public(key.public_key()) == public(leaf.public_key())
        roots = given["ROOTCA"].validation_context.trusted_ca.inline_bytes
        x509.load_pem_x509_certificates(roots)
        # Well, and not well: neither is answered. Other names are.
        say(ask(["default", "ROOTCA"], version_info=first.version_info, response_nonce=first.nonce))
        refused = messages.Status(code=3, message="refused by the test")
        say(ask(["default", "ROOTCA"], response_nonce=first.nonce, error_detail=refused))
        say(ask(["ALL"], response_nonce="of another stream"))
        say(ask(["ALL", "spiffe://shop.local", "nobody"], response_nonce=first.nonce))
        second = next(answers)
        assert second.nonce != first.nonce and second.version_info != first.version_info
        given = read(second)
        assert sorted(given) == ["ALL", "spiffe://shop.local"]
        validator = given["ALL"].validation_context.custom_validator_config
        assert validator.name == "envoy.tls.cert_validator.spiffe"
        config = messages.SPIFFECertValidatorConfig.FromString(validator.typed_config.value)
        [domain] = config.trust_domains
        assert domain.name == "shop.local" and domain.trust_bundle.inline_bytes == roots
        # Certificates are renewed meanwhile: this one comes by itself.
        say(ask(["default"], response_nonce=second.nonce))
        serials = set()
        while len(serials) < 2:
            answer = next(answers)
            chain = read(answer)["default"].tls_certificate.certificate_chain.inline_bytes
            serials.add(x509.load_pem_x509_certificates(chain)[0].serial_number)
            say(ask(["default"], response_nonce=answer.nonce))
        say(None)
        answers.cancel()
        once = stub.FetchSecrets(ask(["ROOTCA"]), timeout=PATIENCE)
        assert read(once)["ROOTCA"].validation_context.trusted_ca.inline_bytes == roots
        wrong = stub.StreamSecrets(iter([messages.DiscoveryRequest(type_url="other")]), timeout=PATIENCE)
        try:
            next(wrong)
            code = "OK"
        except grpc.RpcError as error:
            code = error.code().name
    return {"names": sorted(given), "other type": code}


COMMANDS = {
    "fetch": fetch,
    "watch": watch,
    "codes": codes,
    "as": as_user,
    "create": create,
    "partner": partner,
    "foreign": foreign,
    "secrets": secrets,
}

if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
