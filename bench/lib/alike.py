"""Picks the samples that were taken while the machine was alike, so that they may be compared."""

STEADY = 1.25  # a sample is steady if the probes before and after it differ by less than this
ALIKE = 1.4  # samples are alike if their probes differ by less than this


def pick(samples):
    """Returns ({peer: samples to compare}, how few of them the poorest peer has).

    `samples` is {peer: [samples]}. If no state of the machine holds a sample of every peer,
    all samples are returned, and 0.
    """
    steady = {name: [one for one in got if _steady(one)] for name, got in samples.items()}
    best, fewest = samples, 0
    for lowest in sorted(one["probe_us"] for got in steady.values() for one in got):
        state = {name: [one for one in got if lowest <= one["probe_us"] < ALIKE * lowest]
                 for name, got in steady.items()}
        poorest = min(len(got) for got in state.values())
        if poorest > fewest:
            best, fewest = state, poorest
    return best, fewest


def _steady(sample):
    before, after = sample["probes_us"]
    return max(before, after) < STEADY * min(before, after)
