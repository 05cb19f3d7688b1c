"""Ids over chains of days, against dictionaries: any keys, any cut into parts, growth, expiry, reuse."""

import pathlib
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.base.index import NEVER
from tests.support.chain_ids import DAY, LEFT, Chain, Key, Naive
from tests.support.prepared import configure

KEYS = st.sampled_from(["", "a", "b", "ab", "é", "ключ", *(f"k{i}" for i in range(14))])
FACTS = st.builds(Key, st.integers(0, 3), st.integers(0, 2), st.integers(0, 3 * DAY))
SHARDS = st.lists(st.dictionaries(KEYS, FACTS, max_size=9), min_size=1, max_size=3)
SECTIONS = st.fixed_dictionaries(
    {"kind": st.just("vocab"), "min_count": st.integers(1, 3)},
    optional={"max_rows": st.integers(2, 12), "expire_days": st.sampled_from([0.5, 1, 2.5])},
)


@pytest.mark.parametrize("table", ["item", "words"])
@settings(deadline=None, max_examples=40)
@given(
    days=st.lists(SHARDS, min_size=2, max_size=5),
    section=SECTIONS,
    splitters=st.sets(KEYS, max_size=3),
)
def test_any_chain_of_days(table, days, section, splitters):
    has_catalog = table == "item"
    naive = Naive(has_catalog)
    source = {"kind": "delimited", "paths": ["x"], "roles": {"timestamp": "t"}}
    config = configure(source, {"path": "x", "item_ids": section}).dataset
    with tempfile.TemporaryDirectory() as path:
        chain = Chain(pathlib.Path(path), table, sorted(splitters - {""}, key=str.encode))
        for number, shards in enumerate(days):
            shards = [
                {key: facts._replace(seen=facts.seen + number * DAY) for key, facts in shard.items()}
                for shard in shards
            ]
            own = _together(shards)
            newest = max((facts.seen for facts in own.values()), default=number * DAY)
            before = {key: naive.id_of(key) for key in [*naive.rows, *naive.further]}
            expected = naive.day(own, newest, config.item_ids)
            found = chain.day(shards, newest, section)
            assert found.ids == expected
            assert (found.table.keys, found.table.rows) == (naive.size, naive.size + 1)
            assert has_catalog or found.table.empty == naive.id_of("")
            if has_catalog:
                assert found.table.catalog_rows == naive.catalog_rows
                assert found.listed == {key: (expected[key], own[key].count) for key in own}
            else:  # the whole vocabulary, with the counts of the whole chain
                held = {key: own[key].held if key in own else 0 for key in naive.rows}
                counts = {key: naive.count[key] - held[key] for key in naive.rows}
                assert found.listed == {key: (row, counts[key]) for key, row in naive.rows.items()}
            if number:
                after = [
                    naive.id_of(key) if key in naive.rows or key in naive.further else LEFT for key in before
                ]
                assert found.carried(list(before.values())) == after


def _together(shards: list[dict[str, Key]]) -> dict[str, Key]:
    own: dict[str, Key] = {}
    for shard in shards:
        for key, facts in shard.items():
            old = own.get(key, Key(0, 0, NEVER))
            own[key] = Key(old.count + facts.count, old.held + facts.held, max(old.seen, facts.seen))
    return own
