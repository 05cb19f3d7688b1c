"""Two runs on datasets that share some keys, for tests of warm starts; their ids, as NumPy knows them."""

import collections
import os

import numpy as np

from configs.load import parse_config
from configs.planted.interactions import Planted, item_key, user_key
from configs.schema import RunConfig
from tests.support.tiny_run import planted_document, write_planted
from tests.support.tpu_emulator import emulated_tpu
from trainer.training.interrupt import Interrupt
from trainer.training.run import train
from trainer.training.session import TrainSession

FIRST = {"rows": 2000, "users": 60, "items": 50}
SECOND = {"rows": 2400, "users": 75, "items": 40, "seed": 3}
"""Sources: users of the first are among those of the second, items the other way round."""
STEPS = 12


def first_config(root: str, **sections) -> RunConfig:
    """The config of the run to start from."""
    return _config(os.path.join(root, "first"), FIRST, sections)


def second_config(root: str, name: str = "run", **sections) -> RunConfig:
    """The config of a run on the other dataset that starts from the first."""
    place = os.path.join(root, "second")
    init = {"from": os.path.join(root, "first", "run")} | sections.pop("init", {})
    return _config(place, SECOND, sections | {"init": init, "output": {"path": os.path.join(place, name)}})


def _config(place: str, source: dict, sections: dict) -> RunConfig:
    document = planted_document(place, **source)
    document |= {
        "train": {"batch_size": 64, "num_steps": STEPS, "steps_per_loop": 4},
        "checkpoint": {"every_steps": 4},
        "evaluate": {"every_steps": 0},
        "polyak": {"kind": "exponential", "decay": 0.9, "start_fraction": 0.1},
    }
    document["model"] = {
        "kind": "two_tower",
        "user_tower": {"inputs": ["user", "history"], "layers": [12, 8]},
        "item_tower": {"inputs": ["item"], "layers": [12, 8], "activation": "tanh"},
        "normalize": True,
    }
    for name, keys in sections.items():
        old = document.get(name, {})
        same_kind = isinstance(keys, dict) and keys.get("kind") in (None, old.get("kind"))
        document[name] = old | keys if same_kind else keys
    return parse_config(document, "test")


def write_datasets(root: str) -> None:
    """Writes the datasets of both."""
    for name, source in (("first", FIRST), ("second", SECOND)):
        write_planted(os.path.join(root, name), **source)


def ids_of(config: RunConfig, side: str) -> dict[bytes, int]:
    """Row of each key of a planted dataset: by descending count in train, ties by key."""
    number = config.source.rows
    users, items, _ = Planted(config.source).rows(0, number)
    keys = [bytes(key) for key in (user_key(users) if side == "user" else item_key(items))]
    counts = collections.Counter(keys[: number * 8 // 10])
    return {key: i for i, key in enumerate(sorted(counts, key=lambda key: (-counts[key], key)))}


def sources_of(root: str, side: str) -> np.ndarray:
    """Row of the first run of each row of the second, -1 for new ones; the out-of-vocabulary row is last."""
    before = ids_of(first_config(root), side)
    now = ids_of(second_config(root), side)
    return np.array([*(before.get(key, -1) for key in now), len(before)])


def begun(config: RunConfig, steps: int = 0, small_rows: int = 0) -> dict[str, np.ndarray]:
    """The state of a run before its first step, or after some steps that are not saved: as newest_state;
    `small_rows` as in emulated_tpu."""
    with (
        Interrupt() as interrupt,
        emulated_tpu(small_rows=small_rows),
        TrainSession(config, interrupt) as session,
    ):
        if steps:  # an input takes long to make
            batches = iter(session.train_step.batches(session._data, session.start_step))
            for _ in range(steps):
                session.train_step(next(batches))
        with session.train_step.readable_rows():
            found = {
                f"tables/{name}": np.asarray(table.read_records(np.arange(table.rows)))
                for name, table in session.recommender.storages.items()
            }
        return found | {name: value.numpy() for name, value in session.train_step.dense_state.items()}


def trained(config: RunConfig) -> RunConfig:
    """Trains a run to its end."""
    with emulated_tpu():
        train(config)
    return config
