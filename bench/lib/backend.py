"""The backend of every scenario: one nginx worker that answers a small and a large body."""

from . import nginx, scenarios
from .process import Server, free_port


def start(folder, core):
    """Starts the backend on the load core; returns (server, port)."""
    files = folder / "files"
    files.mkdir()
    (files / "large").write_bytes(b"x" * scenarios.LARGE_BODY)
    port = free_port()
    server = f"""
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {files};
        default_type text/plain;
        sendfile on;
        tcp_nopush on;
        open_file_cache max=10;
        location = /large {{ }}
        location / {{ return 200 "{"x" * scenarios.SMALL_BODY}"; }}
    }}
"""
    process = Server(nginx.command(folder, "backend", server), core, folder / "backend.log")
    try:
        process.wait_for_port(port)
    except BaseException:
        process.stop()
        raise
    return process, port
