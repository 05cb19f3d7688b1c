"""What the host prepares for a TPU's step, against the CPU's batches and plain counting."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.tiny_run import planted_document, write_planted
from trainer.averages import Exponential
from trainer.data.batches import TrainData
from trainer.data.catalog import Items
from trainer.models.recommender import Recommender
from trainer.tpu.batches import InputPlan, prepared
from trainer.tpu.ledger import Ledger

BATCH, LENGTH, REPLICAS, SEED = 64, 4, 4, 0


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """(config of two_tower with history, dataset, its items)."""
    root = str(tmp_path_factory.mktemp("input"))
    write_planted(root)
    config = parse_config(planted_document(root), "test")
    dataset = load_dataset(config.dataset.path)
    return config, dataset, Items.load(dataset)


def made(planted, start: int, ledger=None):
    """(plan, CPU's batches, prepared batches) from step `start` on."""
    config, dataset, items = planted
    model = Recommender(config, dataset, items.table_counts, 60).model
    rows = {name: dataset.table_rows(name) for name in ("item", "user")}
    plan = InputPlan.of(config, rows, REPLICAS)
    data = TrainData(dataset, BATCH, SEED)
    ready = prepared(data.batches(start), start, model, plan, ledger)
    return plan, data.batches(start).as_numpy_iterator(), ready.as_numpy_iterator()


def test_every_replica_gets_its_share_of_the_cpus_batch(planted):
    plan, batches, ready = made(planted, 5)
    share = BATCH // REPLICAS
    assert plan.inputs == {"item": {"history": (share, LENGTH), "item": (share,)}, "user": {"user": (share,)}}
    for step in (6, 7):
        batch, got = next(batches), next(ready)
        assert got["step"] == step and not got["shares"]
        assert got["ids"]["user"].dtype == np.int32
        np.testing.assert_array_equal(got["ids"]["user"].reshape(-1), batch["user"])
        padding = plan.rows["item"]
        history = np.where(batch["history"] < 0, padding, batch["history"])
        for replica, ids in enumerate(got["ids"]["item"]):
            here = slice(replica * share, (replica + 1) * share)
            pieces = {"history": history[here].reshape(-1), "item": batch["item"][here]}
            np.testing.assert_array_equal(ids, np.concatenate([pieces[n] for n in plan.inputs["item"]]))
        np.testing.assert_array_equal(got["columns"]["item"].reshape(-1), batch["item"])
        assert got["columns"]["item"].dtype == np.int32
        mask = got["columns"]["history_mask"].reshape(BATCH, LENGTH)
        np.testing.assert_array_equal(mask, batch["history"] >= 0)


def test_rows_come_back_by_input(planted):
    plan, batches, ready = made(planted, 0)
    batch, got = next(batches), next(ready)
    rows = {name: np.arange(plan.rows[name] + 1, dtype=np.float32)[:, None] for name in plan.rows}
    share = BATCH // REPLICAS
    for replica in range(REPLICAS):
        found = {n: tf.constant(rows[n][got["ids"][n][replica]]) for n in plan.inputs}
        arranged = plan.arranged(found)
        here = slice(replica * share, (replica + 1) * share)
        np.testing.assert_array_equal(arranged["user"][:, 0], batch["user"][here])
        np.testing.assert_array_equal(arranged["item"][:, 0], batch["item"][here])
        history = np.where(batch["history"] < 0, plan.rows["item"], batch["history"])
        np.testing.assert_array_equal(arranged["history"][..., 0], history[here])


def test_shares_divide_by_how_often_the_whole_batch_holds_a_row(planted):
    config, dataset, _ = planted
    stored = {name: dataset.table_rows(name) + 1 for name in ("item", "user")}
    ledger = Ledger(stored, Exponential(0.9))
    *_, ready = made(planted, 0, ledger)
    last = {name: np.zeros(n, int) for name, n in stored.items()}
    for step in range(1, 6):
        got = next(ready)
        for name in stored:
            ids = got["ids"][name].reshape(-1)
            count = collections.Counter(ids.tolist())
            # Untouched rows stand at step 0, touched ones at the step before their last.
            stands = np.maximum(last[name][ids] - 1, 0)
            expected = (1 - 0.9 ** (step - 1 - stands)) / [count[i] for i in ids.tolist()]
            np.testing.assert_allclose(got["shares"][f"{name}_average"].reshape(-1), expected, rtol=1e-5)
            last[name][ids] = step


def test_rows_outside_the_table_never_reach_the_chips(planted):
    config, _, _ = planted
    plan = InputPlan.of(config, {"item": 50, "user": 80}, REPLICAS)
    batch = {"user": np.zeros(8, np.int64), "item": np.zeros(8, np.int64)}
    batch["history"] = np.full((8, LENGTH), -1, np.int64)
    for name, bad, table in (("user", 80, "user"), ("user", -1, "user"), ("history", -2, "item")):
        wrong = {key: np.array(value) for key, value in batch.items()}
        wrong[name].flat[3] = bad
        wrong = {key: tf.constant(value) for key, value in wrong.items()}
        message = f"an id of {name} is not in 0..{plan.rows[table] - 1}; run `lazytower prepare` again"
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            plan.flat_ids(table, wrong)


def test_padding_has_a_row_of_its_own_only_where_there_is_padding(planted):
    config, _, _ = planted
    plan = InputPlan.of(config, {"item": 50, "user": 80}, REPLICAS)
    assert (plan.stored_rows("item"), plan.stored_rows("user")) == (51, 80)
    share = BATCH // REPLICAS
    assert (plan.ids_of_share("item"), plan.ids_of_share("user")) == (share * (LENGTH + 1), share)
