"""How far the rows of a dataset are from those of its base, as rows of a table."""

from collections.abc import Mapping
from typing import Any

from configs.dataset_parts import DriftInfo

_SHOWN = 5  # keys
HELP = (
    "PSI: population stability index against the base; above 0.1 a moderate change, above 0.25 a shift, "
    "unless two samples of these sizes differ as much by chance once in 20 times. Unknown: values with keys "
    "that have no row in the base."
)


def drift_rows(drift: Mapping[str, DriftInfo]) -> list[dict[str, Any]]:
    """A row for each column: numbers, and in words the change that adds most to the index."""
    return [_row(name, found) for name, found in drift.items()]


def _row(name: str, found: DriftInfo) -> dict[str, Any]:
    change = ""
    if found.largest is not None:
        what, before, now = found.largest
        change = f"{what}: {before:.1%} to {now:.1%}"
    return {
        "column": name,
        "psi": found.psi,
        "by chance": found.chance,
        "drift": {"none": "-"}.get(found.level, found.level),
        "largest change": change or "-",
        "unknown_before_share": found.unknown_share_before,
        "unknown_share": found.unknown_share,
        "new keys": _some(found.appeared),
        "vanished keys": _some(found.vanished),
    }


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return (", ".join(keys[:_SHOWN]) + more) or "-"
