"""Drives wrk and h2load against one port and reads what they print."""

import re
import shutil
import subprocess
import time
from dataclasses import dataclass

from .process import BenchError, pin_to

MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


@dataclass
class Load:
    """What one run of a load generator saw. Latencies in microseconds, None if not measured."""

    requests: int
    seconds: float
    p50: float | None
    p99: float | None


def needs(scenario):
    """Returns the name of the program that the scenario is driven by."""
    return "wrk" if scenario.generator == "wrk" else "h2load"


def installed(scenario):
    return shutil.which(needs(scenario)) is not None


def headers(scenario, token):
    """Returns the fields that a scenario's requests have beside the ordinary ones."""
    fields = {"Host": scenario.host} if scenario.host else {}
    if scenario.token:
        fields["Authorization"] = f"Bearer {token.text}"
        fields["Accept-Encoding"] = "gzip, br, zstd"
    return fields


def drive(scenario, port, seconds, core, folder, token=None):
    """Loads the port for the given time from the load core; raises if any answer was not right."""
    run = {"wrk": _wrk, "h2load": _h2load, "handshakes": _handshakes}[scenario.generator]
    return run(scenario, port, seconds, core, folder, token)


def _run(command, core, seconds):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20,
                              stdin=subprocess.DEVNULL, preexec_fn=pin_to(core))
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]} did not end {seconds + 20} s after its start") from None
    if done.returncode != 0:
        raise BenchError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def _find(pattern, text, program):
    found = re.search(pattern, text)
    if not found:
        raise BenchError(f"cannot read what {program} printed:\n{text[-800:]}")
    return found


def _url(scenario, port):
    return f"{'https' if scenario.tls else 'http'}://localhost:{port}{scenario.path}"


def _wrk(scenario, port, seconds, core, folder, token):
    command = ["wrk", "-t1", f"-c{scenario.connections}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    if scenario.close:
        command += ["-H", "Connection: close"]
    for name, value in headers(scenario, token).items():
        command += ["-H", f"{name}: {value}"]
    text = _run(command + [_url(scenario, port)], core, seconds)
    return read_wrk(text)


def read_wrk(text):
    """Reads the output of `wrk --latency`."""
    for complaint in (r"Non-2xx or 3xx responses: \d+", r"Socket errors: .*"):
        wrong = re.search(complaint, text)
        if wrong:
            raise BenchError(wrong.group(0))
    total = _find(r"(\d+) requests in ([\d.]+)(us|ms|s|m)\b", text, "wrk")
    requests, seconds = int(total[1]), float(total[2]) * MICROSECONDS[total[3]] / 1e6
    if requests == 0:
        raise BenchError("no request was answered")

    def percentile(which):
        found = _find(rf"\s{which}%\s+([\d.]+)(us|ms|s|m)\b", text, "wrk")
        return float(found[1]) * MICROSECONDS[found[2]]

    return Load(requests, seconds, percentile(50), percentile(99))


def _h2load_command(scenario, port, more):
    return ["h2load", "-t1", f"-c{scenario.connections}", f"-m{scenario.streams}",
            f"--connect-to=127.0.0.1:{port}", *more, _url(scenario, port)]


def _h2load(scenario, port, seconds, core, folder, _):
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)
    command = _h2load_command(scenario, port, ["-D", str(seconds), f"--log-file={log}"])
    requests, elapsed = read_h2load(_run(command, core, seconds), "h2")
    durations = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    return Load(requests, elapsed, _rank(durations, 0.50), _rank(durations, 0.99))


def read_h2load(text, protocol):
    """Reads the output of h2load; returns (requests, seconds)."""
    spoken = _find(r"Application protocol: (\S+)", text, "h2load")[1]
    if spoken != protocol:
        raise BenchError(f"expected {protocol} and got {spoken}")
    counts = _find(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text, "h2load")
    codes = _find(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text, "h2load")
    if any(int(number) for number in (*counts.groups()[1:], *codes.groups()[1:])):
        raise BenchError(f"not all was answered with 2xx: {counts[0]}; {codes[0]}")
    if int(counts[1]) == 0:
        raise BenchError("no request was answered")
    elapsed = _find(r"finished in ([\d.]+)(us|ms|s|m)\b", text, "h2load")
    return int(counts[1]), float(elapsed[1]) * MICROSECONDS[elapsed[2]] / 1e6


def _rank(ordered, share):
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * share))])


def _handshakes(scenario, port, seconds, core, folder, _):
    """Runs h2load again and again, each time one request on each of its fresh connections.

    wrk resumes the TLS session when it reconnects; a fresh h2load has none to resume.
    Latency is left out: the request waits for the handshakes of all the other connections.
    """
    command = _h2load_command(scenario, port, ["--h1", f"-n{scenario.connections}", "-H", "Connection: close"])
    requests, begin = 0, time.monotonic()
    while time.monotonic() < begin + seconds:
        requests += read_h2load(_run(command, core, seconds), "http/1.1")[0]
    return Load(requests, time.monotonic() - begin, None, None)
