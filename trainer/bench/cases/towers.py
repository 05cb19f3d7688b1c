"""Two-tower training steps of `bench peers`: lazytower, TFRS with TF-Addons, PyTorch with SparseAdam.

The same model in each: a user and an item table, a tower of dense layers on each side (ReLU between, the
last one linear), scores by dot product, mean in-batch softmax loss, Adam on the towers and lazy Adam on the
tables, learning rate 1e-3 and epsilon 1e-7 throughout. lazytower keeps exact averages of all weights on top.
A case is an object with `step(users, items) -> loss before the step`, ids int64 [batch].
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.bench.cases.torch import import_torch

_RATE, EPSILON, _STDDEV = 1e-3, 1e-7, 0.05


def initial_weights(rows: dict[str, int], dim: int, layers: list[int]) -> dict[str, list[np.ndarray]]:
    """By side, [table float32 [rows, dim], kernel [in, out] of each layer]; biases are zero."""
    weights = {}
    for number, (side, count) in enumerate(sorted(rows.items())):
        generator = np.random.default_rng([7, number])
        arrays = [np.float32(_STDDEV) * generator.standard_normal([count, dim], dtype=np.float32)]
        for width, units in zip([dim, *layers], layers, strict=False):
            limit = np.sqrt(6 / (width + units))  # Glorot
            arrays.append(generator.uniform(-limit, limit, [width, units]).astype(np.float32))
        weights[side] = arrays
    return weights


class OurTowers:
    """A training step of lazytower as `train` runs it, averages and the guard against bad batches included.

    Args:
      weights: of initial_weights.
      corrected: subtract logQ and mask accidental hits; item_counts are the items' frequencies.
      item_counts: int64 [items].
      threads: unused here, TensorFlow has its threads already.
      precision, group: as model.loss.
    """

    def __init__(
        self,
        weights: dict,
        corrected: bool,
        item_counts: np.ndarray,
        threads: int,
        precision: str = "float32",
        group: int | None = None,
    ):
        import tensorflow as tf

        from configs.load import parse_config
        from trainer.bench.cases.tables import write_fresh
        from trainer.data.bare_dataset import bare_dataset
        from trainer.models.recommender import Recommender
        from trainer.training.step import TrainStep

        rows = {side: len(arrays[0]) for side, arrays in weights.items()}
        loss = {"logq": corrected, "mask_accidental_hits": corrected, "precision": precision, "group": group}
        config = parse_config(_document(weights, loss), "bench peers")
        recommender = Recommender(config, bare_dataset(rows), item_counts, 1000)
        for side, (table, *_) in weights.items():
            write_fresh(recommender.tables[side], table)
        dense = {variable.name: variable for variable in recommender.dense_variables}
        for side, (_, *kernels) in weights.items():
            for number, kernel in enumerate(kernels):
                dense[f"{side}_dense_{number}/kernel:0"].assign(kernel)
        self._tf, self.recommender = tf, recommender
        self._step = tf.function(TrainStep(config, recommender, 1000), reduce_retracing=True)

    def step(self, users: np.ndarray, items: np.ndarray) -> float:
        """See the module."""
        tf = self._tf
        batch = {"user": tf.constant(users), "item": tf.constant(items)}
        batch |= {"label": tf.ones([len(users)]), "timestamp": tf.zeros([len(users)], tf.int64)}
        return float(self._step(batch)[0])


def _document(weights: dict, loss: dict) -> dict:
    """A run's config; nothing is read of the source, dataset and output it names."""
    dim, layers = weights["user"][0].shape[1], [kernel.shape[1] for kernel in weights["user"][1:]]
    adam = {"learning_rate": _RATE, "epsilon": EPSILON}
    towers = {f"{side}_tower": {"inputs": [side], "layers": layers} for side in weights}
    return {
        "source": {"kind": "synthetic", "rows": 2, "users": 2, "items": 2},
        "dataset": {"path": "none"},
        # What the peers do: plain dot products at a constant rate.
        "model": {"kind": "two_tower", **towers, "normalize": False, "item_bias": False, "loss": loss},
        "polyak": {"decay": 0.999, "start_fraction": 0.0},
        "tables": {side: {"dim": dim, "optimizer": {"kind": "lazy_adam", **adam}} for side in weights},
        "optimizer": {"kind": "adam", **adam},
        "train": {"num_steps": 1000, "batch_size": loss["group"] or 1024},
        "schedule": {"warmup_fraction": 0.0, "cooldown_fraction": 0.0},
        "output": {"path": "none"},
    }


