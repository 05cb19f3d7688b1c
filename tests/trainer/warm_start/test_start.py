"""Runs that start from another: what stands in tables and towers before the first step, and after it."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from configs.manifest import load_dataset
from configs.sections.optimizers import SM3Config
from tests.support.addons import needs_addons
from tests.support.checkpoint_state import newest_state
from tests.support.two_runs import (
    SECOND,
    begun,
    first_config,
    second_config,
    sources_of,
    trained,
    write_datasets,
)
from tests.trainer.optimizers.references import Reference
from trainer.embeddings.engines import TABLE_ENGINES
from trainer.evaluation.trained import open_trained
from trainer.models.recommender import Recommender
from trainer.optimizers import SM3 as SM3Optimizer
from trainer.warm_start.start import WarmStart

pytestmark = pytest.mark.any_python

DIM = 8
SLOTS = {
    "lazy_adam": 2 * DIM,
    "adagrad": DIM,
    "momentum": DIM,
    "ftrl": 2 * DIM,
    "sgd": 0,
    "rowwise_adagrad": 1,
    "sm3": 2 + DIM,
}
SM3 = {"kind": "sm3", "learning_rate": 0.1, "momentum": 0.9, "beta": 0.95}


def tables(user: str = "lazy_adam", item: str = "", **options) -> dict:
    """Tables with the user's optimizer, and the item's if it is another one."""

    def table(kind):
        optimizer = SM3 if kind == "sm3" else {"kind": kind, "learning_rate": 0.02}
        return {"dim": DIM, "optimizer": optimizer} | options

    return {"user": table(user), "item": table(item or user)}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    made = str(tmp_path_factory.mktemp("two"))
    write_datasets(made)
    return made


@pytest.fixture(scope="module")
def first(root):
    """By the tables' optimizers, the config and the last state of a run to start from, each trained once."""

    @functools.cache
    def of(user: str = "lazy_adam", item: str = ""):
        place = f"{root}/first/{user}{item}"
        config = trained(first_config(root, tables=tables(user, item), output={"path": place}))
        return config, newest_state(place)

    return of


def start(root, first, kinds=("lazy_adam",), name="second", **sections) -> dict[str, np.ndarray]:
    config, _ = first(*kinds)
    init = {"from": config.output.path} | sections.pop("init", {})
    counts = {key: sections.pop(key) for key in ("steps", "small_rows") if key in sections}
    sections.setdefault("tables", tables(*kinds))
    return begun(second_config(root, name, init=init, **sections), **counts)


def initial(root, config) -> dict[str, np.ndarray]:
    """Records of a run without init, by table."""
    config = config.model_copy(update={"init": None})
    dataset = load_dataset(config.dataset.path)
    recommender = Recommender(config, dataset, np.ones(dataset.tables["item"].rows, np.int64), 12)
    recommender.initialize()
    return {
        name: table.read_records(np.arange(table.rows)).numpy()
        for name, table in recommender.storages.items()
    }


PLACES = {
    "rows": {"engine": "rows"},
    "native": {"engine": "native"},
    "tfa": {"engine": "tfa"},
    "v4-32": {"slice": "v4-32"},
    "v6e-4": {"slice": "v6e-4"},
    "tensorcore": {"slice": "v6e-4", "small_rows": 1000},
}
PLACED = [pytest.param(name, marks=needs_addons if name == "tfa" else ()) for name in PLACES]


@pytest.mark.parametrize("place", PLACED)
def test_kept_rows_arrive_bit_for_bit_on_every_engine(root, first, place):
    engine, slice_ = PLACES[place].get("engine"), PLACES[place].get("slice")
    sections = {"device": {"kind": "tpu", "slice": slice_}} if slice_ else {}
    sections["tables"] = tables(engine=engine) if engine else tables()
    sections["small_rows"] = PLACES[place].get("small_rows", 0)
    got = start(root, first, name=f"place-{place}", init={"weights": "raw"}, **sections)
    _, before = first()
    fresh = initial(root, second_config(root, tables=tables()))
    for side in ("user", "item"):
        sources = sources_of(root, side)
        kept = np.flatnonzero(sources >= 0)
        records, theirs = got[f"tables/{side}"], before[f"tables/{side}"][sources[kept]]
        assert 0 < len(kept) < len(sources) or side == "item"
        same = 3 * DIM  # weight, m, v
        np.testing.assert_array_equal(records[kept, :same], theirs[:, :same])
        np.testing.assert_array_equal(records[kept, same:-1], theirs[:, :DIM])  # averages begin there
        np.testing.assert_array_equal(records[:, -1], 0)
        new = np.flatnonzero(sources < 0)
        np.testing.assert_array_equal(records[new], fresh[side][new])


