"""Reads CPU time and memory of a process and all its descendants from /proc."""

import os

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def _stat(pid):
    """Returns the fields of /proc/PID/stat after the command name, or None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def start_time(pid):
    """Returns when the process started, in ticks since boot, or None if it is gone or a zombie."""
    fields = _stat(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])


def tree(root):
    """Returns {pid: start time} of the process and all its descendants."""
    children = {}
    for entry in os.listdir("/proc"):
        fields = _stat(entry) if entry.isdigit() else None
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = {}, [root]
    while todo:
        pid = todo.pop()
        started = start_time(pid)
        if started is not None:
            found[pid] = started
        todo.extend(children.get(pid, []))
    return found


def cpu_seconds(roots):
    """Returns {pid: user + system seconds} for the trees under all the given processes."""
    result = {}
    for root in roots:
        for pid in tree(root):
            fields = _stat(pid)
            if fields is not None:
                result[pid] = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return result


def pss_bytes(roots):
    """Returns the proportional set size (PSS) of the trees under all the given processes."""
    total = 0
    for root in roots:
        for pid in tree(root):
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                for line in rollup:
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
    return total
