"""`lazytower plan`: its arithmetic against numbers worked out by hand, what it refuses, and a real probe."""

import argparse
import json
import os
import pathlib
import shutil
import types

import numpy as np
import pytest
import yaml

from configs.errors import ConfigError, DataError, UserError
from configs.load import load_config, parse_config
from configs.manifest import load_dataset
from tests.support.tiny_run import planted_document, write_planted
from trainer.commands import plan
from trainer.data.bare_dataset import bare_dataset
from trainer.preflight import plan as preflight_plan
from trainer.resources import machine

GB = 10**9
CONFIGS = pathlib.Path(__file__).parents[3] / "configs"


def document(directory, **sections):
    """Hashed users and items, so that rows are known without a dataset."""
    return {
        "source": {"kind": "delimited", "paths": ["none.csv"], "roles": {"label": "rating"}},
        "dataset": {
            "path": str(directory / "dataset"),
            "user_ids": {"kind": "hash", "rows": 25_000_000},
            "item_ids": {"kind": "hash", "rows": 1_000_000},
        },
        "model": {"kind": "two_tower"},
        "tables": {"user": {"dim": 32}, "item": {"dim": 32, "optimizer": {"kind": "adagrad"}}},
        "train": {"num_steps": 5000, "batch_size": 8192},
        "output": {"path": str(directory / "runs/shop")},
        **sections,
    }


def made(directory, slices=(), **sections):
    config = parse_config(document(directory, **sections), "test")
    return config, preflight_plan.make_plan(config, list(slices), 0)


@pytest.fixture
def fast_disk(monkeypatch):
    monkeypatch.setattr(machine, "disk_speed", lambda directory: 100e6)


def test_bytes_of_tables(tmp_path, fast_disk):
    _, figures = made(tmp_path)
    item, user = figures["tables"]
    # 25M x 32 x 4 bytes = 3.2 GB; Adam's moments twice that; average; one float a row.
    assert (user["weight"], user["slots"], user["average"]) == (3_200_000_000, 6_400_000_000, 3_200_000_000)
    assert user["last_step"] == 100_000_000 and user["total"] == 12_900_000_000
    # Adagrad has one accumulator a weight.
    assert (item["weight"], item["slots"], item["total"]) == (128_000_000, 128_000_000, 388_000_000)
    assert figures["table_bytes"] == 13_288_000_000 and figures["complete"] and not figures["prepared"]
    # 13.288 x 1.05 + 1.5
    assert figures["memory"]["peak_bytes"] == 15_452_400_000 + (512 << 20)
    saved = figures["checkpoints"]
    assert (saved["bytes"], saved["most"], saved["number"]) == (13_288_000_000, 3.0, 5)
    assert saved["seconds_each"] == pytest.approx(132.88)
    assert figures["steps"] == 5000 and figures["step_seconds"] is None


def test_bytes_without_averages_and_of_other_kinds(tmp_path, fast_disk):
    tables = {
        "user": {"kind": "robe_z", "dim": 32, "size": 3_200_000, "block": 32},
        "item": {"dim": 32, "optimizer": {"kind": "sm3"}},
    }
    _, figures = made(tmp_path, tables=tables, polyak={"kind": "none"})
    item, user = figures["tables"]
    assert (user["rows"], user["weight"], user["slots"]) == (25_000_000, 12_800_000, 25_600_000)
    assert (user["average"], user["last_step"]) == (0, 400_000), "one float for each of 100,000 chunks"
    # SM3: one float a row and one a column.
    assert (item["slots"], item["average"]) == (4 * (1_000_000 + 32), 0)


def test_towers_count_in_the_checkpoint(tmp_path, fast_disk):
    model = {
        "kind": "two_tower",
        "user_tower": {"inputs": ["user"], "layers": [64, 16]},
        "item_tower": {"inputs": ["item"], "layers": [16]},
    }
    _, figures = made(tmp_path, model=model)
    values = (32 * 64 + 64) + (64 * 16 + 16) + (32 * 16 + 16)
    assert figures["checkpoints"]["bytes"] - figures["table_bytes"] == 4 * values * 4


