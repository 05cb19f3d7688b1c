"""Drift: how far a distribution is from that of another day, by the population stability index.

PSI = sum over bins of (p - q) ln(p / q), p and q the shares of a bin then and now: the Jeffreys divergence of
the two histograms (Lewis, An Introduction to Credit Scoring, 1994; Siddiqi, Intelligent Credit Scoring,
2nd ed. 2017, chapter on monitoring). Below 0.1 little has changed, above 0.25 much: a rule of thumb, not a
test. If both are samples of one distribution, PSI / (1 / n + 1 / m) is about chi-squared with one degree less
than bins (Yurdakul and Naranjo, Statistical Properties of the Population Stability Index, Journal of Risk
Model Validation 14(4), 2020), so that small samples differ by chance alone; `chance` says by how much.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs.dataset_parts import DistributionInfo, DriftInfo
from pipelines.statistics.distributions import is_new, on_base

LEAST_SHARE = 1e-4
"""Share of a bin that has fewer values, or none, which would make the logarithm infinite."""
_QUANTILE = 1.6449  # of the normal distribution, at 95 %


def stability_index(before: Sequence[int], now: Sequence[int]) -> float:
    """PSI of two histograms on the same bins; 0 if one of them is empty."""
    if not sum(before) or not sum(now):
        return 0.0
    p, q = (np.maximum(np.asarray(counts, np.float64) / sum(counts), LEAST_SHARE) for counts in (before, now))
    return float(((q - p) * np.log(q / p)).sum())


def chance(before: Sequence[int], now: Sequence[int]) -> float:
    """The PSI that samples of these sizes from one distribution exceed once in 20 times; bins that are empty
    in both do not count. 0 if one of them is empty."""
    if not sum(before) or not sum(now):
        return 0.0
    freedom = max(0, int(np.count_nonzero(np.asarray(before) + np.asarray(now))) - 1)
    # The quantile of chi-squared by that of the normal distribution (Wilson and Hilferty 1931).
    if not freedom:
        return 0.0
    part = 2 / (9 * freedom)
    return freedom * (1 - part + _QUANTILE * part**0.5) ** 3 * (1 / sum(before) + 1 / sum(now))


def compare(
    name: str,
    now: DistributionInfo,
    before: DistributionInfo,
    counts: Mapping[str, int],
    of_owners: bool,
) -> DriftInfo:
    """How far the distribution of a column is from that of the base.

    Args:
      counts: of pipelines.statistics.distributions.Spreads, summed.
      of_owners: whether it is that of users or items. The index then leaves out keys without a row, which are
        newcomers for the most part: they come every day.
    """
    mine, unknown, empty = on_base(name, counts, len(before.counts))
    theirs, words = list(before.counts), _words(before)
    facts: dict[str, Any] = {
        "unknown": unknown, "unknown_before": before.unknown, "values": now.values,
        "values_before": before.values,
    }  # fmt: skip
    if before.keys is not None:
        vanished = [word for word, count in zip(words, mine[:-1], strict=False) if not count]
        keys = enumerate(now.keys or [])
        appeared = [_name(now, place) for place, key in keys if is_new(name, key, counts)]
        facts |= {"vanished": vanished, "appeared": appeared}
        mine, theirs, words = [*mine, unknown], [*theirs, before.unknown], [*words, "unknown keys"]
    if not of_owners:
        mine, theirs, words = [*mine, empty], [*theirs, before.empty], [*words, "empty"]
    psi, noise = stability_index(theirs, mine), chance(theirs, mine)
    return DriftInfo(psi=_short(psi), chance=_short(noise), before=theirs, now=mine, bins=words, **facts)


def _short(value: float) -> float:
    """Six digits: the last ones depend on the order of sums."""
    return float(f"{value:.6g}")


def _words(found: DistributionInfo) -> list[str]:
    """What each of the bins counts."""
    if found.keys is not None:
        return [*(_name(found, place) for place in range(len(found.keys))), "other keys"]
    limits = [f"{value:.6g}" for value in found.boundaries or []]
    if not limits:
        return ["all values"]
    between = [f"{low} to {high}" for low, high in zip(limits, limits[1:], strict=False)]
    return [f"below {limits[0]}", *between, f"{limits[-1]} or more"]


def _name(found: DistributionInfo, place: int) -> str:
    keys = found.keys or []
    return (found.names[place] or "(empty key)") if found.names else f"#{keys[place]}"
