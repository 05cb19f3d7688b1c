"""What the served ranking model knows of users and items, from the catalogs."""

import dataclasses

import numpy as np
import tensorflow as tf

from configs.manifest import Dataset
from trainer.data.catalog import Items
from trainer.data.chain.catalogs import load_features
from trainer.data.chain.parsing import OWNERS
from trainer.data.features import Column, VectorFiles
from trainer.evaluation.trained import Trained
from trainer.serving.inputs.build import feature_inputs, read_features
from trainer.serving.inputs.history import HISTORY, HistoryInput
from trainer.serving.inputs.kinds import BaseInput, constant
from trainer.serving.keys import KeyTable
from trainer.serving.lookups import key_table
from trainer.serving.user_rows import Lists, load_user_rows


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """Arguments of PredictionModel."""

    keys: dict[str, KeyTable]
    inputs: list[BaseInput | HistoryInput]
    reads_ids: list[str]


class _Members(tf.Module):
    """Which catalog ids belong to a set, bool [n] of int64 [n]; `members`: bool [catalog ids]."""

    def __init__(self, members: np.ndarray):
        super().__init__(name="members")
        self._members = constant(members, "members")

    def __call__(self, ids):
        return tf.gather(self._members, ids)


def served_features(trained: Trained) -> list[str]:
    """Features that the model reads, and keys of its crosses."""
    return read_features(trained.dataset, trained.recommender.model.inputs)


def load_knowledge(trained: Trained) -> Knowledge:
    """Reads the catalogs.

    Raises:
      DataError: they cannot be read.
      ExportError: keys cannot be exported.
    """
    dataset, reads = trained.dataset, trained.recommender.model.inputs
    names = served_features(trained)
    known, histories = _known(trained, names, HISTORY in reads)
    inputs: list[BaseInput | HistoryInput] = list(feature_inputs(dataset, names, known).values())
    owners = {owner for one in inputs for owner in one.owners} | set(reads)
    wanted = [of for of in OWNERS if of in owners or histories is not None]
    keys = {of: key_table(trained, of) for of in wanted}
    if histories is not None:
        admitted = _Members(history_items(trained).in_histories)
        bound = trained.items.rows if dataset.history_of == "others" else None
        inputs.insert(0, HistoryInput(histories, dataset.history_length, keys["item"], admitted, bound))
    return Knowledge(keys, inputs, [of for of in OWNERS if of in reads])


def history_items(trained: Trained) -> Items:
    """The items, of which histories may hold all with a table row of their own, as in training."""
    items, table = trained.items, trained.dataset.tables["item"]
    ids = np.flatnonzero(items.keys != b"")
    return dataclasses.replace(items, history_ids=ids[table.has_row(ids)])


def _known(trained: Trained, names: list[str], history: bool) -> tuple[dict[str, Column], Lists | None]:
    """(newest known features by catalog id, as stored; histories of users, if wanted)."""
    dataset, items = trained.dataset, trained.items
    of_users, of_items = ([n for n in names if dataset.features[n].of == of] for of in OWNERS)
    known = {name: _in_memory(items.features[name], items.rows) for name in of_items}
    if history:
        items = history_items(trained)
        users = load_user_rows(dataset, items, dataset.history_length, seen=False, features=of_users)
        return known | users.features, users.history
    if of_users:
        rows = catalog_rows(dataset, "user")
        columns = load_features(dataset, "user", of_users, rows)
        known |= {name: _in_memory(column, rows) for name, column in columns.items()}
    return known, None


def _in_memory(column: Column, rows: int) -> Column:
    return column[np.arange(rows)] if isinstance(column, VectorFiles) else column


def catalog_rows(dataset: Dataset, of: str) -> int:
    """Bound of the catalog ids of users or items."""
    table = dataset.tables[of]
    return max(table.rows, table.catalog_rows)
