"""Measures what a message between the proxy core and the load core costs at this moment.

On a virtual machine the host may move the two cores nearer together or further apart at any time.
That alone can double the CPU time of every proxy. So each sample carries this figure, and only
samples with a like figure are compared.
"""

import multiprocessing
import os
import select
import socket
import time

PAIRS = 64
SECONDS = 0.2
MESSAGE = b"x" * 128


def message_us(proxy_core, load_core):
    """Returns CPU microseconds a message, echoed over 64 loopback connections between the cores."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(PAIRS)
        near, far = [], []
        for _ in range(PAIRS):
            near.append(socket.create_connection(listener.getsockname(), timeout=10))
            far.append(listener.accept()[0])
    fork = multiprocessing.get_context("fork")
    echo = fork.Process(target=_echo, args=(near, far, proxy_core), daemon=True)
    echo.start()
    for connection in far:
        connection.close()
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {load_core})
    try:
        return _count(near)
    finally:
        os.sched_setaffinity(0, allowed)
        for connection in near:
            connection.close()
        echo.join(5)
        if echo.is_alive():
            echo.kill()


def _echo(near, far, core):
    """The child: sends every message back until the connections close."""
    os.sched_setaffinity(0, {core})
    for connection in near:
        connection.close()
    poll, by_number = _watch(far)
    while by_number:
        for number, _ in poll.poll(10):
            try:
                message = by_number[number].recv(len(MESSAGE))
                if message:
                    by_number[number].send(message)
                    continue
            except OSError:
                pass
            poll.unregister(number)
            by_number.pop(number).close()


def _count(connections):
    poll, by_number = _watch(connections)
    for connection in connections:
        connection.send(MESSAGE)
    messages, cpu, begin = 0, time.process_time(), time.monotonic()
    while time.monotonic() < begin + SECONDS:
        for number, _ in poll.poll(1):
            by_number[number].recv(len(MESSAGE))
            by_number[number].send(MESSAGE)
            messages += 1
    return (time.process_time() - cpu) / max(messages, 1) * 1e6


def _watch(connections):
    poll, by_number = select.epoll(), {}
    for connection in connections:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(connection.fileno(), select.EPOLLIN)
        by_number[connection.fileno()] = connection
    return poll, by_number
