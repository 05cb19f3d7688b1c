"""Golden examples: questions to a served model with the answers of the trained one.

Answers come from the checkpoint through the trainer's own vectors and NumPy, not from anything that the
served model is made of: users' pasts are read from the catalog anew.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from configs.sections.export import IndexConfig
from trainer.data.catalog import Users, unknown_feature
from trainer.evaluation.scorer import item_vectors
from trainer.evaluation.trained import Trained
from trainer.indexes.packages import op_library
from trainer.serving.saved_model import averaged

_SAMPLE = 32
# Next best items beyond k: the served model may swap items whose scores differ by rounding.
_SPARE = 20
UNKNOWN_KEY = b"\x01no such key\x01"


@dataclasses.dataclass(frozen=True)
class _User:
    key: bytes
    id: int
    past: np.ndarray
    """Items of all splits in the catalog, oldest first, int64."""
    features: dict


def golden_examples(trained: Trained) -> dict:
    """What trainer.serving.replay asks of the SavedModel, JSON values; keys are bytes read as latin-1.

    Returns:
      users, items (keys), user_vectors, item_vectors, scores (of user i with item i, cyclically), and
      recommend: requests with the `extended` list of best items and their scores, and the keys that
      may not appear; and approximate: null, or of an approximate index the op_library to load and the
      least_recall over all lists.
    """
    users, item_ids = _sample_users(trained), _sample_items(trained)
    vectors = item_vectors(trained.recommender, trained.items, averaged(trained), trained.step)
    user_vectors = _user_vectors(trained, users)
    pairs = [(i, i % len(item_ids)) for i in range(len(users))]
    item_keys = [key for key, _ in item_ids]
    of_items = vectors[[number for _, number in item_ids]]
    return {
        "users": [_text(user.key) for user in users],
        "items": [_text(key) for key in item_keys],
        "user_vectors": user_vectors.tolist(),
        "item_vectors": of_items.tolist(),
        "scores": [
            [_text(users[i].key), _text(item_keys[j]), float(user_vectors[i] @ of_items[j])] for i, j in pairs
        ],
        "recommend": _requests(trained, users, user_vectors @ vectors.T),
        "approximate": _approximate(trained.config.export.index),
    }


def _approximate(index: IndexConfig) -> dict | None:
    if index.exact:
        return None
    # Export has measured the recall of more users; this is to tell an index from a broken one.
    library = op_library(index.package) if index.package else None
    return {"op_library": library, "least_recall": index.min_recall / 2}


def _requests(trained: Trained, users: list[_User], scores: np.ndarray) -> list[dict]:
    """recommend with seen items kept and left out, small and large k, and a list of excluded items."""
    max_k, can_exclude = trained.config.export.max_k, trained.config.export.exclude_seen
    plain = [np.array([], np.int64) for _ in users]
    best = [np.argsort(-np.where(trained.items.known, row, -np.inf), kind="stable")[:2] for row in scores]
    return [
        _request(trained, users, scores, min(10, max_k), can_exclude, plain),
        _request(trained, users, scores, min(3, max_k), False, plain),
        _request(trained, users, scores, min(50, max_k), can_exclude, best),
    ]


def _request(trained, users, scores, k: int, exclude_seen: bool, exclude: list[np.ndarray]) -> dict:
    items, keys = trained.items, trained.items.keys
    answers = []
    for user, row, without in zip(users, scores, exclude, strict=True):
        without = without[items.known[without]]
        banned = np.unique(np.concatenate([without, user.past if exclude_seen else without]))
        allowed = items.known.copy()
        allowed[banned] = False
        order = np.argsort(-np.where(allowed, row, -np.inf), kind="stable")
        order = order[: min(k + _SPARE, int(allowed.sum()))]
        answers.append(
            {
                "exclude": [_text(keys[i]) for i in without],
                "extended": [[_text(keys[i]), float(row[i])] for i in order],
                "banned": [_text(keys[i]) for i in banned],
            }
        )
    return {"k": k, "exclude_seen": exclude_seen, "answers": answers}


def _sample_users(trained: Trained) -> list[_User]:
    """Users spread over the catalog, then one whose key was never seen."""
    users = Users(trained.dataset, trained.items)
    ids = np.sort(np.concatenate([block.ids for block in users.blocks()] or [np.array([], np.int64)]))
    unknown = _row_of_unknown(trained, "user")
    wanted = np.union1d(_spread(ids), [unknown])
    found = {}
    for block in users.blocks():
        block = block.take(np.flatnonzero(np.isin(block.ids, wanted)))
        past = block.sequence.keep(trained.items.knows(block.sequence.values))
        stops = np.cumsum(past.lengths)
        for i in range(len(block)):
            items = past.values[stops[i] - past.lengths[i] : stops[i]]
            features = {name: values[i] for name, values in block.features.items()}
            found[int(block.ids[i])] = _User(block.keys[i], int(block.ids[i]), items, features)
    names = [name for name, info in trained.dataset.features.items() if info.of == "user"]
    blank = {name: unknown_feature(trained.dataset, name)[0] for name in names}
    nobody = _User(UNKNOWN_KEY, unknown, np.array([], np.int64), blank)
    # Under hashed ids the unknown key may fall on a row in use, and then shares its past.
    shared = dataclasses.replace(found.get(unknown, nobody), key=UNKNOWN_KEY)
    return [found[i] for i in sorted(found)] + [shared]


def _sample_items(trained: Trained) -> list[tuple[bytes, int]]:
    """(key, row) of items spread over the catalog, then of one that was never seen."""
    known = [(trained.items.keys[i], int(i)) for i in _spread(trained.items.ids)]
    return [*known, (UNKNOWN_KEY, _row_of_unknown(trained, "item"))]


def _spread(ids: np.ndarray) -> np.ndarray:
    return ids[np.unique(np.linspace(0, len(ids) - 1, _SAMPLE).astype(int))] if len(ids) else ids


def _row_of_unknown(trained: Trained, table: str) -> int:
    info = trained.dataset.tables[table]
    if info.ids == "vocab":
        return info.oov
    return int(tf.strings.to_hash_bucket_fast([UNKNOWN_KEY], info.rows)[0])


def _user_vectors(trained: Trained, users: list[_User]) -> np.ndarray:
    """float32 [n, D] from the checkpoint, one padded history per user."""
    length = max(trained.dataset.history_length, 1)
    history = np.full((len(users), length), -1, np.int64)
    for row, user in zip(history, users, strict=True):
        last = user.past[-length:]
        row[: len(last)] = last
    columns = {"user": np.array([user.id for user in users], np.int64), "history": history}
    for name, info in trained.dataset.features.items():
        if info.of == "user":
            columns[name] = np.array([user.features[name] for user in users], info.dtype)
    inputs = {name: columns[name] for name in trained.recommender.model.user_inputs}
    return trained.recommender.user_vectors(inputs, averaged(trained), float(trained.step)).numpy()


def _text(key: bytes) -> str:
    return key.decode("latin-1")
