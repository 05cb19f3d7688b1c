"""The inputs of a served model for the features that it reads, from the dataset."""

import functools
from collections.abc import Iterable

import numpy as np
from absl import logging

from configs.manifest import Dataset
from trainer.data.blocks import read_blocks
from trainer.data.catalog import load_vocabulary
from trainer.data.features import Column, ListColumn, empty_value
from trainer.serving.inputs.kinds import (
    BaseInput,
    CategoricalInput,
    CrossInput,
    ListInput,
    NumericInput,
    VectorInput,
)
from trainer.serving.keys import Fingerprints, KeyTable
from trainer.serving.user_rows import Lists


def read_features(dataset: Dataset, names: Iterable[str]) -> list[str]:
    """The features among the inputs `names` of a model, and the keys of their crosses, in that order."""
    found = [name for name in names if name in dataset.features]
    parts = [key for name in found for key in dataset.features[name].keys]
    return list(dict.fromkeys([*found, *parts]))


def feature_inputs(dataset: Dataset, names: list[str], known: dict[str, Column]) -> dict[str, BaseInput]:
    """By feature.

    Args:
      dataset: the manifest.
      names: from `read_features`.
      known: of features of users and items, as stored, by catalog id.

    Raises:
      DataError: a vocabulary cannot be read.
      ExportError: as KeyTable.
    """
    keys: dict[str, KeyTable | None] = {}
    crossed = {key for name in names for key in dataset.features[name].keys}
    found: dict[str, BaseInput] = {}
    # Crosses last: they are made of the inputs of their keys.
    for name in sorted(names, key=lambda name: dataset.features[name].kind == "cross"):
        info, column = dataset.features[name], known.get(name)
        if info.has_keys and info.table not in keys:
            keys[info.table or ""] = _keys_or_none(dataset, name)
        table = keys.get(info.table or "")
        if info.kind == "cross":
            parts = [found[key] for key in info.keys]
            rows = dataset.table_rows(info.table or "")
            assert all(isinstance(part, CategoricalInput) for part in parts)
            found[name] = CrossInput(name, info, rows, parts, column)
        elif info.kind == "list":
            found[name] = ListInput(name, info, table, None if column is None else _lists(column))
        elif info.kind == "vector":
            assert column is not None, "vectors are of users or items"
            found[name] = VectorInput(name, info, column)
        elif info.is_numeric:
            found[name] = NumericInput(name, info, column, empty_value(dataset, name))
        else:
            found[name] = CategoricalInput(
                name, info, table, column, _names(dataset, name) if name in crossed else None
            )
    return found


def _names(dataset: Dataset, name: str) -> np.ndarray | None:
    """Raw keys by id; None under hashed ids."""
    table = dataset.tables[dataset.features[name].table or ""]
    return load_vocabulary(dataset, name) if table.files else None


def _lists(column: ListColumn) -> tuple[Lists, Lists | None]:
    splits = np.concatenate([[0], np.cumsum(column.ids.lengths)]).astype(np.int64)
    ids = Lists(splits, column.ids.values.astype(np.int32))
    return ids, None if column.weights is None else Lists(splits, column.weights)


def _keys_or_none(dataset: Dataset, name: str) -> KeyTable | None:
    table = dataset.tables[dataset.features[name].table or ""]
    if table.oov is not None and table.keys and not table.files:
        logging.warning(
            "%s: has no vocabulary of %s, so requests cannot give its value; run `lazytower prepare "
            "--overwrite` for one",
            *(dataset.path, name),
        )
        return None
    return table_keys(dataset, name)


def table_keys(dataset: Dataset, name: str) -> KeyTable:
    """The KeyTable of a feature's table."""
    table = dataset.features[name].table or ""
    return KeyTable(dataset.tables[table], functools.partial(_add_vocabulary, dataset, table), table)


def _add_vocabulary(dataset: Dataset, table: str, fingerprints: Fingerprints) -> None:
    for block in read_blocks(dataset, dataset.tables[table].files, ["id", "key"]):
        fingerprints.add(block["id"], block["key"])
