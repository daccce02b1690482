"""HAProxy as a peer."""

from .peers import Peer


class HAProxy(Peer):
    """HAProxy as its users set it up for speed: one thread, connections always reused, no log.

    The pair speaks HTTP/2 between the proxies: measured, that costs 0.6 of what HTTP/1.1 costs.
    """

    name = "haproxy"
    binary = "haproxy"
    version_option = "-v"
    hop = "h2"
    shapes = ("plain", "tls", "pair", "cached")

    def plain(self, setting, port):
        return self._proxy(f"bind 127.0.0.1:{port} backlog 4096", self._app(setting))

    def tls(self, setting, port):
        bind = self._bind_tls(port, setting.certificates.server) + " alpn h2,http/1.1"
        return self._proxy(bind, self._app(setting))

    def cached(self, setting, port):
        store = "cache kept\n    total-max-size 64\n    max-object-size 1000000\n    max-age 3600\n\n"
        use = "http-request cache-use kept\n    http-response cache-store kept\n"
        bind = f"bind 127.0.0.1:{port} backlog 4096"
        return self._proxy(bind, f"{use}    {self._app(setting)}", store)

    def calling(self, setting, port, inner):
        certificates = setting.certificates
        tls = (f"ssl verify required ca-file {certificates.ca} crt {certificates.web.both} "
               f"sni str(orders) verifyhost orders ssl-min-ver TLSv1.3 alpn {self.hop}")
        bind = f"bind 127.0.0.1:{port} backlog 4096"
        return self._proxy(bind, f"server app 127.0.0.1:{inner} {tls}")

    def called(self, setting, inner):
        certificates = setting.certificates
        bind = self._bind_tls(inner, certificates.orders)
        return self._proxy(f"{bind} ca-file {certificates.ca} verify required alpn {self.hop}", self._app(setting))

    def command(self, folder, role, config):
        path = folder / f"{role}.cfg"
        path.write_text(config)
        return [self.find(), "-db", "-q", "-f", str(path)]

    def _app(self, setting):
        return f"server app 127.0.0.1:{setting.backend}"

    def _bind_tls(self, port, leaf):
        return f"bind 127.0.0.1:{port} backlog 4096 ssl crt {leaf.both} ssl-min-ver TLSv1.3"

    def _proxy(self, bind, server, more=""):
        return f"""global
    nbthread 1
    maxconn 4096

defaults
    mode http
    option splice-response
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    timeout http-keep-alive 300s

{more}frontend front
    {bind}
    default_backend back

backend back
    http-reuse always
    {server} pool-max-conn 512 pool-purge-delay 300s
"""


class HAProxyHTTP1(HAProxy):
    """The pair with HTTP/1.1 between the proxies, as nginx has it: beside this the budget was set."""

    name = "haproxy-http1"
    hop = "http/1.1"
    shapes = ("pair",)
