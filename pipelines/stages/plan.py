"""The plan: decisions that need the whole source and apply to each of its rows."""

import bisect
import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from configs.columns import label_column
from configs.sections.features import VectorFeatureConfig
from pipelines.job import Job
from pipelines.sources.reader import in_reason
from pipelines.stages.stats import Stats
from pipelines.statistics import histogram
from pipelines.statistics.coverage import known_count, ones_count

_SHOWN = 8  # values of a label in a message
_BUCKET_ITEMS = 1 << 24  # items of histories in a bucket of an output file: 64 MiB

_HINTS = {
    "bad_timestamp": "check source.timestamp_unit, which is {unit}: s, ms, us and ns read "
    "numbers, iso8601 reads dates",
    "timestamp_out_of_range": "check source.timestamp_unit, which is {unit}",
    "unbalanced_quote": "no quote closes the value; set source.quote: null if quotes are ordinary text",
    "text_after_quote": "double the quotes inside a quoted value, or set source.escape, such as '\\\\'; "
    "set source.quote: null if quotes are ordinary text",
    "line_too_long": "lines may have at most 1 MiB; check that lines end in newlines and quotes are closed",
    "nul_byte": "check source.kind and how the file was written",
    "missing_user": "check source.nulls, which lists the spellings of missing values",
    "missing_item": "check source.nulls, which lists the spellings of missing values",
    "not_utf8": "convert the files to UTF-8",
    "wrong_column_count": "quote values that contain the delimiter",
    "unknown_split": "source.roles.split must hold train, valid or test",
}


