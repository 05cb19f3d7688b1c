"""Training steps of `bench ranking` in TensorFlow: lazytower, and TFRS with TF-Addons or Keras.

The same model in each: a table for each key; `bottom`, dense layers with ReLU over the numbers, the last one
as wide as the tables; dot products of all pairs of vectors (DLRM) or crosses (DCN-v2), joined with the output
of `bottom`; `top`, dense layers with ReLU, and a logit; the mean logistic loss. A case is an object with

    inputs(batch) -> inputs       from a batch as the reader gives it, outside the clock
    step(inputs) -> loss          before the step, float

where a batch holds NumPy arrays: int64 [batch] for each key, float32 [batch] for each number, and `label`.
"""

import numpy as np

from trainer.bench.cases.ranked_model import (
    ACCUMULATOR,
    RANKED_EPSILON,
    RATES,
    RankedModel,
    RankedWeights,
    ranked_batches,
)


class OurRanking:
    """A training step of lazytower as `train` runs it, averages and the guard against bad batches included.

    Args:
      model, weights: what to train.
      threads: unused here, TensorFlow has its threads already.
    """

    def __init__(self, model: RankedModel, weights: RankedWeights, threads: int):
        import tensorflow as tf

        from configs.load import parse_config
        from trainer.bench.cases.tables import write_fresh
        from trainer.data.bare_dataset import bare_dataset
        from trainer.models.recommender import Recommender
        from trainer.training.step import TrainStep

        config = parse_config(_document(model), "bench ranking")
        recommender = Recommender(config, bare_dataset(model.rows), np.zeros(0, np.int64), 1000)
        for name, array in weights.tables.items():
            write_fresh(recommender.tables[name], array)
        dense = {variable.name.partition("/")[0]: variable for variable in recommender.dense_variables
                 if variable.shape.rank == 2}  # fmt: skip
        *hidden, last = weights.top
        named = {"bottom_dense": weights.bottom, "cross": weights.crosses, "top_dense": hidden}
        for name, kernels in (named | {"label_logit_dense": [last]}).items():
            for number, kernel in enumerate(kernels):
                dense[f"{name}_{number}"].assign(kernel)
        self._tf, self.recommender = tf, recommender
        self._step = tf.function(TrainStep(config, recommender, 1000), reduce_retracing=True)

    def inputs(self, batch: dict[str, np.ndarray]):
        """See the module."""
        return {name: self._tf.constant(values) for name, values in batch.items()}

    def step(self, inputs) -> float:
        """See the module."""
        return float(self._step(inputs)[0])


def _document(model: RankedModel) -> dict:
    """A run's config; nothing is read of the source, dataset and output it names."""
    keys = [{"name": name, "of": "context", "kind": "categorical"} for name in model.rows]
    numbers = [{"name": name, "of": "context", "kind": "numeric", "missing": 0} for name in model.numbers]
    lazy = {"kind": model.optimizer, "learning_rate": RATES[model.optimizer]}
    if model.optimizer != "sgd":
        lazy["epsilon"] = RANKED_EPSILON
    if model.optimizer == "adagrad":
        lazy["initial_accumulator_value"] = ACCUMULATOR
    dense = lazy | ({"kind": "adam"} if model.optimizer == "lazy_adam" else {})
    cross = {"kind": "cross", "layers": model.crosses}
    return {
        "source": {
            "kind": "delimited",
            "paths": ["none"],
            "roles": {"label": "label"},
            "features": [*keys, *numbers],
        },
        "dataset": {"path": "none", "split": {"kind": "random"}},
        "model": {
            "kind": "ranking",
            "bottom": [*model.bottom, model.dim],
            "interaction": cross if model.crosses else {"kind": "dot"},
            "top": model.top,
        },
        "polyak": {"decay": 0.999, "start_fraction": 0.0},
        "tables": {name: {"dim": model.dim, "optimizer": lazy} for name in model.rows},
        "optimizer": dense,
        "train": {"num_steps": 1000},
        "schedule": {"warmup_fraction": 0.0, "cooldown_fraction": 0.0},
        "output": {"path": "none"},
    }


