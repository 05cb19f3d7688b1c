"""What a job leaves for the command that started it: counts, the plan's verdict, tables, files; as JSON.

It lies in the spool, beside dataset.path: who may write there must not get code to run here, so it is no
pickle, and whatever it holds is checked.
"""

import collections
import dataclasses
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from configs.errors import DataError
from configs.system.terminal import shown
from pipelines.stages.ids import TableIds
from pipelines.stages.plan import Plan
from pipelines.stages.stats import Stats
from pipelines.stages.write import DIRECTORIES, WrittenFile

FILE_NAME = "summary.json"
# Needed while the job runs, and large.
_STATS_LEFT_OUT = ("histogram", "samples", "first_reject", "label_range")
_PLAN_LEFT_OUT = ("splitters",)
_ARRAYS = ConfigDict(arbitrary_types_allowed=True)


class Summary(NamedTuple):
    """All of it."""

    stats: Stats
    """Without histogram, samples, the first reject and the range of labels."""
    plan: Plan
    """Without splitters."""
    tables: dict[str, TableIds]
    """Without first_ids."""
    files: list[WrittenFile]
    """Ascending."""


def dump_summary(
    stats: Stats, plan: Plan, tables: dict[str, TableIds], files: Sequence[WrittenFile]
) -> bytes:
    """The document."""
    document = {
        "stats": _without(vars(stats), _STATS_LEFT_OUT),
        "plan": _without(dataclasses.asdict(plan), _PLAN_LEFT_OUT),
        "tables": {name: _without(ids._asdict(), ("first_ids",)) for name, ids in tables.items()},
        "files": [file._asdict() for file in sorted(files, key=WrittenFile.place)],
    }
    return json.dumps(document, default=_number).encode()


def load_summary(content: bytes, name: str) -> Summary:
    """Reads a document of `dump_summary`; `name` is that of its file.

    Raises:
      DataError: it is torn, or not one.
    """
    try:
        document = json.loads(content)
        stats = Stats()
        for key, value in document["stats"].items():
            setattr(stats, key, _like(vars(stats)[key], value))
        plan = TypeAdapter(Plan).validate_python(document["plan"])
        tables = {
            key: TypeAdapter(TableIds, config=_ARRAYS).validate_python({**ids, "first_ids": {}})
            for key, ids in document["tables"].items()
        }
        files = TypeAdapter(list[WrittenFile]).validate_python(document["files"])
        if odd := {file.directory for file in files} - set(DIRECTORIES):
            raise ValueError(f"files of {sorted(odd)[0]!r}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise DataError(
            f"{name}: is not what the job's last stage writes ({shown(reason)}); run the command again"
        ) from None
    return Summary(stats, plan, tables, files)


def _like(before: object, value: object) -> object:
    """`value`, when it is of the kind that Stats holds there."""
    if isinstance(before, collections.Counter):
        return collections.Counter(TypeAdapter(dict[str, int]).validate_python(value))
    return TypeAdapter(str | int | None if before is None else type(before)).validate_python(value)


def _without(document: dict, left_out: Sequence[str]) -> dict:
    return {key: value for key, value in document.items() if key not in left_out}


def _number(value: object) -> int | float:
    """A NumPy scalar as Python's; whatever else has no place in a summary."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no form in {FILE_NAME}")