def test_the_forecast_of_tables_is_what_tables_take(tmp_path, fast_disk):
    """Of every optimizer; records end with the last step only when averaged, as yet."""
    from trainer.averages import Exponential
    from trainer.embeddings import TABLE_KINDS
    from trainer.optimizers import ROW_OPTIMIZERS

    for kind in ROW_OPTIMIZERS:
        tables = {"user": {"dim": 8, "optimizer": {"kind": kind}}, "item": {"dim": 8}}
        ids = {name: {"kind": "hash", "rows": 50} for name in ("user_ids", "item_ids")}
        dataset = {"path": "none", **ids}
        config, figures = made(tmp_path, tables=tables, dataset=dataset)
        options = config.table("user")
        optimizer = ROW_OPTIMIZERS[kind](options.optimizer)
        table = TABLE_KINDS["table"]("user", 50, options, optimizer, Exponential(0.9), 10)
        assert figures["tables"][1]["total"] == table.bytes


def test_slices(tmp_path, fast_disk):
    slices = [plan.tpu_slice(name) for name in ("v6e-1", "v6e-4", "v5p-8")]
    config, figures = made(tmp_path, slices)
    # User: weight, two moments, second table: 4 x 3.2 GB; item: weight, accumulator, second table: 3 x 0.128.
    assert [facts["needed_per_chip"] for facts in figures["slices"]] == [
        13_184_000_000,
        3_296_000_000,
        3_296_000_000,
    ]
    assert all(facts["fits"] for facts in figures["slices"])
    figures["memory"]["free_bytes"], figures["checkpoints"]["free_bytes"] = 1, 10**12
    assert preflight_plan.find_problems(config, figures, {"v5p-8"}) == [], (
        "the tables need not fit this machine"
    )
    wide = {"user": {"dim": 128}, "item": {"dim": 128, "optimizer": {"kind": "sgd"}}}
    config, figures = made(tmp_path, slices, tables=wide, polyak={"kind": "none"})
    # 3 x 12.8 GB + 0.512 GB; v6e has 31.24 GiB = 33.54 GB.
    assert figures["slices"][0]["needed_per_chip"] == 38_912_000_000
    assert [facts["fits"] for facts in figures["slices"]] == [False, True, True]
    figures["checkpoints"]["free_bytes"] = 10**12
    [problem] = preflight_plan.find_problems(config, figures, {"v6e-1"})
    assert problem == "v6e-1: does not fit (38.91 GB on each chip, which has 33.54 GB)"
    assert preflight_plan.find_problems(config, figures, {"v6e-4"}) == []


def test_what_has_no_form_on_a_tpu(tmp_path, fast_disk):
    tables = {"user": {"dim": 32, "optimizer": {"kind": "rowwise_adagrad"}}, "item": {"dim": 32}}
    config, figures = made(tmp_path, [plan.tpu_slice("v5p-8")], tables=tables)
    assert figures["slices"][0]["fits"] is False
    assert "tables.user: optimizer rowwise_adagrad is not available on TPUs" in figures["slices"][0]["reason"]


def test_unknown_rows_are_said_to_be_unknown(tmp_path, fast_disk):
    dataset = {"path": str(tmp_path / "none"), "item_ids": {"kind": "hash", "rows": 100}}
    train_keys = {"num_epochs": 2, "batch_size": 8}
    config, figures = made(tmp_path, [plan.tpu_slice("v5p-8")], dataset=dataset, train=train_keys)
    assert not figures["complete"] and figures["steps"] is None
    assert figures["tables"][1]["rows"] is None and figures["slices"][0]["fits"] is None
    text = plan.format_plan(figures)
    assert "at least" in text and "no dataset yet" in text and "the rows of others are not known yet" in text
    assert "are not known yet" in preflight_plan.find_problems(config, figures, {"v5p-8"})[0]


