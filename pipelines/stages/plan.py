"""The plan: what the whole of the source decides for each of its rows."""

import bisect
import dataclasses

import pyarrow as pa
import pyarrow.compute as compute

from pipelines.job import Job
from pipelines.rows import histogram
from pipelines.stages.stats import Stats

_BUCKET_ITEMS = 1 << 24  # items of histories that an output file's bucket may hold: 64 MiB

_HINTS = {
    "bad_timestamp": "source.timestamp_unit is {unit}: s, ms, us and ns read numbers, iso8601 reads dates",
    "timestamp_out_of_range": "source.timestamp_unit is {unit}: is it another one?",
    "unbalanced_quote": "no quote closes the value; source.quote: null makes quotes ordinary text",
    "text_after_quote": "quotes inside a quoted value are doubled, or set source.escape, such as '\\\\'; "
    "source.quote: null makes quotes ordinary text",
    "line_too_long": "a line may have 1 MiB; check that lines end in newlines and that quotes are closed",
    "nul_byte": "check source.kind and how the file was written",
    "missing_user": "source.nulls lists what counts as missing",
    "missing_item": "source.nulls lists what counts as missing",
    "not_utf8": "convert the files to UTF-8",
    "wrong_column_count": "values that hold the delimiter need quotes",
    "unknown_split": "source.roles.split must hold train, valid or test",
}


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


def make_plan(stats: Stats, job: Job) -> Plan:
    """Decides once reading is over."""
    failed = stats.fatal or _too_many_rejects(stats, job)
    if not failed and not stats.kept:
        failed = "no rows are left after validation and dataset.min_label; check source and dataset.min_label"
    if not failed and not stats.positives:
        lowest, highest = stats.label_range
        failed = (
            f"no row is positive: dataset.positive asks for {job.dataset.positive_rule}, labels lie between "
            f"{lowest:g} and {highest:g}; set dataset.positive to a number among them, or to all"
        )
    if failed:
        return Plan(failed=failed)
    cuts, split = None, job.dataset.split
    if split.kind == "temporal":
        cuts = histogram.cuts(stats.histogram, split.valid_fraction, split.test_fraction)
    splitters = {table: _splitters(pairs, job.layout.key_shards) for table, pairs in stats.samples.items()}
    per_file = stats.kept // job.dataset.num_shards
    rows = min(job.layout.bucket_rows, max(1, _BUCKET_ITEMS // max(1, job.dataset.history_length)))
    buckets = 1 << max(0, (per_file // rows).bit_length())
    return Plan(None, cuts, splitters, buckets, stats.kept, stats.positives == stats.kept)


def _too_many_rejects(stats: Stats, job: Job) -> str | None:
    rejected, limit = sum(stats.rejected.values()), job.source.max_rejected_fraction
    if rejected <= limit * stats.rows:
        return None
    reasons = ", ".join(f"{count} {reason}" for reason, count in stats.rejected.most_common())
    first = stats.first_reject
    hint = _hint(stats.rejected.most_common(1)[0][0], job)
    return (
        f"{rejected} of {stats.rows} rows are refused, more than source.max_rejected_fraction {limit:g} "
        f"allows: {reasons}; the first is {first.path}:{first.line}: {first.reason}: {first.text[:100]!r}"
        f"{hint}"
    )


def _hint(reason: str, job: Job) -> str:
    """What mends most rows that are refused for this reason; empty when only their owner can know."""
    if reason in ("bad_label", "bad_weight"):
        return "; it must be a number in every row, an empty value is none"
    if reason in {f"bad_{name}" for name in job.numeric}:
        return "; it must be a number; the feature's key missing gives empty ones a value"
    hint = _HINTS.get(reason)
    return f"; {hint.format(unit=job.source.timestamp_unit)}" if hint else ""


def _splitters(pairs: list[tuple[int, str]], parts: int) -> list[str]:
    keys = sorted((key for _, key in pairs), key=str.encode)
    return [keys[len(keys) * i // parts] for i in range(1, parts)] if len(keys) >= parts else []


def key_bounds(keys: pa.StringArray, splitters: list[str]) -> list[int]:
    """Where each part begins among keys in byte order; one more entry for the end."""
    places = [
        bisect.bisect_left(range(len(keys)), s.encode(), key=lambda i: keys[i].as_buffer().to_pybytes())
        for s in splitters
    ]
    return [0, *places, len(keys)]


def sort_keys(keys: pa.StringArray):
    """Order int64 [n] of keys by their bytes."""
    return compute.sort_indices(keys).to_numpy()