_FEATURE_HINTS = (
    ("outside_log1p_", "log1p takes numbers above -1; put a {{clip: [low, high]}} before it, or remove it"),
    ("weight_count_", "each key of the list needs one weight"),
    ("bad_weight_", "a weight must be a number"),
    ("negative_weight_", "weights must be at least 0"),
    ("control_character_in_", "keys of a list must not contain \\x01 or \\x02; check separator"),
    ("not_finite_", "write a finite number"),
    ("bad_order_by", "order_by needs a number or an ISO 8601 time in every row"),
    ("wrong_type_", "a list feature needs a list in each row, others one value; check the feature's kind"),
)
"""Hints by the beginning of a reason, which ends in a feature's name."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Side input of every stage after reading."""

    failed: str | None = None
    """Why the job must stop; later stages then do nothing."""
    cuts: tuple[int, int] | None = None
    """First nanosecond of valid and of test; temporal split only."""
    splitters: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Per table, first key of each part but the first, ascending."""
    buckets: int = 1
    """Parts of an output file; a power of two."""
    rows: int = 0
    """Rows that were kept."""
    all_positive: bool = True
    """Whether every one of them is positive."""
    newest: int | None = None
    """Timestamp of the newest of them; None: the source has none."""


def side_count(number: int, what: str) -> str:
    """Key of Stats.counts for a fact about a side table."""
    return f"side/{number}/{what}"


def make_plan(stats: Stats, job: Job, sides: dict[int, Stats]) -> Plan:
    """The plan, made once all rows are read.

    Args:
      sides: by side table.
    """
    failed = stats.fatal or _too_many_rejects(stats, job)
    for number, side in sorted(sides.items()):
        failed = failed or _side_fails(side, job.sides[number], f"source.sides[{number}]")
        for table, pairs in side.samples.items():
            stats.merge_sample(table, pairs)
    if not failed and not stats.kept:
        failed = "no rows are left after validation and dataset.min_label; check source and dataset.min_label"
    if not failed and not stats.positives and stats.label_range:
        lowest, highest = stats.label_range
        failed = (
            f"no row is positive: dataset.positive requires {job.dataset.positive_rule}, the labels range "
            f"from {lowest:g} to {highest:g}; set dataset.positive to a number in this range, or to all"
        )
    failed = failed or _labels_fail(stats, job)
    if failed:
        return Plan(failed=failed)
    cuts, split = None, job.dataset.split
    if split.kind == "temporal":
        cuts = histogram.cuts(stats.histogram, split.valid_fraction, split.test_fraction)
    splitters = {table: _splitters(pairs, job.layout.key_shards) for table, pairs in stats.samples.items()}
    if job.base:  # all datasets of a chain have the same parts
        splitters |= {name: list(table.splitters) for name, table in job.base.tables.items()}
    per_file = stats.kept // job.dataset.num_shards
    rows = min(job.layout.bucket_rows, max(1, _BUCKET_ITEMS // max(1, job.dataset.history_length or 0)))
    buckets = 1 << max(0, (per_file // rows).bit_length())
    newest = stats.newest if getattr(job.source.roles, "timestamp", None) is not None else None
    return Plan(None, cuts, splitters, buckets, stats.kept, stats.positives == stats.kept, newest)


def _labels_fail(stats: Stats, job: Job) -> str | None:
    """Why a further label cannot be learned; None: all can."""
    for name, label in job.source.roles.labels.items():
        key = f"source.roles.labels.{name}"
        if not stats.labels[known_count(name)]:
            return f"label {name}: no row has a value of {label.column!r}; correct {key}.column"
        if label.ones and not stats.labels[ones_count(name)]:
            values = ", ".join(map(repr, label.ones))
            found = sorted(value for _, value in stats.samples.get(label_column(name), [])[:_SHOWN])
            return (
                f"label {name}: no row of {label.column!r} has {values}; correct {key}.ones; some values are "
                f"{', '.join(map(repr, found))}"
            )
    return None


def _side_fails(stats: Stats, side: Job, key: str) -> str | None:
    """Why a side table cannot be used; None: it can. `key`: its key in the config."""
    paths = side.source.where
    if failed := stats.fatal or _too_many_rejects(stats, side, f"{key}."):
        return failed
    if not stats.kept:
        return f"{paths}: no rows are left after validation; check {key}"
    for feature in side.source.features:
        if not side.source.has_columns and feature.columns and not stats.counts[known_count(feature.name)]:
            return (
                f"{paths}: no object has a value of {feature.source_column!r}, which feature "
                f"{feature.name!r} reads; correct its column, or remove the feature"
            )
    return None


def _too_many_rejects(stats: Stats, job: Job, key: str = "source.") -> str | None:
    rejected, limit = sum(stats.rejected.values()), job.source.max_rejected_fraction
    first = stats.first_reject
    if first is None or rejected <= limit * stats.rows:
        return None
    reasons = ", ".join(f"{count} {reason}" for reason, count in stats.rejected.most_common())
    hint = _hint(stats.rejected.most_common(1)[0][0], job)
    return (
        f"{rejected} of {stats.rows} rows are rejected, more than {key}max_rejected_fraction {limit:g} "
        f"allows: {reasons}; the first is {first.path}:{first.line}: {first.reason}: {first.text[:100]!r}"
        f"{hint}"
    )


def _hint(reason: str, job: Job) -> str:
    """Advice that fixes most rows rejected for this reason; empty if there is none."""
    if reason in ("bad_label", "bad_weight"):
        return "; it must be a number in every row, and must not be empty"
    for name, column in job.labels.items():
        if reason == f"bad_{in_reason(column)}":
            return f"; it must be a number or empty; set source.roles.labels.{name}.ones to read text"
    for vector in (f for f in job.source.features if isinstance(f, VectorFeatureConfig)):
        if reason == f"wrong_width_{vector.name}":
            return f"; the feature's dim is {vector.dim}: correct it, or write that many values in each row"
        if reason == f"bad_{vector.name}":
            return "; each value must be a number; check the feature's separator"
    if reason in {f"bad_{name}" for name in job.may_be_empty}:
        return "; it must be a number, or empty"
    if reason in {f"bad_{name}" for name in job.numeric}:
        return "; it must be a number; set the feature's missing to accept empty values"
    hint = _HINTS.get(reason) or next((h for start, h in _FEATURE_HINTS if reason.startswith(start)), None)
    unit = getattr(job.source, "timestamp_unit", "s")  # the synthetic source has none
    return f"; {hint.format(unit=unit)}" if hint else ""


def _splitters(pairs: list[tuple[int, str]], parts: int) -> list[str]:
    keys = sorted((key for _, key in pairs), key=str.encode)
    return [keys[len(keys) * i // parts] for i in range(1, parts)] if len(keys) >= parts else []


def key_bounds(keys: pa.StringArray, splitters: list[str]) -> list[int]:
    """Index at which each part begins among keys in byte order, and the end."""
    places = [
        bisect.bisect_left(range(len(keys)), s.encode(), key=lambda i: keys[i].as_buffer().to_pybytes())
        for s in splitters
    ]
    return [0, *places, len(keys)]


def sort_keys(keys: pa.StringArray) -> np.ndarray:
    """Order int64 [n] of keys by their bytes."""
    return compute.sort_indices(keys).to_numpy()