PAIRS = [("lazy_adam",), ("adagrad", "momentum"), ("ftrl", "sgd"), ("rowwise_adagrad", "sm3")]
assert {kind for kinds in PAIRS for kind in kinds} == {*SLOTS}


@pytest.mark.parametrize("kinds", PAIRS, ids=", ".join)
def test_slots_of_every_optimizer(root, first, kinds):
    got = start(root, first, kinds, name=f"slots-{kinds[0]}", init={"weights": "raw"})
    _, before = first(*kinds)
    for side, kind in (("user", kinds[0]), ("item", kinds[-1])):
        sources = sources_of(root, side)
        kept = np.flatnonzero(sources >= 0)
        theirs = before[f"tables/{side}"][sources[kept]].copy()
        if kind == "sm3":  # accumulator, accumulator_step, momentum: the step moves to the new clock
            theirs[:, DIM + 1] -= 12
            np.testing.assert_array_equal(
                got[f"shared/{side}/column_accumulator"], before[f"shared/{side}/column_accumulator"]
            )
        width = DIM + SLOTS[kind]
        np.testing.assert_array_equal(got[f"tables/{side}"][kept, :width], theirs[:, :width])


@pytest.mark.parametrize("engine", ["rows", "native"])
def test_sm3_decays_as_if_the_other_run_went_on(engine):
    """Its step 13 and the new run's step 1 make the same of a row, whenever it was touched last."""
    after = []
    for shift in (0, 12):
        table = TABLE_ENGINES[engine]("user", 5, DIM, SM3Optimizer(SM3Config(**SM3)), None)
        records = np.random.default_rng(1).uniform(0.1, 1, [5, table.width]).astype(np.float32)
        records[:, DIM + 1] = np.array([0, 3, 7, 11, 12]) - shift
        table.write_records(0, records)
        table.shared["column_accumulator"].assign(np.full(DIM, 0.5, np.float32))
        gradient = tf.constant(np.random.default_rng(2).normal(size=[5, DIM]), tf.float32)
        step = tf.constant(13.0 - shift)
        table.update(table.lookup(tf.range(5, dtype=tf.int64)), gradient, step, tf.constant(1.0))
        after.append(table.read_records(np.arange(5)).numpy())
    assert (after[0][:, DIM + 1] == 13).all() and (after[1][:, DIM + 1] == 1).all()
    parts = [*range(DIM + 1), *range(DIM + 2, 2 * DIM + 2)]  # all but steps
    np.testing.assert_array_equal(after[0][:, parts], after[1][:, parts])


def test_averages_are_those_that_evaluation_reads(root, first):
    """As of the last step, whenever a row was touched last."""
    config, before = first()
    got = start(root, first, name="averages")
    served = open_trained(config).recommender
    for side in ("user", "item"):
        sources = sources_of(root, side)
        kept = np.flatnonzero(sources >= 0)
        every = np.arange(len(before[f"tables/{side}"]))
        weight = served.storages[side].read_weights(every, True, 12.0).numpy()[sources[kept]]
        records = got[f"tables/{side}"][kept]
        np.testing.assert_array_equal(records[:, :DIM], weight)
        np.testing.assert_array_equal(records[:, -1 - DIM : -1], weight)
        assert (weight != before[f"tables/{side}"][sources[kept], :DIM]).any()
    for i in range(8):
        np.testing.assert_array_equal(got[f"dense/{i:03d}"], before[f"average/{i:03d}"])
        np.testing.assert_array_equal(got[f"average/{i:03d}"], before[f"average/{i:03d}"])


def test_towers_and_their_optimizer(root, first):
    _, before = first()
    kept = start(root, first, name="towers", init={"weights": "raw"})
    optimizer = [name for name in before if name.startswith("optimizer/")]
    assert len(optimizer) == 1 + 2 * 8  # the number of updates, m and v
    for name in [*optimizer, *(f"dense/{i:03d}" for i in range(8))]:
        np.testing.assert_array_equal(kept[name], before[name], err_msg=name)
    assert kept["step"] == 0
    anew = start(root, first, name="anew", init={"weights": "raw", "slots": "reset"})
    assert not any(anew[name].any() for name in optimizer if before[name].ndim)
    np.testing.assert_array_equal(anew["dense/000"], before["dense/000"])


