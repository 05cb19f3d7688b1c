"""What `prepare` logs at its end: splits, tables, rejected rows, what was left out and why, time, memory."""

import datetime

from absl import logging

from configs.manifest import SPLITS, Dataset
from configs.sections.dataset import DatasetConfig, LeaveLastOutSplitConfig, VocabIdsConfig
from configs.sections.roles import PLANTED_LABEL
from configs.sections.sources import places_of
from pipelines.base.chain import Base
from pipelines.base.lines import base_lines
from pipelines.drift import drift_lines
from pipelines.progress import Progress

_PER_SECOND = 10**9


def choice_lines(dataset: DatasetConfig) -> list[str]:
    """The split and the histories in words, which are worth a line because their defaults depend on the
    source."""
    options = dataset.split.model_dump(exclude={"kind"})
    text = ", ".join(f"{name} {value:g}" for name, value in options.items())
    lines = [f"dataset.split: {dataset.split.kind}" + (f" ({text})" if text else "")]
    if dataset.history_of:
        lines.append(f"dataset.history_of: {dataset.history_of} (at most {dataset.history_length} items)")
    return lines


def row_lines(manifest: Dataset, dataset: DatasetConfig) -> list[str]:
    """What became of the rows that were read: positive, left out or duplicate."""
    lines = []
    rows = sum(info.rows for info in manifest.splits.values())
    positives = {name: info.positives for name, info in manifest.splits.items()}
    if manifest.has_label:
        each = ", ".join(f"{name} {count:,}" for name, count in positives.items())
        others = rows - sum(positives.values())
        text = f"positive rows ({dataset.positive_rule}): {each}"
        if others:
            text += f"; {others:,} others"
            if {"user", "item"} <= manifest.tables.keys():
                text += (
                    ", on which only dot_bias and ranking models train: no targets, seen items or popularity"
                )
        lines.append(text)
    lines += [_label_line(manifest, name) for name in manifest.labels if name != PLANTED_LABEL]
    if manifest.thinned:
        lines.append(
            f"left out by dataset.keep_negatives {manifest.keep_negatives:g}: {manifest.thinned:,} negative "
            "rows of train"
        )
    if manifest.filtered:
        lines.append(f"left out by dataset.min_label: {manifest.filtered:,} rows")
    if manifest.duplicates:
        what = {"drop": "left out", "keep": "kept"}[dataset.duplicates]
        lines.append(
            f"{what} by dataset.duplicates {dataset.duplicates}: {manifest.duplicates:,} rows "
            "with the user, item and instant of another row"
        )
    return lines + _user_lines(manifest, dataset)


def _label_line(manifest: Dataset, name: str) -> str:
    """How often a further label is above 0 in each split, and where it is empty."""
    facts = []
    for split in SPLITS:
        rows, label = manifest.splits[split].rows, manifest.splits[split].labels[name]
        if rows:
            share = f"{label.ones / label.known:.2%} of {label.known:,}" if label.known else "none"
            facts.append(f"{split} {share}" + (f" ({rows - label.known:,} empty)" * (label.known < rows)))
    return f"label {name} above 0: {', '.join(facts)}"


def _user_lines(manifest: Dataset, dataset: DatasetConfig) -> list[str]:
    lines = []
    if manifest.short_users and isinstance(dataset.split, LeaveLastOutSplitConfig):
        lines.append(
            f"train only: {manifest.short_users:,} users with fewer than dataset.split.min_rows "
            f"{dataset.split.min_rows} positive events"
        )
    for name in SPLITS[1:] if "item" in manifest.tables else ():
        info = manifest.splits[name]
        if info.cold_users:
            lines.append(
                f"{name}: {info.cold_users:,} users without positive train rows are evaluated with "
                f"evaluate.cold_users: rank only ({info.cold_user_rows:,} rows)"
            )
        if info.rare_users and isinstance(dataset.user_ids, VocabIdsConfig):
            limit = dataset.user_ids.max_rows
            beyond = f", or beyond max_rows {limit:,}," if limit is not None else ""
            lines.append(
                f"{name}: {info.rare_users:,} users with fewer than dataset.user_ids.min_count "
                f"{dataset.user_ids.min_count} positive train rows{beyond} are not evaluated "
                f"({info.rare_user_rows:,} rows)"
            )
    return lines


