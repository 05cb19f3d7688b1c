"""The summary that a job leaves for the command that started it: counts, plan, tables and files, as JSON.

It is in the spool below dataset.path. Others who can write there must not be able to run code in this
process, so it is not a pickle, and its content is validated.
"""

import collections
import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from configs.dataset_parts import DistributionInfo
from configs.errors import DataError
from configs.system.terminal import shown
from pipelines.base.numbering import TableIds
from pipelines.stages.files import DIRECTORIES, WrittenFile
from pipelines.stages.plan import Plan
from pipelines.stages.stats import Stats
from pipelines.statistics.moments import Moments

FILE_NAME = "summary.json"
# Large, and needed only while the job runs.
_STATS_LEFT_OUT = ("histogram", "samples", "first_reject", "label_range")
_PLAN_LEFT_OUT = ("splitters",)
_IDS_LEFT_OUT = ("first_ids", "first_others", "reused")
_ARRAYS = ConfigDict(arbitrary_types_allowed=True)


class Summary(NamedTuple):
    """The result of a job."""

    stats: Stats
    """Without histogram, samples, the first reject and the range of labels."""
    plan: Plan
    """Without splitters."""
    tables: dict[str, TableIds]
    """Without first_ids, first_others and reused."""
    quantiles: dict[str, list[float]]
    """Boundaries of buckets by quantiles, by feature."""
    moments: dict[str, Moments]
    """Of the numeric features of the interactions, over train rows that count."""
    distributions: dict[str, DistributionInfo]
    """As Dataset.distributions."""
    files: list[WrittenFile]
    """Ascending."""


def dump_summary(
    stats: Stats,
    plan: Plan,
    tables: dict[str, TableIds],
    quantiles: dict[str, list[float]],
    moments: dict[str, Moments],
    distributions: dict[str, DistributionInfo],
    files: Iterable[WrittenFile],
) -> bytes:
    """The summary as JSON."""
    document = {
        "stats": _without(vars(stats), _STATS_LEFT_OUT),
        "plan": _without(dataclasses.asdict(plan), _PLAN_LEFT_OUT),
        "tables": {name: _without(ids._asdict(), _IDS_LEFT_OUT) for name, ids in tables.items()},
        "quantiles": quantiles,
        "moments": moments,
        "distributions": {name: found.model_dump(mode="json") for name, found in distributions.items()},
        "files": [file._asdict() for file in sorted(files, key=WrittenFile.place)],
    }
    return json.dumps(document, default=_number).encode()


def load_summary(content: bytes, name: str) -> Summary:
    """Reads a document of `dump_summary`; `name` is the name of its file.

    Raises:
      DataError: it is incomplete or invalid.
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
        quantiles = TypeAdapter(dict[str, list[float]]).validate_python(document["quantiles"])
        moments = TypeAdapter(dict[str, Moments]).validate_python(document["moments"])
        distributions = TypeAdapter(dict[str, DistributionInfo]).validate_python(document["distributions"])
        files = TypeAdapter(list[WrittenFile]).validate_python(document["files"])
        if odd := {file.directory for file in files} - set(DIRECTORIES):
            raise ValueError(f"files of {sorted(odd)[0]!r}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise DataError(
            f"{name}: not a valid job summary ({shown(reason)}); rerun the same command"
        ) from None
    return Summary(stats, plan, tables, quantiles, moments, distributions, files)


def _like(before: object, value: object) -> object:
    """`value`, validated against the type of `before`."""
    if isinstance(before, collections.Counter):
        return collections.Counter(TypeAdapter(dict[str, int]).validate_python(value))
    return TypeAdapter(str | int | None if before is None else type(before)).validate_python(value)


def _without(document: dict[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in left_out}


def _number(value: object) -> int | float:
    """A NumPy scalar as a Python number."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be stored in {FILE_NAME}")