@pytest.mark.parametrize("kinds", PAIRS[:3], ids=", ".join)
def test_reset_slots_are_those_of_new_rows(root, first, kinds, caplog):
    got = start(root, first, kinds, name=f"reset-{kinds[0]}", init={"weights": "raw", "slots": "reset"})
    _, before = first(*kinds)
    fresh = initial(root, second_config(root, tables=tables(*kinds)))
    for side, kind in (("user", kinds[0]), ("item", kinds[-1])):
        sources = sources_of(root, side)
        kept = np.flatnonzero(sources >= 0)
        records = got[f"tables/{side}"]
        np.testing.assert_array_equal(records[kept, :DIM], before[f"tables/{side}"][sources[kept], :DIM])
        slots = slice(DIM, DIM + SLOTS[kind])
        np.testing.assert_array_equal(records[:, slots], fresh[side][:, slots])
    assert ("tables.user: ftrl computes weights from slots" in caplog.text) == (kinds[0] == "ftrl")


def test_another_optimizer_with_reset_slots(root, first):
    got = start(
        root, first, name="other", init={"weights": "raw", "slots": "reset"}, tables=tables("adagrad")
    )
    _, before = first()
    sources = sources_of(root, "user")
    kept = np.flatnonzero(sources >= 0)
    np.testing.assert_array_equal(got["tables/user"][kept, :DIM], before["tables/user"][sources[kept], :DIM])
    np.testing.assert_array_equal(got["tables/user"][:, DIM : 2 * DIM], np.float32(0.1))


@pytest.mark.parametrize("engine", ["rows", "native", pytest.param("tfa", marks=needs_addons)])
def test_one_more_step_equals_numpy_from_the_source_rows(root, first, engine):
    _, before = first()
    config, _ = first()
    second = second_config(
        root, f"step-{engine}", init={"from": config.output.path}, tables=tables(engine=engine)
    )
    dataset = load_dataset(second.dataset.path)
    recommender = Recommender(second, dataset, np.ones(dataset.tables["item"].rows, np.int64), 12)
    state = {"step": tf.Variable(0, dtype=tf.int64), **recommender.dense_state}
    warm = WarmStart(
        second.model_copy(update={"init": second.init.model_copy(update={"slots": "keep"})}), dataset
    )
    state |= {name: tf.Variable(before[name]) for name in before if name.startswith("optimizer/")}
    warm.load(recommender, state)
    table, sources = recommender.storages["user"], sources_of(root, "user")
    reference = Reference(second.table("user").optimizer, np.zeros([table.rows, DIM]))
    start_of = table.read_records(np.arange(table.rows)).numpy()
    kept = np.flatnonzero(sources >= 0)
    reference.weight[:] = start_of[:, :DIM]
    for place, slot in enumerate(reference.slots):
        columns = slice((1 + place) * DIM, (2 + place) * DIM)
        slot[kept] = before["tables/user"][sources[kept], columns]
    ids = np.array([*kept[:6], kept[-1], *np.flatnonzero(sources < 0)[:3]])
    gradient = np.random.default_rng(5).normal(size=[len(ids), DIM]).astype(np.float32)
    table.update(table.lookup(tf.constant(ids)), tf.constant(gradient), tf.constant(1.0), tf.constant(0.5))
    reference.step(ids, gradient, 1, 0.5 * second.table("user").optimizer.learning_rate)
    got = table.read_records(np.arange(table.rows)).numpy()
    np.testing.assert_allclose(got[:, :DIM], reference.weight, rtol=1e-5, atol=1e-7)
    assert (got[ids, -1] == 1).all() and got[:, -1].sum() == len(ids)


@pytest.mark.parametrize("slice_", ["v4-32", "v6e-4"])
def test_a_step_on_a_tpu_is_that_of_the_cpu(root, first, slice_):
    device = {"kind": "tpu", "slice": slice_}
    tpu = start(root, first, name=f"one-{slice_}", device=device, steps=1)
    cpu = start(root, first, name=f"one-cpu-{slice_}", steps=1)
    for name in ("tables/user", "tables/item", "dense/000"):
        np.testing.assert_allclose(tpu[name], cpu[name], rtol=2e-5, atol=3e-6, err_msg=name)
    assert SECOND["users"] + 1 == len(cpu["tables/user"])