class TfrsTowers:
    """tfrs.Model with tasks.Retrieval under tfa.optimizers.LazyAdam, its own train_step in one tf.function.

    Args: as OurTowers. The task's loss is made a mean, as the others' are; its default is the sum.
    """

    def __init__(self, weights: dict, corrected: bool, item_counts: np.ndarray, threads: int):
        import tensorflow as tf
        import tensorflow_recommenders as tfrs

        from trainer.bench.cases.tables import addons_optimizers

        optimizer = addons_optimizers().LazyAdam(_RATE, epsilon=EPSILON)
        self._tf = tf
        mean = tf.keras.losses.Reduction.SUM_OVER_BATCH_SIZE
        loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True, reduction=mean)
        task = tfrs.tasks.Retrieval(loss=loss, remove_accidental_hits=corrected)
        sampled = tf.constant(item_counts / item_counts.sum(), tf.float32) if corrected else None

        class TwoTower(tfrs.Model):
            """As TFRS's guides build it."""

            def __init__(self):
                super().__init__()
                self.user, self.item = (self._tower(weights[side]) for side in ("user", "item"))

            def _tower(self, arrays):
                table, *kernels = arrays
                first = tf.keras.layers.Embedding(*table.shape)
                last = len(kernels) - 1
                dense = [
                    tf.keras.layers.Dense(k.shape[1], activation=None if i == last else "relu")
                    for i, k in enumerate(kernels)
                ]
                tower = tf.keras.Sequential([first, *dense])
                tower.build([None])
                first.embeddings.assign(table)
                for layer, kernel in zip(dense, kernels, strict=True):
                    layer.kernel.assign(kernel)
                return tower

            def compute_loss(self, features, training=False):
                users, items = features
                return task(
                    self.user(users),
                    self.item(items),
                    candidate_sampling_probability=tf.gather(sampled, items) if corrected else None,
                    candidate_ids=items,
                    compute_metrics=False,
                )

        model = TwoTower()
        model.compile(optimizer=optimizer)
        self.model = model
        self._step = tf.function(model.train_step, reduce_retracing=True)

    def step(self, users: np.ndarray, items: np.ndarray) -> float:
        """See the module."""
        return float(self._step((self._tf.constant(users), self._tf.constant(items)))["loss"])


class TorchTowers:
    """nn.Embedding(sparse=True) and nn.Linear under torch.optim.SparseAdam and Adam.

    Args: as OurTowers; threads: 0: one per core; precision: bfloat16 runs the forward pass under autocast.

    Raises:
      NotMeasured: PyTorch is not importable.
    """

    def __init__(
        self,
        weights: dict,
        corrected: bool,
        item_counts: np.ndarray,
        threads: int,
        precision: str = "float32",
    ):
        self._torch = torch = import_torch(threads)
        self._corrected, self._autocast = corrected, precision == "bfloat16"
        self._log_q = torch.log(torch.from_numpy(item_counts / item_counts.sum()).float())
        self._tables, self._towers = {}, {}
        for side, (table, *kernels) in weights.items():
            self._tables[side] = torch.nn.Embedding.from_pretrained(
                torch.from_numpy(table.copy()), freeze=False, sparse=True
            )
            layers = []
            for kernel in kernels:
                linear = torch.nn.Linear(*kernel.shape)
                with torch.no_grad():
                    linear.weight.copy_(torch.from_numpy(kernel.T))
                    linear.bias.zero_()
                layers += [linear, torch.nn.ReLU()]
            self._towers[side] = torch.nn.Sequential(*layers[:-1])
        rows = [table.weight for table in self._tables.values()]
        dense = [weight for tower in self._towers.values() for weight in tower.parameters()]
        self._optimizers = [torch.optim.SparseAdam(rows, lr=_RATE, eps=EPSILON)]
        self._optimizers += [torch.optim.Adam(dense, lr=_RATE, eps=EPSILON)] if dense else []

    def step(self, users: np.ndarray, items: np.ndarray) -> float:
        """See the module."""
        torch = self._torch
        ids = {"user": torch.from_numpy(users), "item": torch.from_numpy(items)}
        with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            loss = self._loss(ids)
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
        return float(loss.detach())

    def _loss(self, ids):
        torch = self._torch
        user, item = (self._towers[side](self._tables[side](ids[side])) for side in ("user", "item"))
        logits = user @ item.T
        if self._corrected:
            logits = logits - self._log_q[ids["item"]]
            hits = (ids["item"][:, None] == ids["item"]).fill_diagonal_(False)
            logits = logits.masked_fill(hits, -1e30)
        return torch.nn.functional.cross_entropy(logits, torch.arange(len(ids["user"])))


TOWERS: dict[str, Callable[..., Any]] = {
    "lazytower": OurTowers,
    "lazytower_bfloat16": functools.partial(OurTowers, precision="bfloat16"),
    "tfrs_tfa": TfrsTowers,
    "torch": TorchTowers,
    "torch_bfloat16": functools.partial(TorchTowers, precision="bfloat16"),
}