def feature_lines(manifest: Dataset) -> list[str]:
    """Each feature: keys of its table, the share of its values that is out of vocabulary, and who has any."""
    wholes = {"user": manifest.users.rows, "item": manifest.items.rows}
    wholes["context"] = sum(info.rows for info in manifest.splits.values()) + manifest.thinned
    lines = []
    for name, info in manifest.features.items():
        facts = []
        if info.boundaries is not None:
            facts.append(f"{len(info.boundaries) + 1:,} buckets")
        elif info.table is not None:
            table = manifest.tables[info.table]
            facts.append(f"{table.keys:,} keys")
            if table.oov is not None and info.values:
                facts.append(f"{info.oov_values / info.values:.1%} of values out of vocabulary")
        whole = wholes[info.of]
        owners = {"user": "users", "item": "items", "context": "rows"}[info.of]
        facts.append(f"known for {info.coverage / max(1, whole):.1%} of {whole:,} {owners}")
        lines.append(f"feature {name} ({info.kind}): {', '.join(facts)}")
    return lines


def side_lines(manifest: Dataset) -> list[str]:
    """What became of each side table's rows."""
    lines = []
    for info, section in zip(manifest.sides, manifest.source.get("sides", []), strict=True):
        many, table = f"{info.of}s", manifest.tables[info.of]
        name = ", ".join(path.rpartition("/")[2] or path for path in places_of(section))
        found = [
            f"{info.matched:,} of {info.matched + info.missing:,} {many} of the interactions have one",
            f"{info.missing:,} do not",
            f"{info.alone:,} occur only there",
        ]
        if info.duplicates:
            found.append(f"{info.duplicates:,} further rows of a key left out")
        if table.ids == "hash":
            found.append("counted by key")
        lines.append(f"{name}: {info.rows:,} rows; {', '.join(found)}")
        lines += [f"{name}: rejected for {why}: {n:,}" for why, n in info.rejected.items()]
    return lines


def date(nanoseconds: int) -> str:
    """A time to the minute, UTC."""
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=nanoseconds // _PER_SECOND)
    return f"{moment:%Y-%m-%d %H:%M}"


def log_report(
    manifest: Dataset, dataset: DatasetConfig, target: str, progress: Progress, base: Base | None = None
) -> None:
    """Logs the result: rows, tables, rejects, what was left out, time and memory."""
    logging.info("%s: prepared", target)
    splits = ", ".join(f"{name} {info.rows:,}" for name, info in manifest.splits.items())
    logging.info("rows read %s; %s", f"{manifest.source_rows:,}", splits)
    if manifest.source.get("roles", {}).get("timestamp"):
        # Often the only sign of a wrong source.timestamp_unit.
        for name, info in manifest.splits.items():
            if info.min_timestamp is not None and info.max_timestamp is not None:
                logging.info("%s: %s to %s UTC", name, date(info.min_timestamp), date(info.max_timestamp))
    for name, table in manifest.tables.items():
        logging.info(
            "table %s: %s rows, %s keys in train (%s)", name, f"{table.rows:,}", f"{table.keys:,}", table.ids
        )
    for line in [*base_lines(manifest, base), *side_lines(manifest), *feature_lines(manifest)]:
        logging.info("%s", line)
    for name, info in manifest.splits.items():
        if not info.rows:
            logging.warning("split %s is empty", name)
    for reason, count in manifest.rejected.items():
        logging.info("rejected for %s: %s, see %s/rejected", reason, f"{count:,}", target)
    for line in [*row_lines(manifest, dataset), *drift_lines(manifest)]:
        logging.info("%s", line)
    for reason, count in manifest.notes.items():
        logging.info("%s: %s", _note(reason), f"{count:,}")
    logging.info(
        "%.1f s, %s rows/s, peak memory %.0f MB on this machine",
        progress.seconds,
        f"{manifest.source_rows / progress.seconds:,.0f}",
        progress.peak_bytes / 1e6,
    )


def _note(reason: str) -> str:
    """A key of Dataset.notes in words."""
    forms = {
        "repeated_header": "repeated header lines, which are not rows",
        "null": "missing values of {} (empty or in source.nulls)",
        "cut": "lists of {} cut to the feature's max_length",
        "outer_blanks": "keys of {} stripped of outer blanks (source.clean_keys)",
        "integer_as_float": "keys of {} such as 17.0 read as 17 (source.clean_keys)",
    }
    form = next(form for form in forms if reason.startswith(form))
    return forms[form].format(reason[len(form) + 1 :])
