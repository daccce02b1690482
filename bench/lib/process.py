"""Starts, watches and ends the processes of a run; picks free ports and the two cores."""

import os
import signal
import socket
import subprocess
import time

from . import procfs


class BenchError(Exception):
    """Something went wrong with one peer or with the run; the message is for the reader."""


def pick_cores():
    """Returns (proxy core, load core): the first and the last this process may use."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("the harness needs two cores: one for the proxy, one for the load")
    return cores[0], cores[-1]


def free_port():
    """Returns a port that was free a moment ago on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pin_to(core):
    """Returns a function for `preexec_fn` that keeps the new process on one core."""
    return lambda: os.sched_setaffinity(0, {core})


class Server:
    """One long-running process (and its children), pinned to a core, output in a log file."""

    def __init__(self, command, core, log):
        self.command = command
        self.log = log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=pin_to(core),
            )

    def wait_for_port(self, port, seconds=15):
        """Returns once the port accepts connections; raises if the process ends or time runs out."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise BenchError(f"{self.command[0]} ended at start: {self.last_words()}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise BenchError(f"{self.command[0]} did not open port {port} in {seconds} s: {self.last_words()}")

    def last_words(self):
        """Returns the end of the log, for an error message."""
        with open(self.log, errors="replace") as text:
            return text.read()[-600:].strip() or "(nothing in its log)"

    def stop(self):
        """Ends the process by its own id, politely first, and then any child it left behind."""
        family = procfs.tree(self.child.pid)
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait(timeout=5)
        for pid, started in family.items():
            if procfs.start_time(pid) == started:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
