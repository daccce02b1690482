"""The scenarios: what is asked of each proxy, by which load generator, over how many connections."""

from dataclasses import dataclass

SMALL_BODY = 128
LARGE_BODY = 1024 * 1024


@dataclass(frozen=True)
class Scenario:
    """One kind of load. `shape` says how the proxy is set up: plain, tls, pair,
    gateway (a token, a limit, header edits, compression) or cached."""

    name: str
    about: str
    shape: str
    generator: str = "wrk"  # wrk, h2load, or handshakes
    connections: int = 64
    streams: int = 1
    path: str = "/"
    body: int = SMALL_BODY
    close: bool = False  # a new connection for each request
    host: str | None = None  # Host header, where it is not the address
    token: bool = False  # with a bearer token
    bare: bool = False  # Selvedge once more, without what its shape adds

    @property
    def tls(self):
        return self.shape == "tls"


ALL = [
    Scenario("h1", "HTTP/1.1 keep-alive, 64 connections", "plain"),
    Scenario("tls", "HTTP/1.1 keep-alive over TLS 1.3, 64 connections", "tls"),
    Scenario("h2", "HTTP/2 over TLS 1.3, 8 connections x 32 streams, to an HTTP/1.1 backend",
             "tls", generator="h2load", connections=8, streams=32),
    Scenario("pair", "HTTP/1.1 client, proxy, mutual TLS, proxy, HTTP/1.1 backend, 64 connections; "
             "both proxies added", "pair", host="orders"),
    Scenario("body", "1 MiB response bodies, HTTP/1.1 keep-alive, 16 connections", "plain",
             connections=16, path="/large", body=LARGE_BODY),
    Scenario("connection", "a new connection for each request, 64 at a time", "plain", close=True),
    Scenario("tls-connection", "a new TLS 1.3 connection for each request, full handshake, "
             "256 at a time", "tls", generator="handshakes", connections=256, close=True),
    Scenario("tls-resumed", "a new TLS 1.3 connection for each request, session resumed where the "
             "proxy allows it, 64 at a time", "tls", close=True),
    Scenario("gateway", "HTTP/1.1 keep-alive, 64 connections, with a JSON Web Token, a limit by its "
             "subject, header edits, compression allowed", "gateway", token=True, bare=True),
    Scenario("cache", "HTTP/1.1 keep-alive, 64 connections, every answer from the proxy's cache",
             "cached"),
]
BY_NAME = {scenario.name: scenario for scenario in ALL}