def command(tmp_path, document, *flags, capsys=None) -> tuple[str, str | None]:
    """(what it prints, its error)."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    parser = argparse.ArgumentParser()
    plan.add_arguments(parser)
    error = None
    try:
        assert plan.run(parser.parse_args(["--config", str(tmp_path / "run.yaml"), *flags])) == 0
    except UserError as caught:
        error = str(caught)
    return capsys.readouterr().out, error


def test_too_little_memory_is_refused_after_the_plan(tmp_path, fast_disk, monkeypatch, capsys):
    monkeypatch.setattr(machine, "free_memory", lambda: (8 * GB, "cgroup limit"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: argparse.Namespace(free=100 * GB))
    out, error = command(tmp_path, document(tmp_path), capsys=capsys)
    assert "memory       15.99 GB at the peak, 8.00 GB are free (cgroup limit)" in out
    assert error.startswith("memory: the run needs 15.99 GB, 8.00 GB are free (cgroup limit); ")
    assert "\n" not in error and not (tmp_path / "runs").exists()


def test_too_little_disk_is_refused(tmp_path, fast_disk, monkeypatch, capsys):
    monkeypatch.setattr(machine, "free_memory", lambda: (80 * GB, "free memory"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: argparse.Namespace(free=39 * GB))
    # One full, as much again of increments, and the next full one.
    _, error = command(tmp_path, document(tmp_path), capsys=capsys)
    assert error.startswith("disk: 3 full checkpoints need 39.86 GB more, 39.00 GB are free at ")
    _, error = command(tmp_path, document(tmp_path, checkpoint={"compact_at": 0.5}), capsys=capsys)
    assert error is None
    full_ones = {"incremental": False, "keep": 2}
    _, error = command(tmp_path, document(tmp_path, checkpoint=full_ones), capsys=capsys)
    assert error.startswith("disk: 3 full checkpoints need 39.86 GB more")
    kept = {"every_steps": 1000, "best": {"metric": "mrr"}}
    _, error = command(tmp_path, document(tmp_path, checkpoint=full_ones, evaluate=kept), capsys=capsys)
    assert error.startswith("disk: 4 full checkpoints need 53.15 GB more")
    out, error = command(tmp_path, document(tmp_path), "--json", "--tpu", "v6e-4", capsys=capsys)
    figures = json.loads(out)
    assert figures["slices"][0]["fits"] and error in figures["problems"]


def test_what_a_run_has_already_written_need_not_be_free(tmp_path, fast_disk):
    place = tmp_path / "runs/shop/checkpoints/step-000000001"
    place.mkdir(parents=True)
    (place / "a").write_bytes(b"x" * 1000)
    _, figures = made(tmp_path)
    assert figures["checkpoints"]["existing_bytes"] == 1000


@pytest.fixture
def planted(tmp_path):
    write_planted(str(tmp_path))
    return planted_document(str(tmp_path))


def test_a_real_probe_leaves_no_run_behind(tmp_path, planted, monkeypatch, capsys):
    monkeypatch.setattr(machine, "PROBE_BYTES", 4_000_000)
    before = sorted(os.listdir(tmp_path))
    out, error = command(tmp_path, planted, "--probe_steps", "4", "--json", capsys=capsys)
    assert error is None and sorted(os.listdir(tmp_path)) == sorted([*before, "run.yaml"])
    figures = json.loads(out)
    assert figures["prepared"] and figures["steps"] == 60 and figures["steps_per_epoch"] == 75
    assert figures["step_seconds"] > 0 and figures["checkpoints"]["bytes_per_second"] > 0
    out, _ = command(tmp_path, planted, "--probe_steps", "0", capsys=capsys)
    assert "60 of 64 rows, 75 per epoch" in out and "examples/s" not in out


def test_the_forecast_checkpoint_holds_what_a_real_one_does(planted, fast_disk):
    from trainer.models.recommender import Recommender
    from trainer.training.step import TrainStep

    config = parse_config(planted, "test")
    figures = preflight_plan.make_plan(config, [], 0)
    recommender = Recommender(config, load_dataset(config.dataset.path), np.ones(51, np.int64), 60)
    dense = TrainStep(config, recommender, 60).dense_state.values()
    saved = sum(table.bytes for table in recommender.tables.values())
    saved += sum(variable.numpy().nbytes for variable in dense if variable.shape.rank)
    assert figures["checkpoints"]["bytes"] == saved


def test_the_probes_text(tmp_path, planted):
    figures = preflight_plan.make_plan(parse_config(planted, "test"), [], 0)
    figures |= {"step_seconds": 0.016, "steps": 225_000}
    figures["checkpoints"] |= {"seconds_each": 7.2, "number": 500, "bytes_per_second": 1e9}
    text = plan.format_plan(figures)
    assert "speed        4,000 examples/s, 16.0 ms per step" in text
    assert "time         1.00 h of training, 1.00 h for 500 checkpoints; plus evaluations" in text


def test_a_dataset_of_another_config_is_refused(tmp_path, planted):
    planted["dataset"]["history_length"] = 5
    with pytest.raises(DataError, match="prepared with dataset.history_length 4, but the config has 5"):
        preflight_plan.make_plan(parse_config(planted, "test"), [], 0)


def test_the_disk_probe(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "PROBE_BYTES", 8_000_000)
    with monkeypatch.context() as patch:
        # Not the module's own function: threads of other tests may call that.
        patch.setattr(machine, "time", types.SimpleNamespace(monotonic=iter([10.0, 12.0]).__next__))
        assert machine.disk_speed(str(tmp_path)) == 4e6 and not os.listdir(tmp_path)
    assert machine.existing_parent(str(tmp_path / "a/b")) == str(tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        machine.disk_speed(str(tmp_path / "none"))


@pytest.mark.parametrize("version", [1, 2])
def test_the_lowest_cgroup_limit_counts(tmp_path, monkeypatch, version):
    root = tmp_path if version == 2 else tmp_path / "memory"
    names = ("memory.max", "memory.current")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for folder, limit, used in (("", "max", "1"), ("jobs", "5000", "2000"), ("jobs/mine", "9000", "100")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, value in zip(names, (limit, used), strict=True):
            (root / folder / name).write_text(value + "\n")
    (root / "jobs/memory.stat").write_text("anon 1500\ninactive_file 400\nactive_file 100\n")
    line = "0::/jobs/mine" if version == 2 else "7:cpu,memory:/jobs/mine"
    (tmp_path / "cgroup").write_text(line + "\n")
    real_open = open
    monkeypatch.setattr(machine, "_CGROUPS", str(tmp_path))
    monkeypatch.setattr(
        "builtins.open",
        lambda path, *args, **kwargs: real_open(
            tmp_path / "cgroup" if path == "/proc/self/cgroup" else path, *args, **kwargs
        ),
    )
    assert sorted(machine._cgroup_rooms()) == [3400, 8900]
    assert machine.free_memory() == (3400, "cgroup limit")


def test_examples_load(tmp_path):
    """The document of these tests is a valid run."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document(tmp_path)))
    assert load_config(str(tmp_path / "run.yaml")).train.num_steps == 5000


