"""What every peer has in common: where its binary is, how it is started, how it is stopped."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .certs import Certificates
from .process import Server, free_port
from .token import Token


@dataclass
class Setting:
    """What a peer is given: a folder of its own, the backend's port, certificates, its core."""

    folder: Path
    backend: int
    certificates: Certificates
    core: int
    token: Token


class Running:
    """A peer that is up: the port to load and its processes (two for the pair)."""

    def __init__(self):
        self.port = None
        self.servers = []

    @property
    def pids(self):
        return [server.child.pid for server in self.servers]

    def stop(self):
        for server in self.servers:
            server.stop()


class Peer:
    """One proxy. A subclass says how it is configured for each shape."""

    name = ""
    binary = ""
    environment = None  # a variable that may hold the path of the binary
    version_option = "--version"
    shapes = ("plain", "tls", "pair")  # what it takes part in
    bare = False  # Selvedge once more, only for comparison with itself

    def __init__(self, path=None):
        self.given = path

    def find(self):
        """Returns the path of the binary, or None if it is not installed."""
        wanted = self.given or os.environ.get(self.environment or "") or self.binary
        found = shutil.which(wanted)
        return os.path.abspath(found) if found else None

    def missing(self):
        """Says why the peer is skipped."""
        hint = f", nor named by the variable {self.environment}" if self.environment else ""
        return f"`{self.binary}` is not in PATH{hint}"

    def version(self):
        """Returns the first line that the binary says about its version."""
        try:
            done = subprocess.run([self.find(), self.version_option], capture_output=True, text=True,
                                  timeout=10)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"unknown ({error})"
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return lines[0].replace(self.find(), self.binary) if lines and done.returncode == 0 else "unknown"

    def start(self, shape, setting):
        """Starts the peer for one shape and returns it running."""
        running = Running()
        running.port = free_port()
        try:
            if shape == "pair":
                inner = free_port()
                self._launch(running, setting, "called", self.called(setting, inner), inner)
                self._launch(running, setting, "calling",
                             self.calling(setting, running.port, inner), running.port)
            else:
                config = getattr(self, shape)(setting, running.port)
                self._launch(running, setting, shape, config, running.port)
        except BaseException:
            running.stop()
            raise
        return running

    def _launch(self, running, setting, role, config, port):
        command = self.command(setting.folder, role, config)
        server = Server(command, setting.core, setting.folder / f"{role}.log")
        running.servers.append(server)
        server.wait_for_port(port)

    # For a subclass to fill in. Each returns a configuration.

    def plain(self, setting, port):
        """HTTP/1.1 in, HTTP/1.1 out."""
        raise NotImplementedError

    def tls(self, setting, port):
        """HTTP/1.1 and HTTP/2 over TLS 1.3 in, HTTP/1.1 out."""
        raise NotImplementedError

    def gateway(self, setting, port):
        """Plain, behind a token, a limit and header edits."""
        raise NotImplementedError

    def cached(self, setting, port):
        """Plain, with a cache."""
        raise NotImplementedError

    def calling(self, setting, port, inner):
        """First of the pair: HTTP/1.1 in, mutual TLS out to the port `inner`."""
        raise NotImplementedError

    def called(self, setting, inner):
        """Second of the pair: mutual TLS in on the port `inner`, HTTP/1.1 out."""
        raise NotImplementedError

    def command(self, folder, role, config):
        """Writes the configuration down and returns the command that starts it."""
        raise NotImplementedError


def all_peers(selvedge):
    """Returns the peers by name; `selvedge` is the path of its binary."""
    from .envoy import Envoy
    from .haproxy import HAProxy, HAProxyHTTP1
    from .nginx import Nginx
    from .selvedge import Selvedge, SelvedgeBare

    peers = [Nginx(), HAProxy(), HAProxyHTTP1(), Envoy(), SelvedgeBare(selvedge), Selvedge(selvedge)]
    return {peer.name: peer for peer in peers}
