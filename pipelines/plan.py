"""The plan: what the whole of the source decides for each of its rows."""

import bisect
import dataclasses

import pyarrow as pa
import pyarrow.compute as compute

from pipelines import histogram
from pipelines.layout import Job
from pipelines.stats import Stats


@dataclasses.dataclass(frozen=True)
class Plan:
    """Side input of every stage after reading."""

    failed: str | None = None
    """Why the job must stop; later stages then do nothing."""
    cuts: tuple[int, int] | None = None
    """First second of valid and of test; temporal split only."""
    splitters: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Per table, first key of each part but the first, ascending."""
    buckets: int = 1
    """Parts of an output file; a power of two."""
    rows: int = 0
    """Rows that were kept."""


def make_plan(stats: Stats, job: Job) -> Plan:
    """Decides once reading is over."""
    failed = stats.fatal or _too_many_rejects(stats, job.source.max_rejected_fraction)
    if not failed and not stats.kept:
        failed = "no rows are left after validation and dataset.min_label; check source and dataset.min_label"
    if failed:
        return Plan(failed=failed)
    cuts, split = None, job.dataset.split
    if split.kind == "temporal":
        cuts = histogram.cuts(stats.histogram, split.valid_fraction, split.test_fraction)
    splitters = {table: _splitters(pairs, job.layout.key_shards) for table, pairs in stats.samples.items()}
    per_file = stats.kept // job.dataset.num_shards
    buckets = 1 << max(0, (per_file // job.layout.bucket_rows).bit_length())
    return Plan(None, cuts, splitters, buckets, stats.kept)


def _too_many_rejects(stats: Stats, limit: float) -> str | None:
    rejected = sum(stats.rejected.values())
    if rejected <= limit * stats.rows:
        return None
    reasons = ", ".join(f"{count} {reason}" for reason, count in stats.rejected.most_common())
    first = stats.first_reject
    return (
        f"{rejected} of {stats.rows} rows are refused, more than source.max_rejected_fraction {limit:g} "
        f"allows: {reasons}; the first is {first.path}:{first.line}: {first.reason}: {first.text[:100]!r}"
    )


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