SHIPPED = {"v3_8": 6.4, "v4_8": 6.4, "v4_32": 1.6, "v5p_8": 6.4, "v6e_4": 6.4}


@pytest.mark.parametrize(("name", "users"), SHIPPED.items())
def test_the_shipped_runs_fit_their_slices(name, users, tmp_path, monkeypatch, fast_disk):
    """25 million users x 64, two Adam slots and averages; and a million items."""
    config = load_config(str(CONFIGS / f"users25m_{name}.yaml"))
    slice_ = plan.tpu_slice(config.device.slice)
    dataset = bare_dataset({"user": 25_000_000, "item": 1_000_000})
    monkeypatch.setattr(preflight_plan, "_dataset", lambda config: dataset)
    monkeypatch.setattr("trainer.data.checks.check_dataset", lambda *_: None)
    monkeypatch.setattr("trainer.data.train_rows.TrainRows.steps_per_epoch", lambda *_: 100)
    figures = preflight_plan.make_plan(config, [slice_], 20)
    assert figures["step_seconds"] is None, "nothing is timed where there is no TPU"
    [facts] = figures["slices"]
    assert facts["fits"] and facts["needed_per_chip"] / 1e9 == pytest.approx(users * 1.04, rel=1e-3)
    assert preflight_plan.find_problems(config, figures, set()) == []


