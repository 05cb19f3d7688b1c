"""Example values of features for golden requests, and what they are stored as, worked out in plain Python."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from configs.dataset_parts import FeatureInfo
from configs.manifest import Dataset
from trainer.data.blocks import read_blocks
from trainer.data.features import Column, ListColumn, empty_column, empty_value, hash_of
from trainer.data.ragged import Ragged
from trainer.serving.inputs.kinds import WEIGHT_OF

UNKNOWN = b"\x01no such key\x01"
_SOME = 8


@dataclasses.dataclass(frozen=True)
class Examples:
    """Of n users or rows."""

    inputs: dict[str, list]
    """What a request says, by its inputs, JSON values; keys are bytes read as latin-1."""
    columns: dict[str, Column]
    """The features that follow, as stored, [n] each."""


def can_be_said(dataset: Dataset, name: str) -> bool:
    """Whether requests can give a feature, or all keys of a cross."""
    info = dataset.features[name]
    if info.kind == "cross":
        return all(can_be_said(dataset, key) for key in info.keys)
    if not info.has_keys:
        return True
    table = dataset.tables[info.table or ""]
    return table.oov is None or bool(table.files) or not table.keys


def feature_examples(
    dataset: Dataset,
    names: list[str],
    known: Mapping[str, Column],
    number: int,
    rows: Mapping[str, Column] | None = None,
    alike: Collection[str] = (),
) -> Examples:
    """Values of every kind, unknown keys and empty ones among them.

    Args:
      dataset: the manifest.
      names: features that requests can give, and crosses, which follow from their keys.
      known: features of the users or items, as stored, [n] each; of those that are not of the context.
      number: n, of users or rows.
      rows: features of rows, as stored, [n] each: what is said of them, as far as it can be read back.
      alike: features of which all say what the first one says.
    """
    maker = _Maker(dataset, known, number, rows or {})
    for place, name in enumerate(names):
        if dataset.features[name].kind != "cross":
            maker.add(name, place)
            if name in alike:
                maker.repeat_first(name)
    for name in names:
        if dataset.features[name].kind == "cross":
            maker.cross(name)
    return Examples(maker.inputs, maker.columns)


def _spread(keys: int) -> np.ndarray:
    """A few ids of a table with so many keys."""
    return np.unique(np.linspace(0, max(keys - 1, 0), _SOME).astype(np.int64))


class _Maker:
    def __init__(
        self, dataset: Dataset, known: Mapping[str, Column], number: int, rows: Mapping[str, Column]
    ):
        self._dataset, self._known, self._number, self._rows = dataset, known, number, rows
        self._keys_read: dict[str, tuple[dict[int, bytes], dict[bytes, int]]] = {}
        self.inputs: dict[str, list] = {}
        self.columns: dict[str, Column] = {}

    def add(self, name: str, place: int) -> None:
        """Adds the examples of a feature that requests give; features at other places get other ones."""
        info = self._dataset.features[name]
        known = self._known.get(name)
        if known is None:
            empty = self._id(name, b"") if info.has_keys else empty_value(self._dataset, name)
            known = empty_column(info, empty, self._number)
        make = {"categorical": self._keys, "list": self._lists, "numeric": self._numbers}
        make.get(info.kind, self._vectors)(name, info, known, place)

    def repeat_first(self, name: str) -> None:
        """Gives all rows the example of the first one."""
        for key in [key for key in (name, WEIGHT_OF + name) if key in self.inputs]:
            self.inputs[key] = self.inputs[key][:1] * self._number
        self.columns[name] = self.columns[name][np.zeros(self._number, np.int64)]

    def _key_of(self, name: str, number: int) -> bytes:
        """The key of an id; of an out-of-vocabulary row, one that the table lacks."""
        table = self._dataset.tables[self._dataset.features[name].table or ""]
        if table.oov is not None and table.oov <= number < table.oov + table.oov_rows:
            return UNKNOWN
        return self._vocabulary(name)[0][number]

    def _is_readable(self, name: str) -> bool:
        """Whether keys of rows can be read back."""
        return name in self._rows and bool(
            self._dataset.tables[self._dataset.features[name].table or ""].files
        )

    def _key_choices(self, name: str) -> list[bytes]:
        """Keys of a table, spread over it, one that it lacks, and the one that says nothing."""
        table = self._dataset.tables[self._dataset.features[name].table or ""]
        known = [b"a", b"b"]
        if table.files:
            names = [self._vocabulary(name)[0].get(int(number), b"") for number in _spread(table.keys)]
            known = [key for key in names if key]
        return [*known, UNKNOWN, b""]

    def _vocabulary(self, name: str) -> tuple[dict[int, bytes], dict[bytes, int]]:
        """(keys by id, ids by key) of what the examples need of a table, read in one pass: a table may have
        more keys than fit into memory as objects."""
        if name not in self._keys_read:
            table = self._dataset.tables[self._dataset.features[name].table or ""]
            columns = [column[name] for column in (self._rows, self._known) if name in column]
            values = [getattr(c, "ids", c) for c in columns]
            wanted = np.concatenate([_spread(table.keys), *(getattr(v, "values", v) for v in values)])
            keys = {}
            for block in read_blocks(self._dataset, table.files, ["id", "key"]):
                for i in np.flatnonzero(np.isin(block["id"], wanted) | (block["key"] == b"")):
                    keys[int(block["id"][i])] = block["key"][i]
            self._keys_read[name] = keys, {key: number for number, key in keys.items()}
        return self._keys_read[name]

    def _id(self, name: str, key: bytes) -> int:
        table = self._dataset.tables[self._dataset.features[name].table or ""]
        if table.ids == "hash":
            return hash_of(key, table.rows)
        ids = self._vocabulary(name)[1] if table.files else {}
        if key in ids:
            return ids[key]
        assert table.oov is not None, "exact ids have an out-of-vocabulary row"
        return table.oov + (hash_of(key, table.oov_rows) if table.oov_rows > 1 else 0)

    def _cycled(self, choices: list, place: int) -> list:
        return [choices[(i + place) % len(choices)] for i in range(self._number)]

    def _keys(self, name: str, info: FeatureInfo, known: Column, place: int) -> None:
        if self._is_readable(name):
            said = [self._key_of(name, number) for number in self._rows[name]]
        else:
            said = self._cycled(self._key_choices(name), place)
        self.inputs[name] = [key.decode("latin-1") for key in said]
        ids = [self._id(name, key) if key else known[i] for i, key in enumerate(said)]
        self.columns[name] = np.array(ids, np.int64)

    def cross(self, name: str) -> None:
        """Adds a cross of features that were added."""
        info, ids = self._dataset.features[name], []
        rows = self._dataset.tables[info.table or ""].rows
        for i in range(self._number):
            said = [self.inputs[key][i].encode("latin-1") for key in info.keys]
            whole = [key or self._known_key(part, i) for part, key in zip(info.keys, said, strict=True)]
            known = self._known.get(name)
            if known is None or any(said):
                ids.append(hash_of(b"\x01".join(whole), rows))
            else:
                ids.append(int(known[i]))
        self.columns[name] = np.array(ids, np.int64)

    def _known_key(self, name: str, i: int) -> bytes:
        table = self._dataset.tables[self._dataset.features[name].table or ""]
        if name not in self._known or not table.files:
            return b""
        return self._vocabulary(name)[0].get(int(self._known[name][i]), b"")

    def _lists(self, name: str, info: FeatureInfo, known: ListColumn, place: int) -> None:
        said: list[list[str]] = []
        weights: list[list[float]] = []
        lists: list[list[int]] = []
        shares: list[float] = []
        for i in range(self._number):
            keys, parts = self._list(name, info, i, place)
            said.append([key.decode("latin-1") for key in keys])
            weights.append(parts)
            pairs = [pair for pair in zip(keys, parts, strict=True) if pair[0]][: info.max_length]
            own = known[np.array([i])]
            lists.append([self._id(name, key) for key, _ in pairs] if pairs else own.ids.values.tolist())
            if info.weighted:
                assert own.weights is not None
                shares += [share for _, share in pairs] if pairs else own.weights.tolist()
        width = max(map(len, said))
        self.inputs[name] = [row + [""] * (width - len(row)) for row in said]
        if info.weighted:
            self.inputs[WEIGHT_OF + name] = [row + [0.0] * (width - len(row)) for row in weights]
        ids = np.array([key for row in lists for key in row], np.int64)
        ragged = Ragged(ids, np.array([len(row) for row in lists], np.int64))
        self.columns[name] = ListColumn(ragged, np.array(shares, np.float32) if info.weighted else None)

    def _list(self, name: str, info: FeatureInfo, i: int, place: int) -> tuple[list[bytes], list[float]]:
        """(keys, weights) that are said of row i."""
        if self._is_readable(name):
            row = self._rows[name][np.array([i])]
            keys = [self._key_of(name, number) for number in row.ids.values]
            return keys, [1.0] * len(keys) if row.weights is None else row.weights.tolist()
        choices = self._key_choices(name)
        keys = [choices[(i + place + step) % len(choices)] for step in range((i + 1) % (info.max_length + 3))]
        return keys, [float((i + step) % 3) for step in range(len(keys))]

    def _numbers(self, name: str, info: FeatureInfo, known: Column, place: int) -> None:
        near = [info.mean + step * info.stddev for step in (-2.0, 0.5, 3.0)]
        choices: list[Any] = [*map(abs, near), 0.0, *(info.boundaries or [])[:_SOME], np.nan]
        if info.steps[:1] == ["log1p"]:
            choices = [abs(choice) for choice in choices]
        said = np.array(self._rows.get(name, self._cycled(choices, place)), np.float32)
        self.inputs[name] = said.tolist()
        self.columns[name] = np.where(np.isnan(said), known, said).astype(np.float32)

    def _vectors(self, name: str, info: FeatureInfo, known: Column, place: int) -> None:
        said = np.roll(known, 1, axis=0)
        said[place % 2 :: 2] = np.nan
        self.inputs[name] = said.tolist()
        self.columns[name] = np.where(np.isnan(said), known, said).astype(np.float32)
