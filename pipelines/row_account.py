"""What `prepare` says of rows and users at its end: which are positive, and what fell away, and why."""

import datetime

from configs.manifest import SPLITS, Dataset
from configs.sections.dataset import DatasetConfig

_PER_SECOND = 10**9


def split_line(dataset: DatasetConfig) -> str:
    """The split in words: the default follows the source, so it is said which one it is."""
    options = dataset.split.model_dump(exclude={"kind"})
    text = ", ".join(f"{name} {value:g}" for name, value in options.items())
    return f"dataset.split: {dataset.split.kind}" + (f" ({text})" if text else "")


def row_lines(manifest: Dataset, dataset: DatasetConfig) -> list[str]:
    """Of all rows that were read, which are in the dataset and what became of the others."""
    lines = []
    rows = sum(info.rows for info in manifest.splits.values())
    positives = {name: info.positives for name, info in manifest.splits.items()}
    if manifest.source.get("roles", {}).get("label"):
        each = ", ".join(f"{name} {count:,}" for name, count in positives.items())
        others = rows - sum(positives.values())
        text = f"positive rows ({dataset.positive_rule}): {each}"
        if others:
            text += f"; {others:,} others: no targets, seen items or popularity, only dot_bias trains on them"
        lines.append(text)
    if manifest.filtered:
        lines.append(f"left out by dataset.min_label: {manifest.filtered:,} rows")
    if manifest.duplicates:
        what = {"drop": "left out", "keep": "kept"}[dataset.duplicates]
        lines.append(
            f"{what} by dataset.duplicates {dataset.duplicates}: {manifest.duplicates:,} rows "
            "that repeat the user, item and instant of another"
        )
    return lines + _user_lines(manifest, dataset)


def _user_lines(manifest: Dataset, dataset: DatasetConfig) -> list[str]:
    lines = []
    if manifest.short_users:
        lines.append(
            f"train only: {manifest.short_users:,} users with fewer than dataset.split.min_rows "
            f"{dataset.split.min_rows} positive events"
        )
    for name in SPLITS[1:]:
        info = manifest.splits[name]
        if info.cold_users:
            lines.append(
                f"{name}: {info.cold_users:,} users without positive train rows are not evaluated "
                f"({info.cold_user_rows:,} rows)"
            )
        if info.rare_users:
            lines.append(
                f"{name}: {info.rare_users:,} users with fewer than dataset.user_ids.min_count "
                f"{dataset.user_ids.min_count} positive train rows are not evaluated "
                f"({info.rare_user_rows:,} rows)"
            )
    return lines


def date(nanoseconds: int) -> str:
    """A time to the minute, UTC."""
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=nanoseconds // _PER_SECOND)
    return f"{moment:%Y-%m-%d %H:%M}"
