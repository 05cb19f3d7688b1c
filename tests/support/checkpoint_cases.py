"""A small table under training with checkpoints of many small pieces, and its states as NumPy knows them."""

import pathlib

import numpy as np
import tensorflow as tf

from configs.sections.optimizers import LazyAdamConfig
from trainer.averages import Exponential
from trainer.checkpoints.store import CheckpointStore
from trainer.embeddings.engines import TABLE_ENGINES
from trainer.embeddings.engines.stored import StoredTable
from trainer.optimizers import LazyAdam

ROWS, DIM, PIECE_ROWS = 60, 2, 7


def small_pieces(monkeypatch) -> None:
    """Makes checkpoints of ROWS rows consist of several files."""
    for module in ("trainer.checkpoints.store", "trainer.embeddings.base"):
        monkeypatch.setattr(f"{module}.CHUNK_ROWS", PIECE_ROWS)


def store_at(path, keep=100, **options) -> CheckpointStore:
    """A store that writes in the caller's thread by default."""
    return CheckpointStore(str(path), keep, {"train.seed": 1}, **{"async_memory_mb": 0} | options)


def make_tables(engine="rows", average=True) -> dict:
    """Tables `user` and `item`, nothing in them."""
    kind = StoredTable if engine == "stored" else TABLE_ENGINES[engine]
    rule = Exponential(0.9) if average else None
    return {
        name: kind(name, rows, DIM, LazyAdam(LazyAdamConfig(learning_rate=0.01)), rule)
        for name, rows in (("user", ROWS), ("item", ROWS // 2))
    }


class Run:
    """Training of the tables and one dense weight; `states` are its records and weight by step."""

    def __init__(self, engine="rows", average=True, touched=9):
        self.tables = make_tables(engine, average)
        for table in self.tables.values():
            table.initialize(0.1, seed=3)
        self.dense = {"step": tf.Variable(0, dtype=tf.int64), "dense/000": tf.Variable([0.0, 0.0])}
        self.states, self._touched = {}, touched

    @property
    def step(self) -> int:
        return int(self.dense["step"])

    def train(self, steps: int) -> None:
        for step in range(self.step + 1, self.step + steps + 1):
            draw = np.random.default_rng(step)  # the step alone decides, so that a resumed run repeats
            for table in self.tables.values():
                ids = np.sort(draw.choice(table.rows, self._touched, replace=False))
                gradient = tf.constant(draw.normal(size=[len(ids), DIM]), tf.float32)
                table.update(table.lookup(tf.constant(ids)), gradient, tf.constant(float(step)), 1.0)
            self.dense["dense/000"].assign(draw.normal(size=2))
            self.dense["step"].assign(step)
        self.states[self.step] = self.state()

    def state(self) -> dict[str, np.ndarray]:
        tables = {name: t.read_records(np.arange(t.rows)).numpy() for name, t in self.tables.items()}
        return tables | {name: variable.numpy() for name, variable in self.dense.items()}

    def save(self, store: CheckpointStore) -> None:
        store.save(self.step, self.tables, self.dense)

    def train_and_save(self, store: CheckpointStore, saves: int, steps: int = 1) -> None:
        for _ in range(saves):
            self.train(steps)
            self.save(store)

    def restore(self, store: CheckpointStore) -> int | None:
        return store.restore_newest(self.tables, self.dense)


def saved_run(path, saves=5, **options) -> Run:
    """A run with a checkpoint at each of its steps."""
    run = Run()
    run.train_and_save(store_at(path, **options), saves)
    return run


def restored(path, **options) -> Run:
    """A new run, restored from what is there."""
    run = Run()
    run.restore(store_at(path, **options))
    return run


def names(path) -> list[str]:
    return sorted(p.name for p in pathlib.Path(path).iterdir())


def assert_state(run: Run, wanted: dict[str, np.ndarray]) -> None:
    got = run.state()
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
