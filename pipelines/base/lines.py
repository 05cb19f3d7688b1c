"""What `prepare` logs of a dataset that stands on another: keys, late rows, gaps in time."""

from configs.manifest import SPLITS, Dataset
from pipelines.base.chain import Base

_DAY = 24 * 3600 * 10**9


def base_lines(manifest: Dataset, base: Base | None) -> list[str]:
    """Lines about the base; none without one."""
    if base is None or manifest.base is None:
        return []
    depth = manifest.base.depth
    lines = [f"stands on {manifest.base.path}" + (f", with {depth - 1} more below it" * (depth > 1))]
    for name, table in manifest.tables.items():
        if table.base_oov is not None and table.ids == "vocab":
            kept = table.base_oov - table.left
            lines.append(
                f"table {name}: {kept:,} keys of the base kept their rows, {table.left:,} left, "
                f"{table.keys - kept:,} are new"
            )
    if manifest.base.late:
        rows = sum(info.rows for info in manifest.splits.values())
        lines.append(
            f"late: {manifest.base.late:,} of {rows:,} rows are older than the newest train row of the base; "
            "they count like others"
        )
    return lines + _gap_lines(manifest, base)


def _gap_lines(manifest: Dataset, base: Base) -> list[str]:
    """A line if there is more time without rows since the base than a day of it usually has."""
    if not manifest.source.get("roles", {"timestamp": True}).get("timestamp"):
        return []
    begins, _ = _span(manifest)
    before = [_span(dataset) for dataset in base.datasets]
    ended = max((end for _, end in before if end is not None), default=None)
    first, last = before[0]
    if begins is None or ended is None or first is None or last is None:
        return []
    usual = last - first if base.top.base else min(last - first, _DAY)
    if begins - ended <= usual:
        return []
    days = (begins - ended) / _DAY
    return [f"gap: no rows for {days:.1f} days after those of the base; check that no day is missing"]


def _span(dataset: Dataset) -> tuple[int | None, int | None]:
    """Times of the oldest and the newest row."""
    splits = [dataset.splits[name] for name in SPLITS]
    oldest = [info.min_timestamp for info in splits if info.min_timestamp is not None]
    newest = [info.max_timestamp for info in splits if info.max_timestamp is not None]
    return min(oldest, default=None), max(newest, default=None)
