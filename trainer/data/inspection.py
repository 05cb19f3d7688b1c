"""What `prepare` made of the data: of each feature its values, how often they are known, and some rows."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from configs.columns import label_column
from configs.dataset_parts import FeatureInfo
from configs.manifest import Dataset
from trainer.data.blocks import read_blocks
from trainer.data.catalog import load_vocabulary
from trainer.data.chain.catalogs import KEY, catalog_blocks
from trainer.data.chain.overlays import Entries
from trainer.data.features import Column, ListColumn, VectorFiles, column_of, stored_columns
from trainer.data.ragged import Ragged

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_SHOWN = 3  # items of a history


@dataclasses.dataclass
class FeatureSummary:
    """The values of one feature over the users, items or train rows that have it."""

    name: str
    info: FeatureInfo
    owners: int = 0
    """Users, items or train rows that were looked at."""
    known: int = 0
    """Those with a value: a key, at least one key of a list, a number, a vector that is not zero."""
    distinct: int = 0
    """Distinct ids; 0 for numbers and vectors."""
    unknown: int = 0
    """Values on out-of-vocabulary rows."""
    values: int = 0
    """All ids, those of lists one by one; 0 for numbers and vectors."""
    top: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    """The most frequent keys, each with how often it occurs; ids as text where keys are not kept."""
    quantiles: list[float] = dataclasses.field(default_factory=list)
    """Of numbers as stored, of lengths of lists, or of lengths (norms) of vectors: at QUANTILES."""

    @property
    def out_of_vocabulary(self) -> float:
        """Share of the values that are on out-of-vocabulary rows."""
        return self.unknown / self.values if self.values else 0.0


def summarize(dataset: Dataset, names: Iterable[str], top: int) -> list[FeatureSummary]:
    """Summaries of features, of the newest values in catalogs and of train rows.

    Args:
      top: number of most frequent keys to find.

    Raises:
      DataError: a file differs from dataset.json, or cannot be read.
    """
    by_owner: dict[str, list[str]] = {"user": [], "item": [], "context": []}
    for name in names:
        by_owner[dataset.features[name].of].append(name)
    found: dict[str, _Collector] = {}
    for owner, mine in by_owner.items():
        if mine:
            found |= {name: _Collector(dataset, name, top) for name in mine}
            for columns in _columns(dataset, owner, mine):
                for name, column in columns.items():
                    found[name].add(column)
    return [found[name].result() for names in by_owner.values() for name in names]


def _columns(dataset: Dataset, owner: str, names: list[str]) -> Iterator[dict[str, Column]]:
    """Columns of features, block by block, as stored."""
    infos = {name: dataset.features[name] for name in names}
    vectors = {name: VectorFiles(dataset, info) for name, info in infos.items() if info.kind == "vector"}
    stored = {name: info for name, info in infos.items() if name not in vectors}
    if owner != "context":
        for entries in catalog_blocks(dataset, owner, stored):
            yield entries.columns | {name: files[entries.ids] for name, files in vectors.items()}
        return
    wanted = [column for name, info in stored.items() for column in stored_columns(info, name)]
    for block in read_blocks(dataset, dataset.splits["train"].files, ["timestamp", *wanted]):
        yield {name: column_of(info, name, block) for name, info in stored.items()}


class _Collector:
    """Adds up the columns of one feature."""

    def __init__(self, dataset: Dataset, name: str, top: int):
        self._top = top
        self._dataset, self._summary = dataset, FeatureSummary(name, dataset.features[name])
        table = self._summary.info.table
        # The ids of buckets are computed when rows are read; what is stored are numbers.
        rows = dataset.table_rows(table) if table and not self._summary.info.is_numeric else 0
        self._counts = np.zeros(rows, np.int64)
        self._numbers: list[np.ndarray] = []
        self._empty = _empty_ids(dataset, self._summary.info)

    def add(self, column: Column) -> None:
        summary = self._summary
        summary.owners += len(column)
        if summary.info.is_numeric:
            numbers = column[~np.isnan(column)]
            summary.known += len(numbers)
        elif summary.info.kind == "vector":
            numbers = np.linalg.norm(column, axis=1)
            numbers = numbers[numbers > 0]
            summary.known += len(numbers)
        elif isinstance(column, ListColumn):
            numbers = column.ids.lengths
            summary.known += int(np.count_nonzero(numbers))
            self._count(column.ids.values)
        else:
            numbers = np.zeros(0, np.float32)
            summary.known += int(np.count_nonzero(~np.isin(column, self._empty)))
            self._count(column)
        self._numbers.append(numbers)

    def _count(self, ids: np.ndarray) -> None:
        self._counts += np.bincount(ids, minlength=len(self._counts))

    def result(self) -> FeatureSummary:
        summary = self._summary
        numbers = np.concatenate(self._numbers or [np.zeros(0)])
        if len(numbers):
            summary.quantiles = [float(value) for value in np.quantile(numbers, QUANTILES)]
        if not len(self._counts):
            return summary
        summary.values = int(self._counts.sum())
        summary.distinct = int(np.count_nonzero(self._counts))
        table = self._dataset.tables[summary.info.table or ""]
        if table.oov is not None:
            summary.unknown = int(self._counts[table.oov : table.oov + table.oov_rows].sum())
        key = key_reader(self._dataset, summary.name)
        order = np.argsort(-self._counts, kind="stable")[: self._top]
        summary.top = [(key(int(i)), int(self._counts[i])) for i in order if self._counts[i]]
        return summary


def _empty_ids(dataset: Dataset, info: FeatureInfo) -> np.ndarray:
    """Ids of the empty key, int64; none where keys are not kept."""
    if info.table is None or not dataset.tables[info.table].files:
        return np.zeros(0, np.int64)
    files = dataset.tables[info.table].files
    blocks = [block["id"][block["key"] == b""] for block in read_blocks(dataset, files, ["id", "key"])]
    return np.concatenate(blocks or [np.zeros(0, np.int64)])


def key_reader(dataset: Dataset, name: str) -> Callable[[int], str]:
    """A function from an id of a feature to its raw key as text; `#id` where keys are not kept."""
    table = dataset.tables[dataset.features[name].table or ""]
    kept = load_vocabulary(dataset, name) if table.files else None

    def key(number: int) -> str:
        if table.oov is not None and table.oov <= number < table.oov + table.oov_rows:
            return "(out of vocabulary)"
        if kept is None:
            return f"#{number}"
        return kept[number].decode("utf-8", "replace") or "(empty)"

    return key


def sample_rows(
    dataset: Dataset, number: int, names: list[str], history: bool = False
) -> list[dict[str, str]]:
    """The first rows of the train split's first file, with raw keys beside ids.

    Args:
      number: of rows, at most a block.
      names: features to show.
      history: whether to show histories, if the dataset has them.

    Returns:
      By column, text: user and item as `key (id)`, labels, history as number of items and the first ones, and
      features; those of catalogs as they are now.

    Raises:
      DataError: as `summarize`.
    """
    infos = {name: dataset.features[name] for name in names}
    own = {name: info for name, info in infos.items() if info.lives == "records"}
    wanted = [column for name, info in own.items() for column in stored_columns(info, name)]
    owners = [owner for owner in ("user", "item") if owner in dataset.tables]
    labels = label_columns(dataset)
    history = history and dataset.history_length > 0
    wanted += ["history", "history_length"] * history
    files = dataset.splits["train"].files
    block = next(read_blocks(dataset, files[:1], [*owners, "label", *labels.values(), *wanted]), None)
    if block is None:
        return []
    rows = np.arange(min(number, len(block["label"])))
    columns = {name: column_of(info, name, block)[rows] for name, info in own.items()}
    keys = {}
    for owner in owners:
        ids = block[owner][rows]
        mine = {name: info for name, info in infos.items() if info.lives == "catalog" and info.of == owner}
        keys[owner], found = _of_catalog(dataset, owner, ids, mine)
        columns |= found
    texts = {name: _texts(dataset, name, columns[name]) for name in names}
    if history:
        lists = Ragged(block["history"], block["history_length"]).take(rows)
        texts = {"history": _history_texts(dataset, lists)} | texts
    return [
        {owner: f"{keys[owner][i]} ({block[owner][i]})" for owner in keys}
        | {name: _number(block[column][i]) for name, column in labels.items()}
        | {name: column[i] for name, column in texts.items()}
        for i in rows
    ]


def label_columns(dataset: Dataset) -> dict[str, str]:
    """Record column of each label of the source; `label` alone, which is 1 everywhere, if it has none."""
    further = {name: label_column(name) for name in dataset.labels}
    return ({"label": "label"} if dataset.has_label or not further else {}) | further


def _number(value: float) -> str:
    return "(missing)" if np.isnan(value) else f"{value:g}"


def _history_texts(dataset: Dataset, histories: Ragged) -> list[str]:
    shown = histories.first(_SHOWN)
    keys, _ = _of_catalog(dataset, "item", shown.values, {})
    texts = iter(f"{key} ({i})" for key, i in zip(keys, shown.values, strict=True))
    return [
        f"{length}: {'; '.join(next(texts) for _ in range(few))}{'; ...' if length > few else ''}"
        for length, few in zip(histories.lengths, shown.lengths, strict=True)
    ]


def _of_catalog(
    dataset: Dataset, of: str, ids: np.ndarray, infos: dict[str, FeatureInfo]
) -> tuple[list[str], dict[str, Column]]:
    """Keys and features of some catalog ids, which may repeat and are all in the catalog."""
    stored = [name for name, info in infos.items() if info.kind != "vector"]
    parts = []
    for entries in catalog_blocks(dataset, of, [KEY, *stored]):
        parts.append(entries.take(np.flatnonzero(np.isin(entries.ids, ids))))
    found = Entries.join(parts).ordered()
    found = found.take(np.searchsorted(found.ids, ids))
    columns = {name: found.columns[name] for name in stored}
    columns |= {n: VectorFiles(dataset, i)[ids] for n, i in infos.items() if i.kind == "vector"}
    return [key.decode("utf-8", "replace") for key in found.columns[KEY]], columns


def _texts(dataset: Dataset, name: str, column: Column) -> list[str]:
    """The values of a column for people."""
    info = dataset.features[name]
    if info.is_numeric:
        return [_number(value) for value in column]
    if info.kind == "vector":
        return [" ".join(f"{value:.3g}" for value in row[:3]) + " ..." * (info.dim > 3) for row in column]
    key = key_reader(dataset, name)
    if not isinstance(column, ListColumn):
        return [f"{key(int(value))} ({value})" for value in column]
    lists = np.split(column.ids.values, np.cumsum(column.ids.lengths)[:-1])
    return ["; ".join(f"{key(int(value))} ({value})" for value in row) for row in lists]
