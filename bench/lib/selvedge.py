"""Selvedge as a peer: the gateway for one proxy, two sidecars for the pair."""

import os

from .certs import ORDERS_ID, TRUST_DOMAIN
from .peers import Peer

# Every peer keeps its connections for the whole run; so does this one.
NO_ADMIN = """admin: { bind: "off", health: "off" }
limits: { requestsPerConnection: 4000000000 }"""


class Selvedge(Peer):
    """The binary under test, one worker, everything else as it comes by default."""

    name = "selvedge"
    binary = "selvedge"

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

    def _gateway(self, listener, setting):
        return f"""listeners: [{listener}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: ["127.0.0.1:{setting.backend}"] }} }}
{NO_ADMIN}
"""

    def _identity(self, certificates, leaf):
        return (f"identity: {{ trustDomain: {TRUST_DOMAIN}, bundle: {certificates.ca}, "
                f"certificate: {leaf.certificate}, key: {leaf.key} }}")
