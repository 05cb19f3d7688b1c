"""Golden examples: questions to a served model with the answers of the trained one.

Answers come from the checkpoint through the trainer's own vectors and NumPy, not from anything that the
served model is made of: users' pasts are read from the catalog anew.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from configs.sections.export import IndexConfig
from trainer.data.catalog import Users, load_vocabulary
from trainer.data.features import Column, ListColumn, empty_column, empty_value, hash_of, join
from trainer.data.ragged import Ragged
from trainer.evaluation.scorer import item_vectors
from trainer.evaluation.trained import Trained
from trainer.serving.inputs.build import read_features
from trainer.serving.inputs.examples import UNKNOWN as UNKNOWN_KEY
from trainer.serving.inputs.examples import can_be_said, feature_examples
from trainer.serving.lookups import named_features
from trainer.serving.model import WHERE
from trainer.serving.weights import averaged

_SAMPLE = 32
# Next best items beyond k: the served model may swap items whose scores differ by rounding.
_SPARE = 20


@dataclasses.dataclass(frozen=True)
class _User:
    key: bytes
    id: int
    past: np.ndarray
    """Items of all splits that may be recommended, oldest first, int64."""
    history: np.ndarray
    """What the model reads of them, int64, at most history_length."""
    features: dict[str, Column]
    """As stored, of one row each; those of the context only where a request gives them."""


def golden_examples(trained: Trained, listed: np.ndarray) -> dict:
    """What trainer.serving.replay asks of the SavedModel, JSON values; keys are bytes read as latin-1.

    Args:
      trained: what was exported.
      listed: catalog ids int64 of all users in the catalog, ascending.

    Returns:
      users, items (keys), user_vectors, item_vectors, scores (of user i with item i, cyclically), and
      recommend: requests with their inputs beside k, exclude and exclude_seen, whether they are exact under
      every index, the `extended` list of best items and their scores, and the keys that may not appear; and
      approximate: null, or of an approximate index the least_recall over all lists.
    """
    users, item_ids = _sample_users(trained, listed), _sample_items(trained)
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
        "recommend": _requests(trained, users, user_vectors @ vectors.T, vectors),
        "approximate": _approximate(trained.config.export.index),
    }


def _approximate(index: IndexConfig) -> dict | None:
    if index.exact:
        return None
    # Export has measured the recall of more users; this is to tell an index from a broken one.
    return {"least_recall": index.min_recall / 2}


def _requests(trained: Trained, users: list[_User], scores: np.ndarray, vectors: np.ndarray) -> list[dict]:
    """Requests for recommend: with and without seen items, small and large k, excluded items, restrictions,
    and state of the users."""
    max_k, can_exclude = trained.config.export.max_k, trained.config.export.exclude_seen
    best = [_best(row, trained.items.known, 2) for row in scores]
    plain = _Request(users, scores, min(10, max_k), can_exclude)
    requests = [
        plain,
        dataclasses.replace(plain, k=min(3, max_k), exclude_seen=False),
        dataclasses.replace(plain, k=min(50, max_k), exclude=best),
        dataclasses.replace(plain, include=[np.append(two, trained.items.ids[:1]) for two in best]),
    ]
    first = np.array([two[0] for two in best])
    for name in named_features(trained):
        where, having = _wheres(trained, name, first)
        requests.append(dataclasses.replace(plain, where={name: where}, having=having))
    changed, inputs = _changed_users(trained, users)
    if inputs:
        scores = _user_vectors(trained, changed) @ vectors.T
        seen = [np.concatenate([a.past, b.past]) for a, b in zip(users, changed, strict=True)]
        past = [dataclasses.replace(user, past=past) for user, past in zip(users, seen, strict=True)]
        requests.append(dataclasses.replace(plain, users=past, scores=scores, inputs=inputs))
    return [_expected(trained, request) for request in requests]


def _wheres(trained: Trained, name: str, items: np.ndarray) -> tuple[list[bytes], list[np.ndarray]]:
    """(a value of each of `items`, which items have it, bool [catalog ids] each) of a feature; b"": none."""
    keys, column = load_vocabulary(trained.dataset, name), trained.items.features[name]
    lists = column.ids if isinstance(column, ListColumn) else Ragged(column, np.ones(len(column), np.int64))
    where, having = [], []
    for own in lists.take(items).first(1).last(1)[:, 0]:
        where.append(keys[own] if own >= 0 else b"")
        having.append(np.isin(np.arange(len(lists)), lists.row_of_value[lists.values == own]))
    return where, having


@dataclasses.dataclass(frozen=True)
class _Request:
    users: list[_User]
    """Their past is what exclude_seen leaves out."""
    scores: np.ndarray
    """float32 [users, catalog ids of items]."""
    k: int
    exclude_seen: bool
    exclude: list[np.ndarray] | None = None
    """Catalog ids of items, by user."""
    include: list[np.ndarray] | None = None
    where: dict = dataclasses.field(default_factory=dict)
    """By feature, each user's value (bytes)."""
    having: list[np.ndarray] | None = None
    """By user, which items have it, bool [catalog ids]."""
    inputs: dict = dataclasses.field(default_factory=dict)
    """What the request says of its users, as golden_examples returns it."""


