"""Histories are spelled out in pieces, whatever the sizes."""

import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.job import Job, JobLayout
from pipelines.rows import history
from pipelines.rows.history import Past, earlier_items, gather_ranges
from pipelines.stages.plan import make_plan
from pipelines.stages.stats import Stats
from tests.support.prepared import configure, content_of_any_size, run


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), max_size=30), st.integers(1, 40))
def test_ranges_are_gathered_whatever_the_pieces(ranges, piece):
    values = np.arange(100, 130, dtype=np.int32)
    first = np.array([start for start, _ in ranges], np.int64)
    last = np.array([start + length for start, length in ranges], np.int64)
    whole, history._PIECE = history._PIECE, piece
    try:
        found = gather_ranges(values, first, last)
    finally:
        history._PIECE = whole
    assert found.dtype == np.int32
    assert found.tolist() == [v for a, b in zip(first, last, strict=True) for v in values[a:b].tolist()]


def test_gathering_takes_little_more_memory_than_its_result():
    rows, length = 40_000, 256
    last = np.arange(rows, dtype=np.int64)
    first = np.maximum(last - length, 0)
    values = np.zeros(rows, np.int32)
    tracemalloc.start()
    found = gather_ranges(values, first, last)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < found.nbytes + 40 * history._PIECE


def test_one_user_with_most_rows_gives_the_same_bytes_in_small_buckets(tmp_path):
    users = ["bot" if i % 10 else f"u{i % 70}" for i in range(900)]
    lines = [f"{user},i{i * i % 37},{i}\n" for i, user in enumerate(users)]
    (tmp_path / "in.csv").write_text("user,item,time\n" + "".join(lines))
    source = {"kind": "delimited", "paths": [str(tmp_path / "in.csv")], "roles": {"timestamp": "time"}}
    found = []
    for name, rows in (("whole", 1 << 18), ("pieces", 5)):
        section = {"path": str(tmp_path / name), "history_length": 200, "num_shards": 1}
        run(source, section, bucket_rows=rows)
        files = content_of_any_size(tmp_path / name)
        files["dataset.json"] = files["dataset.json"].replace(str(tmp_path / name).encode(), b"")
        found.append(files)
    assert found[0] == found[1]


def test_a_bucket_of_a_file_holds_fewer_rows_of_long_histories():
    stats = Stats()
    stats.kept = stats.positives = 8 << 18
    buckets = []
    for length in (0, 32, 512):
        config = configure({"kind": "delimited", "paths": ["x"]}, {"path": "y", "history_length": length})
        buckets.append(make_plan(stats, Job(config.source, config.dataset, JobLayout("", "")), {}).buckets)
    assert buckets[0] == buckets[1] == 2 and buckets[2] == 16


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(100, 120), max_size=6), st.lists(st.booleans(), min_size=1, max_size=6)
        ),
        max_size=6,
    ),
    st.integers(1, 8),
)
def test_histories_continue_those_of_earlier_datasets(users, length):
    """`users`: by user, items of earlier datasets, and of each row whether its item may be in histories."""
    rows = [(number, may) for number, (_, mays) in enumerate(users) for may in mays]
    starts = np.array([[who for who, _ in rows].index(number) for number, _ in rows], np.int64)
    member, items = np.array([may for _, may in rows], bool), np.arange(len(rows))
    past = Past(
        np.array([len(before) for before, _ in users], np.int64),
        np.array([item for before, _ in users for item in before], np.int64),
    )
    values, first, last = earlier_items(starts, items, member, length, past)
    for row, (number, _) in enumerate(rows):
        own = [i for i in range(starts[row], row) if member[i]]
        expected = [*users[number][0], *own][-length:]
        assert values[first[row] : last[row]].tolist() == expected
