"""Raw keys to rows of a table, inside the served graph.

Exact ids are looked up by fingerprint: SipHash of the key modulo 2^63 - 1 in an ascending int64 array, found
by binary search, and the row beside it. That is 12 bytes a key whatever its length, loaded like any weight.
tf.lookup.StaticHashTable takes 44 to 108 bytes a key and seconds of hashing at every start (measured in
docs/decisions.md). No two keys of a table share a fingerprint: where they would, another seed is taken. A key
outside the table is taken for one inside with probability keys / 2^63.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from configs.dataset_parts import TableInfo
from configs.errors import ExportError

_BUCKETS = 2**63 - 1
_SEEDS = range(8)  # two of 25 million keys collide under one seed with probability 3e-5
_AT_ONCE = 1 << 20


class Fingerprints:
    """Of all keys of a table under one seed.

    Args:
      rows: number of ids, 0 .. rows - 1.
      seed: of the hash.
      buckets: fingerprints are below it.
      gaps: number of ids without a key; None: any.
    """

    def __init__(self, rows: int, seed: int, buckets: int = _BUCKETS, gaps: int | None = 0):
        self.seed, self.buckets, self._gaps = seed, buckets, gaps
        self._values = np.full(rows, -1, np.int64)

    def add(self, ids: np.ndarray, keys: np.ndarray) -> None:
        """Keys, object (bytes) [n], of ids int64 [n]; in any order."""
        for start in range(0, len(ids), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            hashed = _fingerprint(tf.constant(keys[part].tolist(), tf.string), self.seed, self.buckets)
            self._values[ids[part]] = hashed.numpy()

    @property
    def missing(self) -> int:
        """How many ids have got no key."""
        return 0 if self._gaps is None else self._without_key - self._gaps

    @property
    def _without_key(self) -> int:
        return int((self._values < 0).sum())

    def sorted(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(ascending fingerprints int64 [keys], their ids int32 [keys]); None when two keys share one."""
        order = np.argsort(self._values, kind="stable")[self._without_key :]
        ascending = self._values[order]
        return None if (ascending[1:] == ascending[:-1]).any() else (ascending, order.astype(np.int32))


def _fingerprint(keys, seed: int, buckets: int):
    return tf.strings.to_hash_bucket_strong(keys, buckets, [seed, seed])


class KeyTable(tf.Module):
    """Ids int64 [n] of keys, string [n]: catalog ids of users and items, rows of the tables of features.

    Args:
      info: the table's entry in dataset.json.
      fill: adds all (ids, keys) of the table's catalog to its argument, a Fingerprints; called again with
        another seed should two keys collide. None under hashed ids.
      what: user, item or the name of a feature, for messages.
      buckets: see Fingerprints.

    Attributes:
      rows: of the table.
      oov: (first) id of unknown keys; None under hashed ids.

    Raises:
      ExportError: the catalog lacks keys.
    """

    def __init__(
        self,
        info: TableInfo,
        fill: Callable[[Fingerprints], None] | None,
        what: str,
        buckets: int = _BUCKETS,
    ):
        super().__init__(name=f"{what}_keys")
        self._info, self._buckets, self._seed = info, buckets, None
        self.rows, self.oov = info.rows, info.oov
        if info.oov is not None:
            self._seed, ascending, ids = _unique(info, fill, what, buckets)
            if not len(ids):  # all keys are rare: one that no key has keeps the search from an empty array
                ascending, ids = np.array([-1]), np.array([info.oov], np.int32)
            self._fingerprints = tf.Variable(ascending, trainable=False, name=f"{what}_fingerprints")
            self._ids = tf.Variable(ids, trainable=False, name=f"{what}_ids")

    def __call__(self, keys):
        if self._seed is None:
            return tf.strings.to_hash_bucket_fast(keys, self._info.rows)
        # Read whole, not gathered from: TensorFlow copies a variable at every whole read after a gather.
        known, ids = self._fingerprints.read_value(), self._ids.read_value()
        wanted = _fingerprint(keys, self._seed, self._buckets)
        place = tf.minimum(tf.searchsorted(known, wanted), tf.size(known) - 1)
        found = tf.gather(known, place) == wanted
        unknown = tf.constant(self._info.oov, tf.int64)
        if self._info.oov_rows > 1:
            unknown += tf.strings.to_hash_bucket_fast(keys, self._info.oov_rows)
        return tf.where(found, tf.cast(tf.gather(ids, place), tf.int64), unknown)


def _unique(info: TableInfo, fill, what: str, buckets: int) -> tuple[int, np.ndarray, np.ndarray]:
    """(seed, ascending fingerprints, ids) under the first seed that keeps all keys apart."""
    size = max(info.keys, info.catalog_rows)
    gaps: int | None = size - info.keys - (info.oov_keys if info.catalog_rows else 0)
    if info.base_rows is not None:
        gaps = None  # keys of datasets below have left ids that no other has taken
    for seed in _SEEDS:
        found = Fingerprints(size, seed, buckets, gaps)
        fill(found)
        if found.missing:
            raise ExportError(
                f"the catalog of {what}s holds no key for {found.missing:,} ids; "
                "run `lazytower prepare --overwrite`"
            )
        if (arrays := found.sorted()) is not None:
            return seed, *arrays
    raise ExportError(
        f"the catalog of {what}s holds a key twice (fingerprints collide under {len(_SEEDS)} seeds); "
        "run `lazytower prepare --overwrite`"
    )
