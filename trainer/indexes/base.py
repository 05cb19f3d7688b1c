"""What indexes of served models have in common, and the one that a config asks for."""

import importlib

import numpy as np
import tensorflow as tf

from configs.sections.export import IndexConfig
from trainer.indexes import MODULES

# Score of a place that no item fills. Finite, because JSON has no infinity.
NO_SCORE = float(np.finfo(np.float32).min)


class BaseIndex(tf.Module):
    """Finds the rows of `vectors` with the largest dot products.

    Args:
      config: the section of its kind.
      vectors: float32 variable [rows, dim]; it must have its values.
      servable: so many first rows may be returned.
    """

    def __init__(self, config: IndexConfig, vectors: tf.Variable, servable: int):
        super().__init__(name=f"index_{config.kind}")
        self._config, self._vectors, self._servable = config, vectors, servable

    def search(self, users, banned, k):
        """The best rows for each user; equal scores by rising row.

        Args:
          users: float32 [batch, dim].
          banned: (position in the batch, row), int64 [n] each: pairs not to be returned. Pairs may come
            twice, and rows may be none of the servable ones.
          k: int32 scalar of at least 1.

        Returns:
          (scores float32 [batch, k], rows int64 [batch, k]), best first. Where fewer than k rows are found
          the score is NO_SCORE and the row means nothing.
        """
        raise NotImplementedError

    def facts(self) -> dict:
        """What lazytower.json says of the index: kind and settings, JSON values."""
        return {"kind": self._config.kind}

    def num_bytes(self) -> int:
        """Memory that it takes beside the vectors."""
        return 0


def make_index(config: IndexConfig, vectors: tf.Variable, servable: int) -> BaseIndex:
    """The index of a config's kind; arguments as BaseIndex.

    Raises:
      ConfigError: it needs a package that is not installed.
      ExportError: it cannot be made of these vectors.
    """
    return importlib.import_module(MODULES[config.kind]).Index(config, vectors, servable)
