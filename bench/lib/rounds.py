"""Runs one scenario: starts all peers, then measures them in turn, round after round."""

import sys

from . import alike, check, load, probe, procfs
from .peers import Setting
from .process import BenchError

PATIENCE = 3  # at most this many times the asked rounds, while the machine is changing


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(scenario, peers, stage, rounds, seconds):
    """Measures the scenario; returns ({peer: [samples]}, {peer: why it failed}, {peer: note})."""
    running, samples, failed, notes = {}, {}, {}, {}
    say(f"{scenario.name}: {scenario.about}")
    try:
        for name, peer in peers.items():
            if scenario.shape not in peer.shapes or (peer.bare and not scenario.bare):
                continue
            folder = stage.folder / f"{scenario.name}-{name}"
            folder.mkdir()
            try:
                running[name] = peer.start(
                    scenario.shape,
                    Setting(folder, stage.backend, stage.certificates, stage.proxy_core, stage.token))
                check.answers(scenario, running[name].port, stage.certificates.ca, stage.token)
                if scenario.token and not peer.bare:
                    check.refuses(scenario, running[name].port)
                if scenario.name == "tls-resumed":
                    resumed = check.resumes(running[name].port, stage.certificates.ca)
                    notes[name] = "resumes TLS sessions" if resumed else "does not resume TLS sessions"
                samples[name] = []
            except (BenchError, OSError) as error:
                _fail(failed, name, error)
        for number in range(PATIENCE * rounds):
            for name in _turned(list(samples), number):
                try:
                    sample = _measure(scenario, running[name], stage, seconds)
                except (BenchError, OSError) as error:
                    _fail(failed, name, error)
                    del samples[name]
                    continue
                samples[name].append(sample)
                say(f"  round {number + 1} {name}: {sample['cpu_us']:.1f} us CPU a request, "
                    f"{sample['requests_per_second']:.0f} requests/s, probe {sample['probe_us']:.1f} us")
            if not samples or alike.pick(samples)[1] >= rounds:
                break
    finally:
        for server in running.values():
            server.stop()
    return samples, failed, notes


def _turned(names, number):
    """Lets another peer go first in each round."""
    shift = number % len(names) if names else 0
    return names[shift:] + names[:shift]


def _fail(failed, name, error):
    failed[name] = str(error)
    say(f"  {name} FAILED: {error}")


def _measure(scenario, running, stage, seconds):
    """Warms the peer up, loads it, and returns one sample."""
    load.drive(scenario, running.port, 1, stage.load_core, stage.folder, stage.token)
    first_probe = probe.message_us(stage.proxy_core, stage.load_core)
    before = procfs.cpu_seconds(running.pids)
    seen = load.drive(scenario, running.port, seconds, stage.load_core, stage.folder, stage.token)
    after = procfs.cpu_seconds(running.pids)
    last_probe = probe.message_us(stage.proxy_core, stage.load_core)
    if set(before) - set(after):
        raise BenchError("a process of the proxy ended under load: " + running.servers[-1].last_words())
    cpu = sum(after.values()) - sum(before.values())
    return {
        "cpu_us": cpu / seen.requests * 1e6,
        "requests_per_second": seen.requests / seen.seconds,
        "p50_us": seen.p50,
        "p99_us": seen.p99,
        "pss_bytes": procfs.pss_bytes(running.pids),
        "requests": seen.requests,
        "seconds": seen.seconds,
        "cpu_seconds": cpu,
        "probe_us": (first_probe + last_probe) / 2,
        "probes_us": [first_probe, last_probe],
    }
