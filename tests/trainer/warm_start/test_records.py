"""Records that the kernel writes into a table against those that NumPy and TensorFlow make."""

import types

import numpy as np
import pytest
import tensorflow as tf

from configs.sections.optimizers import SM3Config
from configs.sections.training import PolyakConfig
from trainer.averages import Exponential, make_average
from trainer.checkpoints.chain import CheckpointDirectory
from trainer.checkpoints.store import CheckpointStore
from trainer.embeddings.engines.native import NativeTable
from trainer.embeddings.engines.rows import RecordTable
from trainer.kernels import ops
from trainer.optimizers import FTRL, SGD, SM3, LazyAdam
from trainer.warm_start.placement import Placement
from trainer.warm_start.records import RecordRule
from trainer.warm_start.source import Source

pytestmark = pytest.mark.any_python

ROWS, DIM, STEPS = 400, 7, 50
SM3_ = SM3(SM3Config(kind="sm3", learning_rate=0.1, momentum=0.9, beta=0.95))
AVERAGES = {
    "exponential": PolyakConfig(decay=0.9, start_fraction=0.1),
    "uniform": PolyakConfig(kind="uniform", start_fraction=0.2),
    "none": PolyakConfig(kind="none"),
}
CASES = [
    (LazyAdam(0.01), "exponential", True),
    (LazyAdam(0.01), "exponential", False),
    (SGD(0.01), "uniform", True),
    (SM3_, "uniform", True),
    (FTRL(0.01), "none", True),
    (LazyAdam(0.01), "none", False),
]


def source_of(directory: str, optimizer, polyak: PolyakConfig) -> Source:
    """A full checkpoint of random records in several files, and an increment of every third row."""
    table = RecordTable("user", ROWS, DIM, optimizer, make_average(polyak, STEPS))
    rng = np.random.default_rng(0)
    records = rng.normal(size=[ROWS, table.width]).astype(np.float32)
    records[:, -1] = rng.integers(0, STEPS - 10, ROWS)
    table.write_records(0, records)
    store = CheckpointStore(directory, 2, {}, async_memory_mb=0)
    dense = {"step": tf.Variable(1, dtype=tf.int64)}
    store.save(STEPS - 10, {"user": table}, dense)
    records[::3] += 1.0
    records[::3, -1] = STEPS
    table.write_records(0, records)
    store.save(STEPS, {"user": table}, dense)
    found = CheckpointDirectory(directory)
    chain = next(found.chains(STEPS))
    assert [checkpoint.is_full for checkpoint in chain] == [True, False]
    return Source(directory, types.SimpleNamespace(polyak=polyak), chain)


def placements() -> dict[str, np.ndarray | None]:
    rng = np.random.default_rng(1)
    mixed = rng.integers(-20, ROWS, ROWS + 50)  # new rows, rows that have left, rows that continue in several
    mixed[mixed < 0] = -1
    return {"same": None, "appended": np.r_[np.arange(ROWS), -1, -1], "mixed": mixed}


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_kernel_writes_what_the_rule_makes(case, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.checkpoints.store.CHUNK_ROWS", 150)
    optimizer, kind, averaged = CASES[case]
    source = source_of(str(tmp_path), optimizer, AVERAGES[kind])
    for rows in placements().values():
        placement, found = Placement(rows, ROWS), []
        for engine in (RecordTable, NativeTable):
            number = ROWS if rows is None else len(rows)
            table = engine("user", number, DIM, optimizer, Exponential(0.9) if averaged else None)
            table.write_records(0, np.full([number, table.width], 3.0, np.float32))
            RecordRule(source, "user", table, True, True, []).transfer(source.chain, placement)
            found.append(table.read_records(np.arange(number)).numpy())
        assert found[0].tobytes() == found[1].tobytes()
        new = np.zeros(ROWS, bool) if rows is None else rows < 0
        assert (found[1][new] == 3.0).all() and (found[1][~new, -1] == 0.0).all()


def test_what_does_not_fit_is_refused():
    table = NativeTable("user", 5, DIM, SGD(0.1), None)
    memory, records = table.memory(), np.ones([2, DIM + 1], np.float32)
    for rows, given in (
        (np.array([0, 5]), records),
        (np.array([0]), records),
        (np.array([0, 1]), records.astype(np.float64)),
        (np.array([0, 1]), records[:, ::2]),
        (np.array([0, 1]), records[:, : DIM - 1].copy()),
    ):
        with pytest.raises(ValueError, match=r"not of|records, rows|do not fit"):
            ops.start_rows(memory, rows, given, DIM, 0, step=1)
    assert not memory.any()
    ops.start_rows(memory, np.array([4, -1]), records, DIM, 0, step=1)
    np.testing.assert_array_equal(table.read_records(np.arange(5)).numpy()[:, :DIM], memory[:, :DIM])
    assert memory.sum() == DIM
