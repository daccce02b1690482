"""Checks, before anything is measured, that a peer answers as the scenario expects."""

import http.client
import socket
import ssl

from . import load
from .process import BenchError


def answers(scenario, port, ca, token=None):
    """Sends one request by hand and raises unless it is answered with 200 and the whole body."""
    if scenario.tls:
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection("localhost", port, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection("localhost", port, timeout=10)
    try:
        connection.request("GET", scenario.path, headers=load.headers(scenario, token))
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"the first request failed: {error!r}") from None
    finally:
        connection.close()
    if answer.status != 200 or len(body) != scenario.body:
        raise BenchError(f"the first request got status {answer.status} and {len(body)} bytes, "
                         f"not 200 and {scenario.body}")


def refuses(scenario, port):
    """Raises unless a request without the token is answered with 401."""
    connection = http.client.HTTPConnection("localhost", port, timeout=10)
    try:
        connection.request("GET", scenario.path)
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != 401:
        raise BenchError(f"a request without a token got status {status}, not 401")


def resumes(port, ca):
    """Says whether a second TLS connection may resume the session of the first."""
    context = ssl.create_default_context(cafile=ca)
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    session = None
    for _ in range(2):
        with socket.create_connection(("localhost", port), timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as tls:
                tls.sendall(request)
                while tls.recv(65536):
                    pass
                session = tls.session
                resumed = tls.session_reused
    return bool(resumed)


def generator(scenario):
    """Says what is missing to drive the scenario, or None."""
    return None if load.installed(scenario) else f"`{load.needs(scenario)}` is not in PATH"
