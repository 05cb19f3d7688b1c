"""How the vectors of a ranking model interact: a class for each kind of model.interaction.

An interaction reads the rows of the tables and the output of `bottom`, all float32 [batch, width], and gives
what `top` reads and what goes past it to the logits.
"""

import abc

import numpy as np
import tensorflow as tf
import tf_keras

from configs.sections.ranking import CrossInteractionConfig
from trainer.kernels.build import kernels
from trainer.kernels.ops import products
from trainer.models.dense import seed_of

_CROSS_STDDEV = 0.05
"""Standard deviation of the initial weights of a cross, that of tfrs.layers.feature_interaction.Cross."""


class Interaction(tf.Module, abc.ABC):
    """Interface of interactions.

    Args:
      options: of the kind, from configs.sections.ranking.
      rows: widths of the tables' vectors.
      bottom: width of the output of `bottom`; 0: there is none.
      seed: of the run.

    Attributes:
      width: of what `top` reads.
      past_width: of what goes past `top` to the logits; 0: nothing does.
    """

    width: int
    past_width = 0

    def __init__(self, options, rows: list[int], bottom: int, seed: int):
        super().__init__(name=options.kind)

    @abc.abstractmethod
    def __call__(self, rows: list, bottom) -> tuple:
        """(what `top` reads, float32 [batch, width]; what goes past it, [batch, past_width], or None).

        Args:
          rows: the tables' vectors, in order.
          bottom: output of `bottom`; None: there is none.
        """


class DotProducts(Interaction):
    """DLRM: the products of all pairs of vectors, joined with the output of `bottom`.

    The same values in the same order as tfrs.layers.feature_interaction.DotInteraction, which selects them by
    a boolean mask: that has no static shape, which XLA requires, and takes more than twice as long. The
    kernel computes only the products that are needed, and takes a quarter of the time with the gradient.
    """

    def __init__(self, options, rows, bottom, seed):
        super().__init__(options, rows, bottom, seed)
        number = len(rows) + bool(bottom)
        self._places = np.ravel_multi_index(np.tril_indices(number, -1), (number, number))
        self.width = bottom + len(self._places)

    def __call__(self, rows, bottom):
        vectors = tf.stack(rows + _some(bottom), axis=1)
        return tf.concat(_some(bottom) + [self._products(vectors)], axis=1), None

    def _products(self, vectors):
        if kernels() is not None:
            return products(vectors)
        whole = tf.matmul(vectors, vectors, transpose_b=True)
        return tf.gather(tf.reshape(whole, [-1, vectors.shape[1] ** 2]), self._places, axis=1)


class Crosses(Interaction):
    """DCN-v2: crosses of all vectors joined; stacked before `top`, or parallel to it."""

    def __init__(self, options: CrossInteractionConfig, rows, bottom, seed):
        super().__init__(options, rows, bottom, seed)
        width = sum(rows) + bottom
        self.layers = [self._layer(f"cross_{i}", options.rank, width, seed) for i in range(options.layers)]
        self._parallel = options.structure == "parallel"
        self.width = width if self._parallel else bottom + width
        self.past_width = width if self._parallel else 0

    @staticmethod
    def _layer(name: str, rank: int | None, width: int, seed: int) -> tf_keras.layers.Layer:
        # Here, because it takes time to load and only this kind needs it.
        from tensorflow_recommenders.layers.feature_interaction import Cross

        layer = Cross(projection_dim=rank, name=name)
        layer(tf.zeros([1, width]))  # creates the variables
        # It clones one initializer for both factors of a low rank, which then would have equal values.
        kernels = [variable for variable in layer.trainable_variables if variable.shape.rank == 2]
        for number, kernel in enumerate(kernels):
            draw = tf_keras.initializers.TruncatedNormal(
                stddev=_CROSS_STDDEV, seed=seed_of(seed, name) + number
            )
            kernel.assign(draw(kernel.shape))
        return layer

    def __call__(self, rows, bottom):
        first = crossed = tf.concat(rows + _some(bottom), axis=1)
        for layer in self.layers:
            crossed = layer(first, crossed)
        if self._parallel:
            return first, crossed
        return tf.concat(_some(bottom) + [crossed], axis=1), None


class Joined(Interaction):
    """All vectors joined."""

    def __init__(self, options, rows, bottom, seed):
        super().__init__(options, rows, bottom, seed)
        self.width = sum(rows) + bottom

    def __call__(self, rows, bottom):
        return tf.concat(rows + _some(bottom), axis=1), None


def _some(value) -> list:
    return [] if value is None else [value]


INTERACTIONS = {"dot": DotProducts, "cross": Crosses, "none": Joined}
