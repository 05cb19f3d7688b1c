"""Cases of `bench score`: the best items of many users, from the same vectors.

A case is a function from user vectors float32 [n, dim] to the rows of their best items, int [n, k], best
first; `product` only multiplies, and returns None.
"""

import importlib.util
from collections.abc import Callable

import numpy as np

from trainer.bench.timing import NotMeasured

Case = Callable[[np.ndarray], "np.ndarray | None"]
_BLOCK = 128  # users whose scores a library without blocks of its own gets room for: 51 MB of 100,000 items


def _ours(items: np.ndarray, k: int) -> Case:
    import tensorflow as tf

    from trainer.kernels import ops
    from trainer.kernels.build import kernels

    if kernels() is None:
        raise NotMeasured("the kernels are not available")
    packed, rows = tf.constant(ops.panels(items)), tf.range(len(items))
    nobody = tf.zeros([0], tf.int64)
    return lambda users: ops.best_rows(users, packed, rows, (nobody, nobody), k)[1].numpy()


def _graph(items: np.ndarray, k: int) -> Case:
    import tensorflow as tf

    from trainer.indexes.brute_force import top_items

    vectors, nobody = tf.constant(items), tf.zeros([0], tf.int64)
    return _blockwise(
        lambda users: top_items(users, vectors, len(items), (nobody, nobody), tf.constant(k))[1].numpy()
    )


def _tfrs(items: np.ndarray, k: int) -> Case:
    import tensorflow as tf
    import tensorflow_recommenders as tfrs

    layer = tfrs.layers.factorized_top_k.BruteForce(k=k).index(tf.constant(items))
    ask = tf.function(lambda users: layer(users), reduce_retracing=True)
    return _blockwise(lambda users: ask(tf.constant(users))[1].numpy())


def _numpy(items: np.ndarray, k: int) -> Case:
    def best(users: np.ndarray) -> np.ndarray:
        scores = users @ items.T
        rows = np.argpartition(scores, len(items) - k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, rows, axis=1), axis=1)
        return np.take_along_axis(rows, order, axis=1)

    return _blockwise(best)


def _implicit(items: np.ndarray, k: int) -> Case:
    _need("implicit")
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    model = AlternatingLeastSquares(factors=items.shape[1], num_threads=0)
    model.item_factors = items

    def best(users: np.ndarray) -> np.ndarray:
        model.user_factors = users
        nothing = csr_matrix((len(users), len(items)), dtype=np.float32)
        everyone = np.arange(len(users))
        rows, _ = model.recommend(everyone, nothing, N=k, filter_already_liked_items=False)
        return np.asarray(rows)

    return best


def _faiss(items: np.ndarray, k: int) -> Case:
    _need("faiss")
    import faiss

    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    return lambda users: index.search(users, k)[1]


def _product(items: np.ndarray, k: int) -> Case:
    room = np.empty([_BLOCK, len(items)], np.float32)

    def multiply(users: np.ndarray) -> None:
        for start in range(0, len(users), _BLOCK):
            block = users[start : start + _BLOCK]
            np.matmul(block, items.T, out=room[: len(block)])

    return multiply


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise NotMeasured(f"{package} is not installed")


def _blockwise(best: Callable[[np.ndarray], np.ndarray]) -> Case:
    return lambda users: np.concatenate(
        [best(users[start : start + _BLOCK]) for start in range(0, len(users), _BLOCK)]
    )


OUR_SCORING = "lazytower"
PRODUCT = "product"
SCORING_CASES: dict[str, Callable[[np.ndarray, int], Case]] = {
    OUR_SCORING: _ours,
    "lazytower_graph": _graph,
    "numpy": _numpy,
    "tfrs_brute_force": _tfrs,
    "implicit": _implicit,
    "faiss": _faiss,
    PRODUCT: _product,
}
