"""Base class of the indexes for serving, and `make_index`, which creates the configured one."""

import importlib

import numpy as np
import tensorflow as tf

from configs.sections.export import IndexConfig
from trainer.indexes import MODULES

# Score of a position without an item. Finite, because JSON has no infinity.
NO_SCORE = float(np.finfo(np.float32).min)


class BaseIndex(tf.Module):
    """Finds the rows of `vectors` with the largest dot products.

    Args:
      config: its section of the config.
      vectors: float32 variable [rows, dim]; must already have its values.
      servable: only the first `servable` rows may be returned.
    """

    def __init__(self, config: IndexConfig, vectors: tf.Variable, servable: int):
        super().__init__(name=f"index_{config.kind}")
        self._config, self._vectors, self._servable = config, vectors, servable

    @property
    def exact(self) -> bool:
        """Whether `search` finds the best rows, not only most of them."""
        return self._config.exact

    def search(self, users, banned, k):
        """The best rows for each user; of equal scores, lower rows first.

        Args:
          users: float32 [batch, dim].
          banned: (position in the batch, row), int64 [n] each: pairs that must not be returned. Pairs may
            repeat, and rows need not be servable.
          k: int32 scalar, at least 1.

        Returns:
          (scores float32 [batch, k], rows int64 [batch, k]), best first. If fewer than k rows are found, the
          remaining scores are NO_SCORE and their rows are arbitrary.
        """
        raise NotImplementedError

    def facts(self) -> dict:
        """Kind and settings for lazytower.json, as JSON values."""
        return {"kind": self._config.kind}

    def num_bytes(self) -> int:
        """Memory that it uses in addition to the vectors."""
        return 0


def make_index(config: IndexConfig, vectors: tf.Variable, servable: int) -> BaseIndex:
    """Creates the index of the config's kind; arguments as BaseIndex.

    Raises:
      ConfigError: it requires a package that is not installed.
      ExportError: it cannot be built for these vectors.
    """
    return importlib.import_module(MODULES[config.kind]).Index(config, vectors, servable)
