"""`lazytower inspect DATASET`: what `prepare` made of the data, and some rows with raw values beside ids."""

import argparse

from configs.chain import load_chain
from configs.dataset_parts import LabelInfo
from configs.errors import ConfigError
from configs.manifest import SPLITS, Dataset, load_dataset
from configs.sections.roles import PLANTED_LABEL
from configs.text import aligned
from trainer.data.inspection import QUANTILES, FeatureSummary, sample_rows, summarize
from trainer.report.drift import HELP, drift_rows

_WHOSE = {"user": "users", "item": "items", "context": "train rows"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the sub-command."""
    parser.add_argument(
        "dataset", metavar="DATASET", help="directory of a dataset, the config's dataset.path"
    )
    parser.add_argument("--rows", type=int, default=5, metavar="N", help="train rows to show (default 5)")
    parser.add_argument(
        "--feature", metavar="NAME", help="show this feature alone, with its 20 most frequent keys"
    )


def run(args) -> int:
    """Prints the splits, the tables, every feature and some rows."""
    dataset = load_dataset(args.dataset)
    names = list(dataset.features)
    if args.feature is not None:
        if args.feature not in names:
            known = ", ".join(names) or "none"
            raise ConfigError(f"--feature {args.feature}: not a feature of {args.dataset}; known: {known}")
        names = [args.feature]
    if not 0 <= args.rows <= dataset.block_rows:
        raise ConfigError(f"--rows {args.rows}: must be from 0 to {dataset.block_rows}")
    parts = [] if args.feature else [_splits(dataset), _tables(dataset), _histories(dataset)]
    if dataset.base is not None and not args.feature:
        parts.append(_below(dataset))
    if names:
        summaries = summarize(dataset, names, top=20 if args.feature else 5)
        parts += [_overview(summaries), "\n".join(line for s in summaries for line in _values(s))]
    if dataset.base is not None:
        parts += _drift(dataset, names if args.feature else list(dataset.drift))
    if args.rows and (rows := sample_rows(dataset, args.rows, names, history=not args.feature)):
        parts.append(
            aligned([list(rows[0]), *(list(row.values()) for row in rows)], left=range(len(rows[0])))
        )
    print("\n\n".join(parts))
    return 0


def _splits(dataset: Dataset) -> str:
    has_users, further = "user" in dataset.tables, [n for n in dataset.labels if n != PLANTED_LABEL]
    has_main = dataset.has_label or not further
    rows = [["split", "rows"] + ["positive"] * has_main + ["cold users", "their rows"] * has_users + further]
    for name in SPLITS:
        info = dataset.splits[name]
        numbers = [info.rows] + [info.positives] * has_main
        numbers += [info.cold_users, info.cold_user_rows] * has_users
        rows.append([name, *(f"{number:,}" for number in numbers)])
        rows[-1] += [_share(info.labels[label], info.rows) for label in further]
    text = aligned(rows)
    if further:
        text += "\nA further label has the share of ones among the rows in which it is known."
    if dataset.thinned:
        text += (
            f"\n{dataset.thinned:,} negative train rows are left out by dataset.keep_negatives "
            f"{dataset.keep_negatives:g}."
        )
    return text


def _share(label: LabelInfo, rows: int) -> str:
    ones = f"{label.ones / label.known:.2%}" if label.known else "-"
    return ones + (f", {1 - label.known / rows:.1%} empty" if label.known < rows else "")


def _tables(dataset: Dataset) -> str:
    rows = [["table", "ids", "rows", "keys in train", "other keys"]]
    for name, info in dataset.tables.items():
        rows.append([name, info.ids, f"{info.rows:,}", f"{info.keys:,}", f"{info.oov_keys:,}"])
    return aligned(rows, left=(0, 1))


def _histories(dataset: Dataset) -> str:
    if not dataset.history_length:
        return "histories: none"
    what = {"earlier": "the user's newest earlier items", "others": "the user's other train items"}
    return f"histories: at most {dataset.history_length} of {what[dataset.history_of or 'earlier']}"


def _below(dataset: Dataset) -> str:
    """What the dataset stands on. Users and items are those of all of it, train rows those of the dataset."""
    first, *below = load_chain(dataset)
    rows = [["stands on", "train", "valid", "test"]]
    for each in below:
        rows.append([each.path, *(f"{each.splits[name].rows:,}" for name in SPLITS)])
    late = f"; {first.base.late:,} of its rows are older than rows of those" if first.base else ""
    text = "Features below are of the users and items of all of these, and of the train rows of this one"
    return f"{aligned(rows, left=(0,))}\n{text}{late}."


def _overview(summaries: list[FeatureSummary]) -> str:
    rows = [["feature", "of", "kind", "table", "known", "distinct", "out of vocabulary"]]
    for found in summaries:
        info = found.info
        share = (
            f"{found.known / found.owners:.1%} of {found.owners:,} {_WHOSE[info.of]}" if found.owners else "-"
        )
        distinct = f"{found.distinct:,}" if found.distinct else "-"
        unknown = f"{found.out_of_vocabulary:.1%}" if found.values else "-"
        rows.append([found.name, info.of, info.kind, info.table or "-", share, distinct, unknown])
    return aligned(rows, left=(0, 1, 2, 3))


def _drift(dataset: Dataset, names: list[str]) -> list[str]:
    """How far columns are from those of the base: a table, and what it means."""
    rows = drift_rows({name: dataset.drift[name] for name in names if name in dataset.drift})
    if not rows or dataset.base is None:
        return []
    heading = [name.removesuffix("_share").replace("_", " ") for name in rows[0]]
    cells = [[_cell(name, value) for name, value in row.items()] for row in rows]
    text = {place for place, value in enumerate(rows[0].values()) if isinstance(value, str)}
    return [f"drift from {dataset.base.path}\n" + aligned([heading, *cells], left=text), HELP]


def _cell(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.1%}" if name.endswith("_share") else f"{value:.3f}"


def _values(found: FeatureSummary) -> list[str]:
    """The values of a feature in one or two lines."""
    lines = []
    if found.quantiles:
        what = {"list": "keys a list", "vector": "norm"}.get(found.info.kind, "values")
        numbers = ", ".join(f"{value:.6g}" for value in found.quantiles)
        lines.append(f"{found.name}: {what} at {', '.join(f'{q:.0%}' for q in QUANTILES)}: {numbers}")
    if found.top:
        keys = ", ".join(f"{key} {count:,}" for key, count in found.top)
        lines.append(f"{found.name}: most frequent: {keys}")
    return lines
