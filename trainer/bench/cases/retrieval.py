"""Cases of `bench retrieval`: the served model, and other libraries on the same vectors.

A case answers a TopKRequest: `ask(request)` is timed, `rows(answer)` then reads the rows of the items out of
the answer, int [batch, k]. `num_bytes` is the memory of its index, vectors included.
"""

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.bench.timing import NotMeasured

if TYPE_CHECKING:  # `--help` answers without TensorFlow
    import tensorflow as tf

_USERS = 256
_SEEN = 50
_REORDER = 500
WHERE_SHARES = {"1%": 0.01, "10%": 0.1, "90%": 0.9}
"""Shares of the items that have a value of the feature of `where`, by the value."""


@dataclasses.dataclass(frozen=True)
class TopKRequest:
    """A batch of users."""

    users: np.ndarray
    """Rows of `Data.users`."""
    keys: "tf.Tensor"
    """Their raw keys."""
    vectors: np.ndarray
    """Their vectors, float32 [batch, dim]."""
    tensor: "tf.Tensor"
    """The same."""
    k: int


class Data:
    """Vectors and questions, the same for all cases.

    Users and items are drawn around common centres, because those of trained models lie in clusters;
    approximate indexes fail on independent normal values, where no item is near any user.

    Args:
      items, dim: size of the catalog.
      centres: of the clusters.
      users: their number; the default where users have keys and seen items.
    """

    def __init__(self, items: int, dim: int, centres: int, users: int = _USERS):
        random = np.random.default_rng(0)
        self.centres = random.standard_normal([centres, dim], np.float32)
        self.items, self.users = self._around(random, items), self._around(random, users)
        self.seen = random.integers(0, items, [_USERS, _SEEN])
        self.having = {value: random.random(items) < share for value, share in WHERE_SHARES.items()}

    def _around(self, random, number: int) -> np.ndarray:
        """float32 [number, dim]: a centre and half as much noise, of lengths that differ by a fifth."""
        found = random.standard_normal([number, self.centres.shape[1]], np.float32)
        found *= 0.5
        found += self.centres[random.integers(0, len(self.centres), number)]
        found *= random.lognormal(0, 0.2, [number, 1]).astype(np.float32)
        return found

    def request(self, number: int, batch: int, k: int) -> TopKRequest:
        """The number-th batch of users, cyclically."""
        import tensorflow as tf

        users = np.arange(number * batch, (number + 1) * batch) % _USERS
        keys = tf.constant(self.keys[users].tolist(), tf.string)
        return TopKRequest(users, keys, self.users[users], tf.constant(self.users[users]), k)

    @functools.cached_property
    def keys(self) -> np.ndarray:
        """A raw key that hashes to each row of the users, object (bytes)."""
        import tensorflow as tf

        candidates = np.array([f"user {i}".encode() for i in range(40 * _USERS)], object)
        rows = tf.strings.to_hash_bucket_fast(candidates.tolist(), _USERS).numpy()
        return candidates[[np.flatnonzero(rows == row)[0] for row in range(_USERS)]]

    @functools.lru_cache(maxsize=8)  # noqa: B019 - lives as long as the benchmark
    def exact(self, k: int, without_seen: bool, where: str = "") -> list[set]:
        """Rows of each user's k best items; `where`: of those that have a value."""
        found = []
        for user, vector in enumerate(self.users):
            scores = self.items @ vector
            if without_seen:
                scores[self.seen[user]] = -np.inf
            if where:
                scores[~self.having[where]] = -np.inf
            best = np.argpartition(-scores, k - 1)[:k]
            found.append(set(best[scores[best] > -np.inf].tolist()))
        return found


class Served:
    """`recommend` of a ServingModel: keys hashed, the user's row gathered, names of the items looked up.

    `where`: only items with this value of a list feature.
    """

    def __init__(self, data: Data, kind: str, exclude_seen: bool = False, where: str = ""):
        import tensorflow as tf
        from pydantic import TypeAdapter

        from configs.sections.export import IndexConfig
        from trainer.indexes.base import make_index

        config = TypeAdapter(IndexConfig).validate_python({"kind": kind})
        vectors = tf.Variable(data.items, trainable=False)
        index = make_index(config, vectors, len(data.items))
        self.num_bytes = data.items.nbytes + index.num_bytes()
        self._model = _serving_model(data, vectors, index)
        self._exclude_seen = tf.constant(exclude_seen)
        self._where = {"where_share": tf.constant([[where]])} if where else {}

    def ask(self, request: TopKRequest) -> dict:
        import tensorflow as tf

        k = tf.constant(request.k)
        answer = self._model.recommend(request.keys, k, self._exclude_seen, **self._where)
        return {name: value.numpy() for name, value in answer.items()}

    def rows(self, answer: dict) -> np.ndarray:
        return np.array([[int(name or -1) for name in names] for names in answer["items"]])


def _serving_model(data: Data, vectors, index):
    import tensorflow as tf

    from configs.dataset_parts import TableInfo
    from trainer.serving.keys import KeyTable
    from trainer.serving.model import ServingModel, UserState
    from trainer.serving.user_rows import Lists

    hashed = [TableInfo(ids="hash", rows=n, oov=None, keys=n) for n in (_USERS, len(data.items))]
    seen = Lists(np.arange(0, data.seen.size + 1, _SEEN), data.seen.ravel().astype(np.int32))
    table = tf.Variable(data.users, trainable=False)
    return ServingModel(
        user_keys=KeyTable(hashed[0], None, "user"),
        item_keys=KeyTable(hashed[1], None, "item"),
        users=UserState(np.ones(_USERS, bool), None, 0, seen),
        inputs={},
        item_filters={"share": _share_filter(data)},
        item_order=np.arange(len(data.items)),
        servable=len(data.items),
        in_histories=len(data.items),
        item_vectors=vectors,
        item_names=np.array([b"%d" % i for i in range(len(data.items))], object),
        index=index,
        user_tower=lambda inputs: tf.gather(table, inputs["user"]),
        weights=[table],
        max_k=len(data.items),
    )


