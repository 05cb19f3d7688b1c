"""Figures of a benchmark by stage, in a CSV file that `lazytower bench compare` reads.

A row is one figure of one stage. A stage that was measured several times has as many rows of each figure,
whose spread is the noise. Figures with a unit are numbers; the others are texts that must be equal for two
files to be comparable, such as the machine.
"""

import csv
import os
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from configs.errors import UserError
from configs.text import aligned

COLUMNS = ("stage", "figure", "unit", "value")


class Figure(NamedTuple):
    """What was measured of a stage."""

    stage: str
    name: str
    unit: str
    """Of the value: s, GB, ms, examples/s, x and the like; "": the value is a text."""
    value: float | str

    @property
    def shown(self) -> str:
        """The value for people, without its unit."""
        if isinstance(self.value, str):
            return self.value
        digits = 0 if abs(self.value) >= 1000 else 1 if abs(self.value) >= 100 else 2
        return f"{self.value:,.{digits}f}"


class Change(NamedTuple):
    """A figure in two files."""

    stage: str
    name: str
    unit: str
    old: tuple[float, ...]
    new: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of the new values by that of the old ones; nan if the old one is 0."""
        old, new = statistics.median(self.old), statistics.median(self.new)
        if old == new:
            return 1.0
        return new / old if old else float("nan")

    @property
    def is_noise(self) -> bool | None:
        """Whether the ranges of the values overlap; None: one of them was measured only once."""
        if min(len(self.old), len(self.new)) < 2:
            return None
        return min(self.old) <= max(self.new) and min(self.new) <= max(self.old)


def write_figures(path: str, figures: Sequence[Figure]) -> None:
    """Writes figures to a CSV file."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(figures)


def read_figures(path: str) -> list[Figure]:
    """The figures of a file that `write_figures` wrote.

    Raises:
      UserError: there is no such file, or it holds something else; names the line.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a CSV file that `lazytower bench` wrote") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file ({error})") from None
    if not lines or tuple(lines[0]) != COLUMNS:
        raise UserError(
            f"{path}: the first line is not {','.join(COLUMNS)}; name a file of `lazytower bench users25m`"
        )
    return [_figure(path, number, cells) for number, cells in enumerate(lines[1:], 2) if cells]


def _figure(path: str, number: int, cells: list[str]) -> Figure:
    if len(cells) != len(COLUMNS):
        raise UserError(f"{path}: line {number} has {len(cells)} columns instead of {len(COLUMNS)}")
    stage, name, unit, value = cells
    if not unit:
        return Figure(stage, name, unit, value)
    try:
        return Figure(stage, name, unit, float(value))
    except ValueError:
        raise UserError(f"{path}: line {number}: {value!r} is not a number") from None


def changes(old: Iterable[Figure], new: Iterable[Figure]) -> list[Change]:
    """The numbers that both have, in the order of the new ones."""
    before, after = _numbers(old), _numbers(new)
    return [Change(*key, before[key], values) for key, values in after.items() if key in before]


def _numbers(figures: Iterable[Figure]) -> dict[tuple[str, str, str], tuple[float, ...]]:
    """Values by stage, name and unit."""
    found: dict[tuple[str, str, str], tuple[float, ...]] = {}
    for each in figures:
        if not isinstance(each.value, str):
            key = (each.stage, each.name, each.unit)
            found[key] = (*found.get(key, ()), each.value)
    return found


def circumstances_changed(old: Sequence[Figure], new: Sequence[Figure]) -> list[str]:
    """Lines about texts that differ and about stages that only one of them has."""
    before, after = _texts(old), _texts(new)
    lines = [
        f"{stage}: {name}: {', '.join(before[stage, name])} before, {', '.join(values)} now"
        for (stage, name), values in after.items()
        if (stage, name) in before and before[stage, name] != values
    ]
    stages = [list(dict.fromkeys(each.stage for each in figures)) for figures in (old, new)]
    for which, mine, others in (("before", *stages), ("now", *stages[::-1])):
        if only := [stage for stage in mine if stage not in others]:
            lines.append(f"only {which}: {', '.join(only)}")
    return lines


def _texts(figures: Iterable[Figure]) -> dict[tuple[str, str], list[str]]:
    """Distinct texts by stage and name."""
    found: dict[tuple[str, str], list[str]] = {}
    for each in figures:
        if isinstance(each.value, str):
            values = found.setdefault((each.stage, each.name), [])
            if each.value not in values:
                values.append(each.value)
    return found


def table_of_changes(found: Sequence[Change]) -> str:
    """A table: medians, ranges of repeated values, ratios."""
    rows = [("stage", "figure", "unit", "old", "new", "new / old", "")]
    for each in found:
        verdict = "within the noise" if each.is_noise else ""
        rows.append((*each[:3], _range(each.old), _range(each.new), f"{each.ratio:.3f}", verdict))
    return aligned(rows, left=(0, 1, 2, -1))


def _range(values: tuple[float, ...]) -> str:
    """The median, and the smallest and largest value if there are several."""
    shown = [Figure("", "", "", each).shown for each in (statistics.median(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"