def _expected(trained: Trained, request: _Request) -> dict:
    """A request with its expected answer."""
    items, keys, answers = trained.items, trained.items.keys, []
    nothing = np.array([], np.int64)
    exclude = request.exclude or [nothing] * len(request.users)
    for i, (user, row, without) in enumerate(zip(request.users, request.scores, exclude, strict=True)):
        without = without[items.known[without]]
        banned = np.unique(np.concatenate([without, user.past if request.exclude_seen else without]))
        allowed = items.known.copy()
        if request.include:
            allowed &= np.isin(np.arange(len(allowed)), request.include[i])
        if request.having and next(iter(request.where.values()))[i]:
            allowed &= request.having[i]
        allowed[banned] = False
        order = _best(row, allowed, request.k + _SPARE)
        answers.append(
            {
                "exclude": [_text(keys[i]) for i in without],
                "extended": [[_text(keys[i]), float(row[i])] for i in order],
                "banned": [_text(keys[i]) for i in banned],
            }
        )
    lists = {} if request.include is None else {"include": [[*map(_text, keys[i])] for i in request.include]}
    lists |= {WHERE + name: [[_text(value)] for value in values] for name, values in request.where.items()}
    found = {"k": request.k, "exclude_seen": request.exclude_seen, "answers": answers}
    return found | {"inputs": lists | request.inputs, "exact": bool(lists)}


def _best(scores: np.ndarray, allowed: np.ndarray, number: int) -> np.ndarray:
    """The items with the largest scores among those allowed, best first, of equal ones the first, int64."""
    items = np.flatnonzero(allowed)
    if number < len(items):
        own = scores[items]
        items = items[own >= np.partition(own, -number)[-number]]
    return items[np.argsort(-scores[items], kind="stable")[:number]]


def _changed_users(trained: Trained, users: list[_User]) -> tuple[list[_User], dict]:
    """The users with another past and other features, and the request inputs that say so."""
    reads, items = trained.recommender.model.user_inputs, trained.items
    inputs: dict[str, list] = {}
    past = users[0].past[:0]
    if "history" in reads:
        past = np.flatnonzero(items.in_histories)[:3][::-1]
        inputs["history"] = [
            [*map(_text, items.keys[past[:1]]), _text(UNKNOWN_KEY), *map(_text, items.keys[past[1:]])]
        ]
    names = [n for n in read_features(trained.dataset, reads) if can_be_said(trained.dataset, n)]
    of_users = [name for name in names if name in users[0].features]
    known = {name: join([user.features[name] for user in users]) for name in of_users}
    examples = feature_examples(trained.dataset, names, known, len(users))
    changed = []
    for i, user in enumerate(users):
        own = {name: column[np.array([i])] for name, column in examples.columns.items()}
        read = past[-trained.dataset.history_length :]
        changed.append(dataclasses.replace(user, past=past, history=read, features=user.features | own))
    return changed, inputs | examples.inputs


def _sample_users(trained: Trained, listed: np.ndarray) -> list[_User]:
    """Users spread over the catalog, then one whose key was never seen."""
    users = Users(trained.dataset, trained.items)
    unknown = _row_of_unknown(trained, "user")
    wanted = np.union1d(_spread(listed), [unknown])
    found = {}
    for block in users.blocks(ids=wanted):
        block = block.take(np.flatnonzero(np.isin(block.ids, wanted)))
        past = block.sequence.keep(trained.items.knows(block.sequence.values))
        history = users.histories(past.keep(trained.items.in_histories[past.values]), block.ids)
        for i in range(len(block)):
            one = np.array([i])
            items, read = past.take(one).values, history.take(one).values
            features = {name: values[one] for name, values in block.features.items()}
            found[int(block.ids[i])] = _User(block.keys[i], int(block.ids[i]), items, read, features)
    blank = {}
    for name, info in trained.dataset.features.items():
        if info.of == "user":
            single = info.kind not in ("list", "vector")
            blank[name] = empty_column(info, empty_value(trained.dataset, name) if single else 0, 1)
    nobody = _User(UNKNOWN_KEY, unknown, np.array([], np.int64), np.array([], np.int64), blank)
    # Under hashed ids the unknown key may fall on a row in use, and then shares its past.
    shared = dataclasses.replace(found.get(unknown, nobody), key=UNKNOWN_KEY)
    return [found[i] for i in sorted(found)] + [shared]


def _sample_items(trained: Trained) -> list[tuple[bytes, int]]:
    """(key, catalog id) of items spread over the catalog, those that cannot be recommended too, then of one
    that was never seen."""
    is_other = trained.items.keys != b""
    is_other[trained.items.ids] = False
    ids = np.concatenate([_spread(trained.items.ids), _spread(np.flatnonzero(is_other))])
    known = [(trained.items.keys[i], int(i)) for i in ids]
    return [*known, (UNKNOWN_KEY, _row_of_unknown(trained, "item"))]


def _spread(ids: np.ndarray) -> np.ndarray:
    return ids[np.unique(np.linspace(0, len(ids) - 1, _SAMPLE).astype(int))] if len(ids) else ids


def _row_of_unknown(trained: Trained, table: str) -> int:
    info = trained.dataset.tables[table]
    if info.oov is not None:
        return info.oov + hash_of(UNKNOWN_KEY, info.oov_rows)
    return int(tf.strings.to_hash_bucket_fast([UNKNOWN_KEY], info.rows)[0])


def _user_vectors(trained: Trained, users: list[_User]) -> np.ndarray:
    """float32 [n, D] from the checkpoint, one padded history per user."""
    length = max(trained.dataset.history_length, 1)
    history = np.full((len(users), length), -1, np.int64)
    for row, user in zip(history, users, strict=True):
        row[: len(user.history)] = user.history
    ids, features = np.array([user.id for user in users], np.int64), {}
    for name in users[0].features:
        features[name] = join([user.features[name] for user in users])
    inputs = trained.recommender.user_inputs(ids, history, features)
    return trained.recommender.user_vectors(inputs, averaged(trained), float(trained.step)).numpy()


def _text(key: bytes) -> str:
    return key.decode("latin-1")