@functools.lru_cache(maxsize=1)
def _share_filter(data: Data):
    """The filter of a list feature, whose keys are WHERE_SHARES; one for all cases."""
    from configs.dataset_parts import TableInfo
    from trainer.data.features import ListColumn
    from trainer.data.ragged import Ragged
    from trainer.serving.filters import FeatureFilter
    from trainer.serving.keys import KeyTable

    names, having = list(data.having), np.stack(list(data.having.values()), axis=1)
    info = TableInfo(ids="vocab", rows=len(names) + 1, oov=len(names), keys=len(names))
    keys = np.array([name.encode() for name in names], object)
    table = KeyTable(info, lambda found: found.add(np.arange(len(names)), keys), "share")
    ids = np.nonzero(having)[1].astype(np.int64)
    return FeatureFilter("share", table, ListColumn(Ragged(ids, having.sum(axis=1)), None))


class TfrsBruteForce:
    """tfrs.layers.factorized_top_k.BruteForce: one product over all items, one top_k."""

    def __init__(self, data: Data):
        import tensorflow as tf
        import tensorflow_recommenders as tfrs

        self._layer = tfrs.layers.factorized_top_k.BruteForce().index(tf.constant(data.items))
        self._ask = tf.function(lambda vectors, k: self._layer(vectors, k), reduce_retracing=True)
        self.num_bytes = data.items.nbytes + 4 * len(data.items)

    def ask(self, request: TopKRequest) -> np.ndarray:
        return self._ask(request.tensor, request.k)[1].numpy()

    def rows(self, answer: np.ndarray) -> np.ndarray:
        return answer


class TfrsStreaming(TfrsBruteForce):
    """tfrs.layers.factorized_top_k.Streaming over blocks of 65,536 items, sliced without a copy."""

    _BLOCK = 1 << 16

    def __init__(self, data: Data):
        import tensorflow as tf
        import tensorflow_recommenders as tfrs

        items, rows = tf.constant(data.items), tf.range(len(data.items))
        blocks = tf.data.Dataset.range(0, len(data.items), self._BLOCK)
        blocks = blocks.map(lambda at: (rows[at : at + self._BLOCK], items[at : at + self._BLOCK]))
        self._layer = tfrs.layers.factorized_top_k.Streaming().index_from_dataset(blocks)
        self._ask = tf.function(lambda vectors, k: self._layer(vectors, k), reduce_retracing=True)
        self.num_bytes = data.items.nbytes + 4 * len(data.items)


class Numpy:
    """One product, then argpartition and a sort for each user."""

    def __init__(self, data: Data):
        self._items, self.num_bytes = data.items, data.items.nbytes

    def ask(self, request: TopKRequest) -> np.ndarray:
        return np.stack([_best(scores, request.k) for scores in -(request.vectors @ self._items.T)])

    def rows(self, answer: np.ndarray) -> np.ndarray:
        return answer


def _best(negated: np.ndarray, k: int) -> np.ndarray:
    best = np.argpartition(negated, k - 1)[:k]
    return best[np.argsort(negated[best])]


class Scann:
    """The Python API of the scann package, as its examples set it up, searching a share of the leaves."""

    def __init__(self, data: Data, share: float):
        if importlib.util.find_spec("scann") is None:
            raise NotMeasured("scann is not installed")
        self._searcher, leaves = _scann_searcher(data)
        self._leaves = max(1, round(share * leaves))
        # As far as it is documented: vectors for the last scores, codes of 4 bits for two columns, leaves.
        self.num_bytes = data.items.nbytes + len(data.items) * (math.ceil(data.items.shape[1] / 4) + 4)

    def ask(self, request: TopKRequest) -> np.ndarray:
        k, options = request.k, {"leaves_to_search": self._leaves}
        options |= {"final_num_neighbors": k, "pre_reorder_num_neighbors": max(_REORDER, 2 * k)}
        if len(request.vectors) == 1:
            return self._searcher.search(request.vectors[0], **options)[0][np.newaxis]
        return self._searcher.search_batched_parallel(request.vectors, **options)[0]

    def rows(self, answer: np.ndarray) -> np.ndarray:
        return answer.astype(np.int64)


@functools.lru_cache(maxsize=1)
def _scann_searcher(data: Data):
    """(searcher, its leaves); one for all shares of them."""
    from scann.scann_ops.py import scann_ops_pybind

    leaves = round(math.sqrt(len(data.items)))
    builder = scann_ops_pybind.builder(data.items, 10, "dot_product")
    builder = builder.tree(leaves, max(1, leaves // 20))
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(_REORDER)
    return builder.build(), leaves


OUR_RETRIEVAL = "brute_force"
RETRIEVAL_CASES: dict[str, Callable[[Data], Any]] = {
    OUR_RETRIEVAL: lambda data: Served(data, "brute_force"),
    "brute_force_unseen": lambda data: Served(data, "brute_force", exclude_seen=True),
    **{
        f"brute_force_where_{share}": functools.partial(Served, kind="brute_force", where=share)
        for share in WHERE_SHARES
    },
    "scann": lambda data: Served(data, "scann"),
    "tfrs_brute_force": TfrsBruteForce,
    "tfrs_streaming": TfrsStreaming,
    "numpy": Numpy,
    "scann_1%": lambda data: Scann(data, 0.01),
    "scann_5%": lambda data: Scann(data, 0.05),
    "scann_20%": lambda data: Scann(data, 0.2),
}
