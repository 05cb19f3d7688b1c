"""Golden examples of a ranking model: requests with the predictions of the trained one.

Predictions come from the checkpoint through the recommender, whose inputs are worked out from the dataset's
files in NumPy, not from anything that the served model is made of.
"""

import dataclasses
from collections.abc import Collection

import numpy as np

from trainer.data.blocks import read_blocks
from trainer.data.catalog import Users
from trainer.data.chain.catalogs import KEY, SEQUENCE, catalog_blocks, load_features
from trainer.data.features import Column, column_of, hash_of, model_inputs, stored_columns
from trainer.data.ragged import Ragged
from trainer.evaluation.trained import Trained
from trainer.serving.inputs.examples import UNKNOWN, can_be_said, feature_examples
from trainer.serving.inputs.history import HISTORY
from trainer.serving.inputs.kinds import WEIGHT_OF
from trainer.serving.predictions.knowledge import catalog_rows, history_items, served_features
from trainer.serving.weights import averaged

_ROWS = 24
_LIMIT = 1e-6
_ALONE = 4
"""Rows that are predicted one by one, too, which shows how much predictions differ by rounding."""
_NOISE = 10


@dataclasses.dataclass(frozen=True)
class SampleRequest:
    """What is said of n rows."""

    inputs: dict[str, list]
    """By input of `score`, JSON values, n rows or one; keys are bytes read as latin-1."""
    columns: dict[str, Column]
    """What the model reads then: table rows as user, item and history, and features as stored, [n] each."""


@dataclasses.dataclass(frozen=True)
class _Owners:
    """Users or items of the catalog, and one whose key was never seen."""

    keys: list[str]
    ids: np.ndarray
    """Catalog ids."""
    features: dict[str, Column]
    histories: list[list[int]]
    """Of users, if the model reads them: catalog ids of items."""

    def of_rows(self, rows: np.ndarray) -> "_Owners":
        """Those at these positions."""
        features = {name: column[rows] for name, column in self.features.items()}
        histories = [self.histories[i] for i in rows] if self.histories else []
        return _Owners([self.keys[i] for i in rows], self.ids[rows], features, histories)


def golden_predictions(trained: Trained, forms: dict[str, str], requests: list[SampleRequest]) -> dict:
    """What trainer.serving.replay asks of the SavedModel, JSON values.

    Args:
      forms: signatures of Classify and Regress with their tasks, as PredictionModel.task_of_signature.
      requests: from `sample_requests`.
    """
    found = []
    for request in requests:
        expected, limits = _expected(trained, request)
        found.append({"inputs": request.inputs, "expected": expected, "limits": limits})
    return {"predictions": found, "forms": forms}


def _expected(trained: Trained, request: SampleRequest) -> tuple[dict, dict]:
    """(predictions by task, what the served ones may differ by: 1e-6, or rounding if that is larger)."""
    recommender, reads = trained.recommender, trained.recommender.model.inputs
    inputs = model_inputs(trained.dataset.features, {name: request.columns[name] for name in reads})

    def ask(rows: slice) -> dict[str, np.ndarray]:
        part = {name: values[rows] for name, values in inputs.items()}
        found = recommender.predictions(part, averaged(trained), float(trained.step))
        return {name: values.numpy() for name, values in found.items()}

    expected, limits = ask(slice(None)), {}
    alone = [ask(slice(i, i + 1)) for i in range(_ALONE)]
    for task, values in expected.items():
        several = values[:_ALONE]
        noise = np.abs(several - [one[task][0] for one in alone]) / np.maximum(1.0, np.abs(several))
        limits[task] = max(_LIMIT, _NOISE * float(noise.max()))
    return {task: values.tolist() for task, values in expected.items()}, limits


def sample_requests(trained: Trained) -> list[SampleRequest]:
    """Requests of rows of the data, of made-up values of every kind, and of one user with several items.

    Rows have users and items spread over the catalogs, since a row's own ones would have to be searched for;
    keys of hashed features are made up, because they cannot be read back.
    """
    sample = _Sample(trained)
    names = sample.names
    if "item" in sample.owners:
        alike = [name for name in names if trained.dataset.features[name].of != "item"]
    else:
        alike = names[::2]
    return [sample.of_data(), sample.made_up(()), sample.made_up(alike, one_user=True)]