class TfrsRanking:
    """tfrs.experimental.models.Ranking with Keras's Embedding layers, its own train_step in one tf.function.

    The optimizer of all variables is tfa.optimizers.LazyAdam, which is Adam for dense ones, or Keras's legacy
    Adagrad or SGD. The task takes logits, as the others do, and has no metrics.

    Args: as OurRanking.

    Raises:
      NotMeasured: this Python has no TF-Addons.
    """

    def __init__(self, model: RankedModel, weights: RankedWeights, threads: int):
        import tensorflow as tf
        import tensorflow_recommenders as tfrs

        optimizer = _keras_optimizer(model.optimizer)
        bottom = tfrs.layers.blocks.MLP([*model.bottom, model.dim], final_activation="relu")
        top = tfrs.layers.blocks.MLP([*model.top, 1])
        none = tf.keras.losses.Reduction.NONE
        loss = tf.keras.losses.BinaryCrossentropy(from_logits=True, reduction=none)
        interaction = _crosses(model.crosses) if model.crosses else None
        self._tf, self._numbers = tf, model.numbers
        self.embeddings = _embeddings(model, weights)
        self._model = tfrs.experimental.models.Ranking(
            self.embeddings,
            bottom,
            interaction,
            top,
            task=tfrs.tasks.Ranking(loss=loss),
        )
        self._model.compile(optimizer=optimizer)
        features, _ = self.inputs(next(ranked_batches(model, 2, 1)))
        self._model(features)  # builds the layers
        layers = [bottom, *([interaction] if interaction else []), top]
        kernels = [v for layer in layers for v in layer.trainable_variables if v.shape.rank == 2]
        values = [*weights.bottom, *weights.crosses, *weights.top]
        for kernel, value in zip(kernels, values, strict=True):
            kernel.assign(value)
        self._step = tf.function(self._model.train_step, reduce_retracing=True)

    def inputs(self, batch: dict[str, np.ndarray]):
        """See the module."""
        constant = self._tf.constant
        keys = {name: constant(batch[name]) for name in self.embeddings.layers_by_key}
        numbers = constant(np.stack([batch[name] for name in self._numbers], axis=1))
        return {"dense_features": numbers, "sparse_features": keys}, constant(batch["label"])

    def step(self, inputs) -> float:
        """See the module."""
        return float(self._step(inputs)["loss"])


def _keras_optimizer(name: str):
    import tf_keras

    from trainer.bench.cases.tables import addons_optimizers

    rate, legacy = RATES[name], tf_keras.optimizers.legacy
    if name == "lazy_adam":
        return addons_optimizers().LazyAdam(rate, epsilon=RANKED_EPSILON)
    if name == "adagrad":
        return legacy.Adagrad(rate, initial_accumulator_value=ACCUMULATOR, epsilon=RANKED_EPSILON)
    return legacy.SGD(rate)


def _embeddings(model: RankedModel, weights: RankedWeights):
    """A Keras layer: rows by key, of ids by key."""
    import tensorflow as tf

    class Embeddings(tf.keras.layers.Layer):
        """A table for each key."""

        def __init__(self):
            super().__init__()
            self.layers_by_key = {
                name: tf.keras.layers.Embedding(rows, model.dim) for name, rows in model.rows.items()
            }
            for name, layer in self.layers_by_key.items():
                layer.build(None)
                layer.embeddings.assign(weights.tables[name])

        def call(self, inputs):
            return {name: self.layers_by_key[name](ids) for name, ids in inputs.items()}

    return Embeddings()


def _crosses(number: int):
    """A Keras layer: tfrs's crosses of a list of vectors, one after the other."""
    import tensorflow as tf
    import tensorflow_recommenders as tfrs

    class Crossed(tf.keras.layers.Layer):
        """x_(l+1) = x_0 * (W x_l + b) + x_l."""

        def __init__(self):
            super().__init__()
            self._crosses = [tfrs.layers.feature_interaction.Cross() for _ in range(number)]

        def call(self, inputs):
            first = crossed = tf.concat(inputs, axis=1)
            for layer in self._crosses:
                crossed = layer(first, crossed)
            return crossed

    return Crossed()
