"""Turns the samples of a run into medians and ratios, and those into JSON and Markdown."""

import json
import platform
import statistics

from . import alike

FIGURES = ("cpu_us", "requests_per_second", "p50_us", "p99_us", "pss_bytes", "probe_us")
UNDER_TEST = "selvedge"
BARE = "selvedge-bare"


def summary(samples):
    """Returns the medians of the samples that may be compared, the best peer, and the ratios."""
    compared, fewest = alike.pick(samples)
    medians = {name: {figure: _median(got, figure) for figure in FIGURES} for name, got in compared.items()}
    rivals = {name: row["cpu_us"] for name, row in medians.items() if not name.startswith(UNDER_TEST)}
    best = min(rivals, key=rivals.get) if rivals else None
    for name, row in medians.items():
        row["ratio_to_best_peer"] = row["cpu_us"] / rivals[best] if best else None
        row["samples"] = len(compared[name])
    return {
        "best_peer": best,
        "selvedge_ratio": medians.get(UNDER_TEST, {}).get("ratio_to_best_peer"),
        "bare_ratio": _bare(medians),
        "machine_alike": fewest > 0,
        "medians": medians,
    }


def _bare(medians):
    """What the policies cost: the ratio to the same route without them, where that was measured."""
    rows = [medians.get(name) for name in (UNDER_TEST, BARE)]
    return rows[0]["cpu_us"] / rows[1]["cpu_us"] if all(rows) else None


def _median(samples, figure):
    values = [sample[figure] for sample in samples if sample[figure] is not None]
    return statistics.median(values) if values else None


def host():
    """Returns what the reader must know about the machine."""
    model = "unknown"
    with open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {"cpu": model, "kernel": platform.release(), "architecture": platform.machine()}


def to_json(run):
    return json.dumps(run, indent=2) + "\n"


def to_markdown(run):
    """Returns the report: how it was run, then one table for each scenario."""
    machine, settings = run["host"], run["settings"]
    lines = [
        f"# Benchmark of {run['started']}",
        "",
        f"- CPU: {machine['cpu']}, proxy on core {settings['proxy_core']}, "
        f"load and backend on core {settings['load_core']}",
        f"- Kernel: {machine['kernel']}",
        f"- Load average: {machine['load_average_before']:.2f} before the run",
        f"- Median of {settings['rounds']} or more interleaved rounds of {settings['seconds']} s",
    ]
    lines += [f"- {name}: {version}" for name, version in run["versions"].items()]
    lines += [f"- Skipped: {name}: {why}" for name, why in run["skipped"].items()]
    lines += [f"- **FAILED**: {one['scenario']}, {one['peer']}: {_one_line(one['why'])}" for one in run["failed"]]
    for scenario in run["scenarios"]:
        lines += ["", *_table(scenario)]
    return "\n".join(lines) + "\n"


def _table(scenario):
    lines = [
        f"## {scenario['name']}",
        "",
        scenario["about"] + ".",
        "",
        "| peer | CPU µs/request | ratio to best peer | requests/s | p50 ms | p99 ms | PSS MiB | samples | probe µs |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in scenario["medians"].items():
        cells = [
            _number(row["cpu_us"], 1, 1),
            _number(row["ratio_to_best_peer"], 1, 2),
            _number(row["requests_per_second"], 1, 0),
            _number(row["p50_us"], 1000, 2),
            _number(row["p99_us"], 1000, 2),
            _number(row["pss_bytes"], 1024 * 1024, 1),
            str(row["samples"]),
            _number(row["probe_us"], 1, 1),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    ratio = scenario["selvedge_ratio"]
    if ratio is not None:
        lines += ["", f"Selvedge / {scenario['best_peer']}: **{ratio:.2f}** of the CPU a request."]
    if scenario["bare_ratio"] is not None:
        lines += ["", f"Selvedge / the same route without its policies: **{scenario['bare_ratio']:.2f}**."]
    if not scenario["machine_alike"]:
        lines += ["", "**Not comparable**: the machine changed too often (see the probe). Measure again."]
    if scenario["notes"]:
        lines += ["", "; ".join(f"{name} {note}" for name, note in scenario["notes"].items()) + "."]
    return lines


def _number(value, unit, digits):
    return "-" if value is None else f"{value / unit:.{digits}f}"


def _one_line(text):
    return " ".join(text.split())