class _Sample:
    """Makes requests; `owners`: users and items, if the model reads anything of them."""

    def __init__(self, trained: Trained):
        self._trained, self._dataset = trained, trained.dataset
        self._reads = trained.recommender.model.inputs
        self.names = served_features(trained)
        infos = [self._dataset.features[name] for name in self.names]
        self._history = HISTORY in self._reads
        self.owners: dict[str, _Owners] = {}
        for of, load in (("user", self._users), ("item", self._items)):
            if self._history or of in self._reads or any(info.of == of for info in infos):
                found = load([n for n in self.names if self._dataset.features[n].of == of])
                self.owners[of] = found.of_rows(np.arange(_ROWS) % len(found.ids))

    def of_data(self) -> SampleRequest:
        """Rows of a held-out split, or of train if those are empty."""
        splits = [self._dataset.splits[name] for name in ("test", "valid", "train")]
        files = next(split.files for split in splits if split.rows)
        here = [n for n in self.names if self._dataset.features[n].lives == "records"]
        columns = [c for n in here for c in stored_columns(self._dataset.features[n], n)]
        columns += [HISTORY, f"{HISTORY}_length"] if self._history else []
        block = next(iter(read_blocks(self._dataset, files, ["timestamp", *columns])))
        rows = np.linspace(0, len(block["timestamp"]) - 1, _ROWS).astype(int)
        stored = {n: column_of(self._dataset.features[n], n, block)[rows] for n in here}
        histories = None
        if self._history:
            past = Ragged(block[HISTORY], block[f"{HISTORY}_length"]).take(rows)
            histories = _lists(past.keep(history_items(self._trained).in_histories[past.values]))
        return self._request(self.owners, stored, (), histories)

    def made_up(self, alike: Collection[str], one_user: bool = False) -> SampleRequest:
        """Values of every kind; inputs of features in `alike`, and the user if it is one, have one row."""
        owners = dict(self.owners)
        if one_user and "user" in owners:
            owners["user"] = owners["user"].of_rows(np.zeros(_ROWS, np.int64))
        request = self._request(owners, {}, alike, None)
        alone = {*alike, *(WEIGHT_OF + name for name in alike), *(["user"] if one_user else [])}
        inputs = {name: rows[:1] if name in alone else rows for name, rows in request.inputs.items()}
        return dataclasses.replace(request, inputs=inputs)

    def _request(self, owners, stored, alike, histories) -> SampleRequest:
        """A request of these owners with examples of all features.

        Args:
          stored: features of rows.
          histories: catalog ids of items that are said; None: nothing.
        """
        known = {name: column for owner in owners.values() for name, column in owner.features.items()}
        names = [name for name in self.names if can_be_said(self._dataset, name)]
        examples = feature_examples(self._dataset, names, known, _ROWS, stored, alike)
        inputs, columns = dict(examples.inputs), known | examples.columns
        for of, owner in owners.items():
            inputs[of] = owner.keys
            columns[of] = self._dataset.tables[of].row_of(owner.ids)
        if self._history:
            if histories is not None:
                keys = self._trained.items.keys
                # A key that is unknown says that there is no history, which no key would not.
                inputs[HISTORY] = [[_text(keys[i]) for i in row] or [_text(UNKNOWN)] for row in histories]
            columns[HISTORY] = self._padded(owners["user"].histories if histories is None else histories)
        return SampleRequest(inputs, columns)

    def _padded(self, histories: list[list[int]]) -> np.ndarray:
        found = np.full((len(histories), self._dataset.history_length), -1, np.int64)
        for row, items in zip(found, histories, strict=True):
            row[: len(items)] = items
        return self._dataset.tables["item"].row_of(found)

    def _users(self, names: list[str]) -> _Owners:
        """Some of the first block of the catalog."""
        columns = [KEY, *([SEQUENCE] if self._history else [])]
        block = next(catalog_blocks(self._dataset, "user", columns))
        block = block.take(np.unique(np.linspace(0, len(block) - 1, _ROWS // 2).astype(int)))
        keys, ids = block.columns[KEY].tolist(), block.ids
        histories: list[list[int]] = []
        if self._history:
            past = block.columns[SEQUENCE]
            items = history_items(self._trained)
            past = past.keep(items.in_histories[past.values])
            histories = _lists(Users(self._dataset, items).histories(past, ids))
        if self._dataset.tables["user"].oov is not None:  # under hashed ids it could have someone's past
            keys, ids, histories = self._with_unknown("user", keys, ids, histories)
        known = load_features(self._dataset, "user", names, catalog_rows(self._dataset, "user"))
        features = {name: column[ids] for name, column in known.items()}
        return _Owners([_text(key) for key in keys], ids, features, histories)

    def _items(self, names: list[str]) -> _Owners:
        items = self._trained.items
        known = np.flatnonzero(items.keys != b"")
        ids = known[np.unique(np.linspace(0, len(known) - 1, _ROWS // 2).astype(int))]
        keys, ids, _ = self._with_unknown("item", items.keys[ids].tolist(), ids, [])
        features = {name: items.features[name][ids] for name in names}
        return _Owners([_text(key) for key in keys], ids, features, [])

    def _with_unknown(self, of: str, keys: list, ids: np.ndarray, histories: list) -> tuple:
        """The same with one more, whose key was never seen."""
        info = self._dataset.tables[of]
        if info.oov is None:
            number = hash_of(UNKNOWN, info.rows)
        else:
            number = info.oov + hash_of(UNKNOWN, info.oov_rows)
        return [*keys, UNKNOWN], np.append(ids, number), [*histories, *([[]] if histories else [])]


def _lists(ragged: Ragged) -> list[list[int]]:
    stops = np.cumsum(ragged.lengths)
    pairs = zip(stops - ragged.lengths, stops, strict=True)
    return [ragged.values[start:stop].tolist() for start, stop in pairs]


def _text(key: bytes) -> str:
    return key.decode("latin-1")
