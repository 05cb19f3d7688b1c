"""Memory of tables, saving, restoring, warm starts, as the kernel counts it, with a gigabyte of records."""

import json
import subprocess
import sys

import pytest

ROWS, DIM = 2_000_000, 32
TABLE_BYTES = ROWS * (4 * DIM + 1) * 4

SCRIPT = """
import json, sys
from configs.sections.devices import CpuDeviceConfig
from trainer.runtime import start_tensorflow

tf = start_tensorflow(CpuDeviceConfig())
import numpy as np
from trainer.checkpoints.store import CheckpointStore
from trainer.embeddings.engines.stored import StoredTable
from trainer.embeddings.engines.rows import RecordTable
from trainer.optimizers import LazyAdam
from trainer.averages import Exponential

rows, dim, directory, what = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]

def resident(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

def peak_of(action):
    open("/proc/self/clear_refs", "w").write("5")  # resets the peak
    before = resident("VmRSS")
    action()
    return resident("VmHWM") - before

make = lambda kind: kind("user", rows, dim, LazyAdam(0.001), Exponential(0.9))
store = CheckpointStore(directory, 2, {}, async_memory_mb=512)
dense = {"step": tf.Variable(1, dtype=tf.int64)}
tf.random.stateless_normal([1 << 16, dim], [0, 0])
found = {}
if what == "save":
    tables = {}
    def build():
        tables["user"] = make(RecordTable)
        tables["user"].initialize(0.1, 0)
    found["build"] = peak_of(build)
    found["full"] = peak_of(lambda: store.save(1, tables, dense))
    ids = tf.range(0, rows, 8, dtype=tf.int64)  # 129 MB of records: written in the background
    table = tables["user"]
    table.update(table.lookup(ids), tf.ones([len(ids), dim]), tf.constant(2.0), 1.0)
    def increment():
        store.save(2, tables, dense)
        store.wait()
    found["increment"] = peak_of(increment)
    found["kinds"] = [(saved.kind, saved.mode) for saved in store.finished()]
elif what == "restore":
    tables = {"user": make(RecordTable)}
    tables["user"].records.assign(tf.zeros_like(tables["user"].records))
    found["restore"] = peak_of(lambda: store.restore_newest(tables, dense))
elif what == "start":
    import types
    from configs.sections.training import PolyakConfig
    from trainer.checkpoints.chain import CheckpointDirectory
    from trainer.checkpoints.rows import stream_rows
    from trainer.warm_start.placement import Placement
    from trainer.warm_start.records import RecordRule
    from trainer.warm_start.source import Source

    old = np.concatenate([np.arange(rows - 1), np.full(rows // 100, -1), [rows - 1]])  # 1 % new rows
    old[::1000] = -1  # and rows of keys that have left
    table = RecordTable("user", len(old), dim, LazyAdam(0.001), Exponential(0.9))
    table.records.assign(tf.zeros_like(table.records))
    run = types.SimpleNamespace(polyak=PolyakConfig(decay=0.9))
    found_ = CheckpointDirectory(directory)
    source = Source(directory, run, next(found_.chains(found_.steps()[-1])))
    def start():
        places = Placement(old, rows)
        table.initialize(0.1, 0, skip=places.covers)
        rule = RecordRule(source, "user", table, True, True, [])
        for first, records in stream_rows(source.chain, "user", rule):
            places.write(table, first, records)
    found["start"] = peak_of(start)
else:
    tables = {"user": make(StoredTable)}
    found["open"] = peak_of(lambda: store.open_newest(tables, dense))
    def read():
        for start, stop in tables["user"].chunks():
            tables["user"].read_weights(np.arange(start, stop), True, 2.0)
    found["read"] = peak_of(read)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Bytes that each action added at its peak; each group runs in a process of its own."""
    directory, found = str(tmp_path_factory.mktemp("memory") / "checkpoints"), {}
    for what in ("save", "restore", "start", "open"):
        command = [sys.executable, "-c", SCRIPT, str(ROWS), str(DIM), directory, what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        found |= json.loads(done.stdout)
    print(found)
    return found


@pytest.mark.slow
def test_a_table_is_in_memory_once(measured):
    assert TABLE_BYTES * 0.95 < measured["build"] < TABLE_BYTES + (256 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("action", ["full", "increment", "restore", "start"])
def test_saving_and_restoring_add_at_most_512_mb(measured, action):
    assert measured["kinds"] == [["full", "blocking"], ["increment", "async"]]
    assert measured[action] < 512 << 20


@pytest.mark.slow
@pytest.mark.parametrize("action", ["open", "read"])
def test_reading_from_disk_takes_a_few_pieces(measured, action):
    assert measured[action] < 256 << 20
