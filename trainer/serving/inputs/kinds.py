"""Features in the served model: raw values of a request become what the model reads, as in training.

What a request leaves out, "" and NaN say nothing: for a feature of users or items the model takes what it
knows of them, for one of the context the empty value. There is one class for each kind; BaseInput is their
interface.
"""

import abc
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from configs.dataset_parts import FeatureInfo
from trainer.data.features import WEIGHT
from trainer.data.numbers import model_numbers
from trainer.serving.inputs.device_lists import DeviceLists
from trainer.serving.keys import KeyTable
from trainer.serving.user_rows import Lists

WEIGHT_OF = "weight_"
"""Begins the names of inputs with the weights of a list."""


class BaseInput(tf.Module, abc.ABC):
    """One feature.

    Args:
      name, info: of the feature.

    Attributes:
      form: how a request gives it (trainer/serving/requests.py): string, float32, strings, weighted_strings,
        or vector; empty: it cannot.
    """

    form = ""

    def __init__(self, name: str, info: FeatureInfo):
        super().__init__(name=f"input_{name}")
        self.feature, self.info = name, info

    def specs(self) -> list[tuple[tf.TensorSpec, tf.Tensor]]:
        """Optional inputs of a request, each with the value that says nothing."""
        return []

    def checks(self, given: Mapping[str, tf.Tensor]) -> list:
        """Assertions that refuse values which no dataset holds, as INVALID_ARGUMENT."""
        return []

    @property
    def reads(self) -> list[str]:
        """Inputs of a request that `values` looks at."""
        return [spec.name for spec, _ in self.specs()]

    @property
    def owners(self) -> list[str]:
        """Whose ids `values` looks at, as FeatureInfo.of."""
        return [self.info.of]

    @abc.abstractmethod
    def values(self, ids: Mapping[str, tf.Tensor], given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Inputs of the model, by name, as trainer.data.features.model_inputs.

        Args:
          ids: by owner, catalog ids of users and items, int64 [n] each; of the context only n counts.
          given: the request's inputs that are there, of n rows or one.
        """

    def _own(self, ids: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return ids[self.info.of]


class CategoricalInput(BaseInput):
    """A key.

    Args:
      keys: of the feature's table; None: it has no vocabulary, so requests cannot name keys.
      known: ids by user or item, int [catalog ids]; None: of the context.
      names: raw keys by id, object (bytes) [rows], if a cross needs them; None: unknown, under hashed ids.
    """

    def __init__(
        self,
        name: str,
        info: FeatureInfo,
        keys: KeyTable | None,
        known: np.ndarray | None,
        names: np.ndarray | None = None,
    ):
        super().__init__(name, info)
        self._keys, self._known = keys, constant(known, f"feature_{name}")
        self._names = constant(names, f"names_of_{name}")
        self.form = "string" if keys is not None else ""

    def specs(self):
        """As BaseInput.specs."""
        if self._keys is None:
            return []
        return [(tf.TensorSpec([None], tf.string, self.feature), tf.constant([""]))]

    def raw(self, ids, given):
        """(the request's keys, string [n], "" where it says nothing; the same with the known keys there)."""
        owners = self._own(ids)
        said = tf.fill(tf.shape(owners), "")
        if self.feature in given:
            said = tf.broadcast_to(given[self.feature], tf.shape(owners))
        if self._known is None or self._names is None:
            return said, said
        known = tf.gather(self._names, tf.gather(self._known, owners))
        return said, tf.where(said == "", known, said)

    def values(self, ids, given):
        """As BaseInput.values."""
        known = None if self._known is None else tf.cast(tf.gather(self._known, self._own(ids)), tf.int64)
        if known is not None and self.feature not in given:
            return {self.feature: known}
        said, _ = self.raw(ids, given)
        assert self._keys is not None, "features of the context have a vocabulary"
        found = self._keys(said)
        return {self.feature: found if known is None else tf.where(said == "", known, found)}


class CrossInput(BaseInput):
    """The combination of several keys.

    Args:
      rows: of its table.
      parts: the inputs of its keys, in order.
      known: ids by user or item, int [catalog ids]; None: of the context.
    """

    def __init__(
        self, name: str, info: FeatureInfo, rows: int, parts: list[CategoricalInput], known: np.ndarray | None
    ):
        super().__init__(name, info)
        self._rows, self._parts, self._known = rows, parts, constant(known, f"feature_{name}")

    @property
    def reads(self):
        """As BaseInput.reads: those of its keys."""
        return [name for part in self._parts for name in part.reads]

    @property
    def owners(self):
        """As BaseInput.owners: its keys may have others."""
        return list(dict.fromkeys([self.info.of, *(part.info.of for part in self._parts)]))

    def values(self, ids, given):
        """As BaseInput.values: from the request's keys where it gives any, and known ones beside them."""
        raw = [part.raw(ids, given) for part in self._parts]
        joined = tf.strings.join([whole for _, whole in raw], "\x01")
        hashed = tf.strings.to_hash_bucket_fast(joined, self._rows)
        if self._known is None:
            return {self.feature: hashed}
        known = tf.cast(tf.gather(self._known, self._own(ids)), tf.int64)
        any_said = tf.reduce_any(tf.stack([said != "" for said, _ in raw]), axis=0)
        return {self.feature: tf.where(any_said, hashed, known)}


class ListInput(BaseInput):
    """Several keys, with weights or without.

    Args:
      keys: of the feature's table; None: it has no vocabulary, so requests cannot name keys.
      known: (ids, weights or None) of each user or item; None: of the context.
    """

    def __init__(
        self,
        name: str,
        info: FeatureInfo,
        keys: KeyTable | None,
        known: tuple[Lists, Lists | None] | None,
    ):
        super().__init__(name, info)
        self._keys = keys
        self._ids = DeviceLists(known[0], f"{name}_ids") if known else None
        self._weights = DeviceLists(known[1], f"{name}_weights") if known and known[1] else None
        if keys is not None:
            self.form = "weighted_strings" if info.weighted else "strings"

    def specs(self):
        """As BaseInput.specs."""
        if self._keys is None:
            return []
        found = [(tf.TensorSpec([None, None], tf.string, self.feature), tf.zeros([1, 0], tf.string))]
        if self.info.weighted:
            spec = tf.TensorSpec([None, None], tf.float32, WEIGHT_OF + self.feature)
            found.append((spec, tf.zeros([1, 0])))
        return found

    def checks(self, given):
        """As BaseInput.checks."""
        name = WEIGHT_OF + self.feature
        if name not in given:
            return []
        weights, wide = given[name], tf.shape(given[self.feature])[1]
        fine = tf.reduce_all((weights >= 0.0) & (weights < np.inf))
        width = tf.shape(weights)[1]
        return [
            tf.Assert(fine, [f"{name}: a weight is negative or not finite"]),
            tf.Assert((width == 0) | (width == wide), [f"{name} needs a weight for each key, found", width]),
        ]

    def values(self, ids, given):
        """As BaseInput.values."""
        owners = self._own(ids)
        keys, weights = self._known(owners)
        if self.feature in given:
            said_keys, said_weights, any_said = self._said(owners, given)
            keys = tf.where(any_said, said_keys, keys)
            weights = tf.where(any_said, said_weights, weights) if self.info.weighted else weights
        return {self.feature: keys} | ({self.feature + WEIGHT: weights} if self.info.weighted else {})

    def _known(self, owners):
        """(ids of keys, weights), padded."""
        shape = [tf.shape(owners)[0], self.info.max_length]
        if self._ids is None:
            return -tf.ones(shape, tf.int64), tf.zeros(shape)
        ids = tf.cast(self._ids.of(owners), tf.int64).to_tensor(-1, shape=[None, shape[1]])
        if self._weights is None:
            return ids, tf.zeros(shape)
        return ids, self._weights.of(owners).to_tensor(0.0, shape=[None, shape[1]])

    def _said(self, owners, given):
        """(ids, weights, whether the request names any key, bool [n, 1]) of the request, padded: its first
        keys that are not empty."""
        keys = given[self.feature]
        shape = tf.stack([tf.shape(owners)[0], tf.shape(keys)[1]])
        keys, length = tf.broadcast_to(keys, shape), self.info.max_length
        there = keys != ""
        assert self._keys is not None, "only then it is an input"
        ids = tf.reshape(self._keys(tf.reshape(keys, [-1])), shape)
        found = tf.ragged.boolean_mask(ids, there)[:, :length].to_tensor(-1, shape=[None, length])
        weights = tf.ones(shape)
        if WEIGHT_OF + self.feature in given:
            own = given[WEIGHT_OF + self.feature]
            weights = tf.cond(
                tf.shape(own)[1] > 0, lambda: tf.broadcast_to(own, shape), lambda: tf.ones(shape)
            )
        weights = tf.ragged.boolean_mask(weights, there)[:, :length].to_tensor(0.0, shape=[None, length])
        return found, weights, tf.reduce_any(there, axis=1, keepdims=True)


class NumericInput(BaseInput):
    """A number, or the bucket it falls into.

    Args:
      known: as stored, by user or item, float32 [catalog ids]; None: of the context.
      missing: the stored value that stands for an empty one; NaN if there is none.
    """

    form = "float32"

    def __init__(self, name: str, info: FeatureInfo, known: np.ndarray | None, missing: float):
        super().__init__(name, info)
        self._known, self._missing = constant(known, f"feature_{name}"), missing

    def specs(self):
        """As BaseInput.specs."""
        return [(tf.TensorSpec([None], tf.float32, self.feature), tf.constant([np.nan], tf.float32))]

    def checks(self, given):
        """As BaseInput.checks."""
        if self.feature not in given:
            return []
        said = given[self.feature]
        lowest = -1.0 if self._takes_logarithms else -np.inf
        what = "greater than -1 and finite" if self._takes_logarithms else "finite"
        fine = tf.math.is_nan(said) | ((said > lowest) & (said < np.inf))
        return [tf.Assert(tf.reduce_all(fine), [f"{self.feature} must be {what}, found", said])]

    @property
    def _takes_logarithms(self) -> bool:
        return self.info.steps[:1] == ["log1p"]

    def values(self, ids, given):
        """As BaseInput.values."""
        owners = self._own(ids)
        if self._known is None:
            stored = tf.fill(tf.shape(owners), np.float32(self._missing))
        else:
            stored = tf.gather(self._known, owners)
        if self.feature in given:
            said = tf.broadcast_to(given[self.feature], tf.shape(owners))
            stored = tf.where(tf.math.is_nan(said), stored, said)
        return {self.feature: model_numbers(self.info, stored, tf)}


class VectorInput(BaseInput):
    """Numbers that come from elsewhere.

    Args:
      known: by user or item, float32 [catalog ids, dim].
    """

    form = "vector"

    def __init__(self, name: str, info: FeatureInfo, known: np.ndarray):
        super().__init__(name, info)
        self._known = constant(known, f"feature_{name}")

    def specs(self):
        """As BaseInput.specs: a row with a NaN says nothing."""
        dim = self.info.dim
        return [
            (tf.TensorSpec([None, dim], tf.float32, self.feature), tf.constant([[np.nan] * dim], tf.float32))
        ]

    def values(self, ids, given):
        """As BaseInput.values."""
        known = tf.gather(self._known, self._own(ids))
        if self.feature not in given:
            return {self.feature: known}
        said = tf.broadcast_to(given[self.feature], tf.shape(known))
        nothing = tf.reduce_any(tf.math.is_nan(said), axis=1, keepdims=True)
        return {self.feature: tf.where(nothing, known, said)}


def constant(values: np.ndarray | None, name: str) -> tf.Variable | None:
    """A variable, because a constant would be copied into the graph, which is limited to 2 GB."""
    if values is None:
        return None
    dtype = tf.string if values.dtype == object else None
    return tf.Variable(values, trainable=False, dtype=dtype, name=name)
