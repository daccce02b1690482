"""Selvedge as a peer: the gateway for one proxy, two sidecars for the pair."""

import os

from .certs import ORDERS_ID, TRUST_DOMAIN
from .peers import Peer
from .token import AUDIENCE, ISSUER

# Every peer keeps its connections for the whole run; so does this one.
NO_ADMIN = """admin: { bind: "off", health: "off" }
limits: { requestsPerConnection: 4000000000 }"""


class Selvedge(Peer):
    """The binary under test, one worker, everything else as it comes by default."""

    name = "selvedge"
    binary = "selvedge"
    shapes = ("plain", "tls", "pair", "gateway", "cached")

    def find(self):
        return os.path.abspath(self.given) if os.access(self.given, os.X_OK) else None

    def missing(self):
        return f"there is no binary at {os.path.relpath(self.given)} (build it, or give --selvedge PATH)"

    def plain(self, setting, port):
        return self._gateway(f"{{ name: web, bind: 127.0.0.1, port: {port} }}", setting)

    def tls(self, setting, port):
        leaf = setting.certificates.server
        listener = (f"{{ name: web, bind: 127.0.0.1, port: {port}, protocol: HTTPS, tls: {{ certificates: "
                    f"[{{ certificate: {leaf.certificate}, key: {leaf.key} }}] }} }}")
        return self._gateway(listener, setting)

    def gateway(self, setting, port):
        policies = f"""policies:
  users: {{ jwt: {{ issuer: "{ISSUER}", audiences: [{AUDIENCE}], jwks: {setting.token.file},
                   claimsToHeaders: [{{ claim: sub, header: X-User }}] }} }}
  each: {{ rateLimit: {{ key: jwt.sub, rate: 10000000/s }} }}
  edits: {{ headers: {{ request: {{ set: [{{ name: X-Gateway, value: bench }}], remove: [X-Debug] }},
                      response: {{ set: [{{ name: X-Served-By, value: bench }}], remove: [X-Powered-By] }} }} }}
  small: {{ compression: {{}} }}
"""
        listener = f"{{ name: web, bind: 127.0.0.1, port: {port} }}"
        return policies + self._gateway(listener, setting, "policies: [users, each, edits, small], ")

    def cached(self, setting, port):
        listener = f"{{ name: web, bind: 127.0.0.1, port: {port} }}"
        return 'policies: { kept: { cache: { ttl: 1h } } }\n' + self._gateway(listener, setting, "policies: [kept], ")

    def calling(self, setting, port, inner):
        return f"""{self._identity(setting.certificates, setting.certificates.web)}
outbound: {{ bind: "127.0.0.1:{port}" }}
services: {{ orders: {{ endpoints: ["127.0.0.1:{inner}"], mesh: {{ identity: "{ORDERS_ID}" }} }} }}
{NO_ADMIN}
"""

    def called(self, setting, inner):
        return f"""{self._identity(setting.certificates, setting.certificates.orders)}
inbound: [{{ bind: 127.0.0.1, port: {inner}, app: "127.0.0.1:{setting.backend}", mtls: strict }}]
{NO_ADMIN}
"""

    def command(self, folder, role, config):
        path = folder / f"{role}.yaml"
        path.write_text(config)
        mode = "sidecar" if role in ("calling", "called") else "gateway"
        return [self.find(), mode, "--config", str(path), "--workers", "1"]

    def _gateway(self, listener, setting, more=""):
        return f"""listeners: [{listener}]
routes: [{{ rules: [{{ {more}backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: ["127.0.0.1:{setting.backend}"] }} }}
{NO_ADMIN}
"""

    def _identity(self, certificates, leaf):
        return (f"identity: {{ trustDomain: {TRUST_DOMAIN}, bundle: {certificates.ca}, "
                f"certificate: {leaf.certificate}, key: {leaf.key} }}")


class SelvedgeBare(Selvedge):
    """The same binary and the same route without policies: what those cost is the difference."""

    name = "selvedge-bare"
    shapes = ("gateway",)
    bare = True

    def gateway(self, setting, port):
        return self.plain(setting, port)
