"""Dense and hashed ids."""

import collections
import random

import numpy as np
import pyarrow as pa
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.base.numbering import dense_ids
from pipelines.job import Job, JobLayout
from pipelines.rows.hashes import hash_keys, hash_rows
from pipelines.stages import ids
from pipelines.stages.count import CountKeys
from pipelines.stages.members import Facts, merge_keys
from pipelines.stages.plan import Plan
from tests.support.prepared import configure

KEYS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=0, max_size=6)


def make_job(parts: int, **dataset) -> Job:
    config = configure({"kind": "synthetic", "rows": 1, "users": 1, "items": 2}, {"path": "x", **dataset})
    return Job(config.source, config.dataset, JobLayout("", "", key_shards=parts))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.dictionaries(KEYS, st.integers(0, 4)), min_size=1, max_size=4), st.integers(1, 3), st.data()
)
def test_dense_ids_for_any_cut_of_the_keys(shards, min_count, data):
    """As the stages do it, without Beam: cut, count, plan, assign."""
    everything = sorted({key for shard in shards for key in shard}, key=str.encode)
    splitters = sorted(
        data.draw(st.sets(st.sampled_from(everything), max_size=3)) if everything else [], key=str.encode
    )
    section = {"kind": "vocab", "min_count": min_count}
    job = make_job(len(splitters) + 1, item_ids=section)
    by_part = collections.defaultdict(list)
    for shard in shards:
        keys = sorted(shard, key=str.encode)
        counts = np.array([shard[key] for key in keys], np.int64)
        plan = Plan(splitters={"item": splitters})
        facts = Facts.none(len(keys))._replace(counts=counts)
        for part, table in ids.send_keys(job, plan, "item", pa.array(keys, pa.string()), facts, None):
            by_part[part].append(table)
    merged = {part: merge_keys(pa.concat_tables(tables))[0] for part, tables in by_part.items()}
    histograms = [CountKeys(job)._histogram("item", part, table) for part, table in merged.items()]
    tables = ids.plan_ids(histograms, job, job.tables)
    found = {}
    for part, table in merged.items():
        numbers = dense_ids(table["count"].to_numpy(), min_count, part, tables["item"])
        found |= dict(zip(table["key"].to_pylist(), numbers.tolist(), strict=True))
    total = collections.Counter()
    for shard in shards:
        total.update(shard)
    known = sorted((k for k in total if total[k] >= min_count), key=lambda k: (-total[k], k.encode()))
    expected = {key: i for i, key in enumerate(known)}
    others = [key for key in everything if key not in expected]
    catalog = {key: len(known) + 1 + i for i, key in enumerate(others)}
    assert found == expected | catalog
    assert tables["item"].keys == len(known) and tables["item"].rows == len(known) + 1
    assert tables["item"].catalog_rows == tables["item"].id_bound == len(known) + 1 + len(others)


def test_hashed_ids_are_tensorflows():
    rng = random.Random(0)
    keys = ["", "é", "0", *("".join(rng.choices("abé7", k=rng.randrange(90))) for _ in range(200))]
    found = ids.hash_ids(pa.array(keys), 1_000_003)
    np.testing.assert_array_equal(found, tf.strings.to_hash_bucket_fast(keys, 1_000_003).numpy())


def test_key_hash_knows_bytes_and_not_layout():
    keys = ["", "a", "b", "ab", "ba", "\0", "\0\0", "é", *map(str, range(5000))]
    hashes = hash_keys(pa.array(keys))
    assert len(set(hashes.tolist())) == len(keys)
    np.testing.assert_array_equal(hash_keys(pa.array(["x", *keys]).slice(1)), hashes)
    assert 400 < np.bincount((hashes[8:] % np.uint64(10)).astype(int), minlength=10).min()


def test_row_hash_is_a_bijection():
    hashes = hash_rows(np.arange(100_000), 3, 1)
    assert len(np.unique(hashes)) == 100_000
    assert not np.intersect1d(hashes, hash_rows(np.arange(100_000), 4, 1)).size