def test_a_runs_own_slice_must_hold_it_as_far_as_is_known(tmp_path, fast_disk):
    device = {"kind": "tpu", "slice": "v4-8"}
    # Users are hashed, items are not counted yet.
    dataset = {"path": str(tmp_path / "none"), "user_ids": {"kind": "hash", "rows": 25_000_000}}
    sections = {"device": device, "dataset": dataset, "tables": {n: {"dim": 32} for n in ("user", "item")}}
    config, figures = made(tmp_path, [plan.tpu_slice("v4-8")], **sections)
    assert figures["slices"][0]["fits"] is None and preflight_plan.find_problems(config, figures, set()) == []
    assert "not known yet" in preflight_plan.find_problems(config, figures, {"v4-8"})[0]
    sections["tables"] = {n: {"dim": 512} for n in ("user", "item")}
    config, figures = made(tmp_path, [plan.tpu_slice("v4-8")], **sections)
    assert (
        "v4-8: does not fit (51.20 GB on each chip" in preflight_plan.find_problems(config, figures, set())[0]
    )


def test_mlperfs_tables_fit_their_slice(fast_disk, tmp_path):
    """204 million rows of 128 and their accumulators; 13 small tables and dense layers on each replica."""
    config = load_config(
        str(CONFIGS / "criteo_mlperf_v5p_8.yaml"),
        [f"output.path={tmp_path}/run", f"dataset.path={tmp_path}/data"],
    )
    figures = preflight_plan.make_plan(config, [plan.tpu_slice(n) for n in ("v5p-8", "v4-32", "v6e-4")], 20)
    assert sum(table["rows"] for table in figures["tables"]) == 204_184_588
    placement = figures["placement"]
    engine, small = placement["engine"], placement["tensorcore"]
    assert (len(engine["tables"]), len(small["tables"])) == (13, 13)
    assert (engine["rows"], small["rows"]) == (204_164_921, 19_667)
    assert engine["bytes"] == 204_164_921 * 128 * 2 * 4
    # Records of 2 x 128 + 1 values, padded to 384, and rows to a multiple of 8.
    rows = sum(
        -(-table["rows"] // 8) * 8 for table in figures["tables"] if table["placement"] == "tensorcore"
    )
    assert small["bytes"] == rows * 384 * 4
    # 13 numbers through 512-256-128; 3 crosses of rank 512 over 27 x 128; 1024-1024-512-256-1 over 28 x 128.
    bottom = 14 * 512 + 513 * 256 + 257 * 128
    crosses = 3 * (2 * 3456 * 512 + 3456)
    top = 3585 * 1024 + 1025 * 1024 + 1025 * 512 + 513 * 256 + 257
    assert placement["dense_bytes"] == 3 * 4 * (bottom + crosses + top)
    copied = small["bytes"] + placement["dense_bytes"]
    needed = [facts["needed_per_chip"] for facts in figures["slices"]]
    assert needed[0] == -(-engine["bytes"] // 4) + copied
    assert needed[1] == -(-engine["bytes"] // 16) + 2 * copied, "two TensorCores a chip"
    assert [facts["fits"] for facts in figures["slices"]] == [True, True, False]
    text = plan.format_plan(figures)
    assert "in the engine   13 tables, 204,164,921 rows, 209.06 GB on all chips together: c1, c10," in text
    assert "on TensorCores  13 tables, 19,667 rows, 30.28 MB on each replica: c13, c14" in text
    assert "steps        64,000 of 65,536 rows" in text


def test_mlperfs_batch_is_the_largest_that_its_slice_takes():
    path = str(CONFIGS / "criteo_mlperf_v5p_8.yaml")
    with pytest.raises(ConfigError, match="32,768 ids of table c1 per chip, at most 16,384 fit") as error:
        load_config(path, ["train.batch_size=131072"])
    assert "table c6 " not in str(error.value), "it is on the TensorCores"
