"""A process of `bench cluster`: trains the two-tower case of `bench peers` whenever it is asked to, on one
machine or as the driver of a cluster.

It prints "ready", and for each line of its input "took MS", the milliseconds of a step.
"""

import json
import sys
import time

import numpy as np

from configs.load import parse_config

ITEMS, DIM, LAYERS = 100_000, 32, [64, 32]
_BATCHES = 16  # different ones, repeated


def document(batch: int, output: str, hosts: list[str]) -> dict:
    """The case's config; nothing is read of the source and dataset it names."""
    adam = {"learning_rate": 1e-3, "epsilon": 1e-7}
    towers = {f"{side}_tower": {"inputs": [side], "layers": LAYERS} for side in ("user", "item")}
    found = {
        "source": {"kind": "synthetic", "rows": 2, "users": 2, "items": 2},
        "dataset": {"path": "none"},
        "model": {"kind": "two_tower", **towers, "loss": {"logq": True, "mask_accidental_hits": True}},
        "tables": {side: {"dim": DIM, "optimizer": adam} for side in ("user", "item")},
        "optimizer": {"kind": "adam", **adam},
        "train": {"num_steps": 1000, "batch_size": batch},
        "output": {"path": output},
    }
    return found | ({"device": {"kind": "cluster", "hosts": hosts}} if hosts else {})


def main(arguments: list[str]) -> None:
    """Serves the process that started this one; arguments: JSON of users, batch, steps, output and hosts."""
    options = json.loads(arguments[0])
    config = parse_config(document(options["batch"], options["output"], options["hosts"]), "bench cluster")
    from trainer.runtime import start_tensorflow

    tf = start_tensorflow(config.device)
    step = _step(config, options["users"])
    data = iter(_data(tf, options["batch"], options["users"]))

    @tf.function
    def loop(iterator, steps):
        loss, done = tf.constant(0.0), tf.constant(0)
        while done < steps:
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            loss, _ = step(next(iterator))
            done += 1
        return loss

    steps = tf.constant(options["steps"])
    float(loop(data, steps))
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        float(loop(data, steps))
        print(f"took {(time.perf_counter() - started) * 1000 / options['steps']:.3f}", flush=True)


def _step(config, users: int):
    """The step that `train` would take, on tables with their initial weights."""
    from configs.sections.devices import ClusterDeviceConfig
    from trainer.cluster.connect import connect_cluster
    from trainer.cluster.tables import cluster_tables
    from trainer.data.bare_dataset import bare_dataset
    from trainer.models.recommender import Recommender
    from trainer.training.step import TrainStep
    from trainer.training.steps.cluster_step import ClusterStep

    dataset = bare_dataset({"user": users, "item": ITEMS})
    counts = np.random.default_rng(5).integers(1, 50, ITEMS)
    device = config.device
    cluster = connect_cluster(device, config.output.path) if isinstance(device, ClusterDeviceConfig) else None
    tables = cluster_tables(config, cluster) if cluster else None
    recommender = Recommender(config, dataset, counts, 1000, tables)
    recommender.initialize()
    if cluster is None:
        return TrainStep(config, recommender, 1000)
    return ClusterStep(config, recommender, 1000, cluster)


def _data(tf, batch: int, users: int):
    """Endless batches: uniform users, and items by Zipf's law with exponent 1.05."""
    from trainer.runtime import untuned

    draw = np.random.default_rng(3)
    shares = 1.0 / np.arange(1, ITEMS + 1) ** 1.05
    ranks = draw.choice(ITEMS, [_BATCHES, batch], p=shares / shares.sum())
    columns = {"user": draw.integers(0, users, [_BATCHES, batch]), "item": draw.permutation(ITEMS)[ranks]}
    columns |= {
        "label": np.ones([_BATCHES, batch], np.float32),
        "timestamp": np.zeros([_BATCHES, batch], np.int64),
    }
    return untuned(tf.data.Dataset.from_tensor_slices(columns).repeat().prefetch(4))


if __name__ == "__main__":
    main(sys.argv[1:])
