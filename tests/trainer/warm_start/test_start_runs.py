"""Whole runs that start from another: what is refused, what they write down, how they resume."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from configs.errors import CheckpointError, ConfigError, DataError, UserError
from configs.load import load_config
from configs.manifest import load_dataset
from configs.system import storage
from tests.support.checkpoint_state import newest_state
from tests.support.two_runs import begun, first_config, second_config, sources_of, trained, write_datasets
from trainer.checkpoints.best import BestRecord, Evaluated, write_best
from trainer.checkpoints.compact import compact
from trainer.checkpoints.store import CheckpointStore
from trainer.commands.plan import run as plan
from trainer.preflight.probes import main as probe
from trainer.report.metrics_file import read_metrics
from trainer.warm_start.start import checked_source

pytestmark = pytest.mark.any_python


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    made = str(tmp_path_factory.mktemp("runs"))
    write_datasets(made)
    trained(first_config(made))
    return made


def copied(root: str, name: str) -> pathlib.Path:
    """A copy of the first run that a test may change."""
    return pathlib.Path(shutil.copytree(f"{root}/first/run", f"{root}/first/{name}"))


def events(config, event: str) -> list[dict]:
    return [line for line in read_metrics(config.output.path) if line.get("event") == event]


@pytest.fixture(scope="module")
def second(root):
    """The config of an undisturbed run that starts from the first."""
    return trained(second_config(root, "written"))


def test_what_a_run_writes_down(root, second):
    (line,) = events(second, "warm_start")
    assert (line["step"], line["source_step"], line["weights"], line["slots"]) == (0, 12, "average", "keep")
    assert line["run"] == f"{root}/first/run" and not line["resumed"] and line["bytes"] > 0
    kept = {side: int((sources_of(root, side) >= 0).sum()) for side in ("user", "item")}
    assert line["tables"]["user"] == {"matched": "key", "kept": kept["user"], "new": 15, "dropped": 0}
    assert line["tables"]["item"] == {"matched": "key", "kept": kept["item"], "new": 0, "dropped": 10}
    (moved,) = events(second, "moved")
    start = begun(second_config(root, "again"))
    end = newest_state(second.output.path)
    for side in ("user", "item"):
        rows = np.flatnonzero(sources_of(root, side) >= 0)
        before, after = (state[f"tables/{side}"][rows, :8].astype(float) for state in (start, end))
        figures = moved["tables"][side]
        assert figures["rows_compared"] == len(rows)
        rms = np.sqrt(((after - before) ** 2).mean())
        assert figures["rms"] == pytest.approx(rms) and rms > 0
        assert figures["relative"] == pytest.approx(rms / np.sqrt((before**2).mean()))
    page = pathlib.Path(second.output.path, "report.html").read_text()
    section = page[page.index("<h2>Warm start</h2>") :]
    section = section[: section.index("</section>")]
    for cell in ('<td class="number">15</td>', '<td class="text">key</td>', f"{root}/first/run"):
        assert cell in section
    manifests = pathlib.Path(second.output.path).glob("checkpoints/*/COMMITTED")
    for manifest in manifests:
        origin = json.loads(manifest.read_text())["started_from"]
        assert (origin["run"], origin["step"], origin["weights"]) == (f"{root}/first/run", 12, "average")


def test_a_run_without_init_says_nothing(root):
    lines = read_metrics(f"{root}/first/run")
    assert not [line for line in lines if line.get("event") in ("warm_start", "moved")]
    assert "Warm start" not in pathlib.Path(root, "first", "run", "report.html").read_text()
    assert not pathlib.Path(root, "first", "run", "start.npz").exists()


def test_a_resumed_run_never_reads_init_again(root, caplog):
    """Also not for its figures: the other run and its dataset may be gone, and the end is the same."""
    source = copied(root, "vanishing")
    config = second_config(root, "undisturbed", init={"from": str(source)}, checkpoint={"keep": 9})
    trained(config)
    place = pathlib.Path(config.output.path)
    resumed = pathlib.Path(shutil.copytree(place, place.parent / "resumed"))
    for step in (8, 12):
        for path in resumed.glob(f"checkpoints/step-{step:09d}*"):
            shutil.rmtree(path)
    shutil.rmtree(source)
    again = second_config(root, "resumed", init={"from": str(source)}, checkpoint={"keep": 9})
    assert checked_source(again, load_dataset(again.dataset.path)) == ""
    caplog.set_level("INFO", logger="absl")
    trained(again)
    for name, value in newest_state(place).items():
        np.testing.assert_array_equal(newest_state(resumed)[name], value, err_msg=name)
    assert f"this run began with step 12 of {source}" in caplog.text
    first, second = events(again, "warm_start")
    assert not first["resumed"] and second["resumed"] and second["step"] == 4 and "tables" not in second
    assert events(again, "moved")[-1]["tables"] == events(config, "moved")[-1]["tables"]
    page = pathlib.Path(resumed, "report.html").read_text()
    assert ">key<" in page[page.index("<h2>Warm start</h2>") :]


@pytest.mark.slow
def test_killed_before_its_first_checkpoint_it_starts_again(root, second):
    config = second_config(root, "killed")
    begun(config, steps=3)
    (pathlib.Path(config.output.path) / "checkpoints" / "step-000000004").mkdir(parents=True)
    trained(config)
    for name, value in newest_state(second.output.path).items():
        np.testing.assert_array_equal(newest_state(config.output.path)[name], value, err_msg=name)


def test_compaction_keeps_the_origin(root):
    config = trained(second_config(root, "compacted", checkpoint={"keep": 9, "compact_at": 9}))
    place = config.output.path
    path = compact(place, f"{place}/checkpoints")
    newest = max(pathlib.Path(place).glob("checkpoints/*/COMMITTED"))
    assert path is None or json.loads(pathlib.Path(path, "COMMITTED").read_text())["started_from"]
    assert json.loads(newest.read_text())["started_from"]["step"] == 12


def two_tower(user: list[int] = (12, 8), **keys) -> dict:
    return {
        "kind": "two_tower",
        "user_tower": {"inputs": ["user", "history"], "layers": list(user)} | keys,
        "item_tower": {"inputs": ["item"], "layers": [12, 8], "activation": "tanh"},
        "normalize": True,
    }


REFUSED = {
    "layers": ({"model": two_tower([10, 8])}, "model.user_tower.layers was [12, 8], is [10, 8]; restore"),
    "inputs": (
        {"model": two_tower(inputs=["user"])},
        "model.user_tower.inputs was user (8), history (8), is user (8); restore",
    ),
    "model": ({"model": {"kind": "dot_bias", "negatives": 1}}, "model.kind was two_tower, is dot_bias"),
    "dim": ({"tables": {"item": {"dim": 9}}}, "tables.item.dim was 8, is 9"),
    "kind": (
        {"tables": {"user": {"dim": 8, "kind": "robe_z", "size": 64, "block": 8}}},
        "tables.user.kind was table, is robe_z",
    ),
    "optimizer": (
        {"tables": {"user": {"dim": 8, "optimizer": {"kind": "adagrad"}}}},
        "tables.user.optimizer.kind was lazy_adam, is adagrad; use init.slots: reset, or restore the value",
    ),
    "slots": (
        {"tables": {"user": {"dim": 8, "optimizer": {"amsgrad": True}}}},
        "tables.user.optimizer (slots) was m, v, is m, v, v_max; use init.slots: reset",
    ),
    "dense optimizer": ({"optimizer": {"kind": "sgd"}}, "optimizer.kind was adam, is sgd; use init.slots"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name_before_anything_is_written(root, case, monkeypatch):
    sections, message = REFUSED[case]
    config = second_config(root, f"refused-{case}", **sections)
    monkeypatch.setattr("trainer.training.build.build_training", None)  # before tables are allocated
    with pytest.raises(ConfigError) as error:
        trained(config)
    text = str(error.value)
    assert f"init.from: {root}/first/run does not fit this run: " in text and message in text
    assert "\n" not in text and not pathlib.Path(config.output.path).exists()
    with pytest.raises(ConfigError, match="does not fit this run"):  # before there is a dataset, too
        checked_source(config, None)


def test_all_differences_are_named_at_once(root):
    config = second_config(root, "all", model=two_tower([9, 8]), tables={"user": {"dim": 7}})
    with pytest.raises(ConfigError) as error:
        trained(config)
    for part in ("user_tower.layers was [12, 8], is [9, 8]; ", "inputs was", "tables.user.dim was 8, is 7"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "sections",
    [
        {"model": two_tower(activation="gelu", dropout=0.2), "polyak": {"kind": "none"}},
        {"train": {"batch_size": 32, "seed": 5}, "optimizer": {"learning_rate": 0.5}},
    ],
    ids=["model", "training"],
)
def test_what_may_differ(root, sections, request):
    """What changes neither rows nor shapes."""
    got = begun(second_config(root, f"other-{request.node.callspec.id}", **sections))
    wanted = begun(second_config(root, "plain"))
    for side in ("user", "item"):
        kept, part = np.flatnonzero(sources_of(root, side) >= 0), f"tables/{side}"
        np.testing.assert_array_equal(got[part][kept, :24], wanted[part][kept, :24])
    np.testing.assert_array_equal(got["dense/000"], wanted["dense/000"])


def test_a_run_that_is_not_there(root):
    config = second_config(root, "nowhere", init={"from": f"{root}/nothing"})
    message = "init.from: .*/nothing: no run there .config.yaml is missing.; train it first"
    with pytest.raises(CheckpointError, match=message):
        trained(config)
    empty = copied(root, "empty")
    shutil.rmtree(empty / "checkpoints")
    with pytest.raises(CheckpointError, match="init.from: .*/empty: holds no complete checkpoint"):
        trained(second_config(root, "nowhere", init={"from": str(empty)}))
    (empty / "config.yaml").write_text("name: 5\n")
    with pytest.raises(ConfigError, match="init.from: its config is not one of this version: .*empty"):
        trained(second_config(root, "nowhere", init={"from": str(empty)}))


def test_a_dataset_that_is_another_now(root):
    source = copied(root, "strayed")
    path = source / "config.yaml"
    path.write_text(path.read_text().replace(f"{root}/first/dataset", f"{root}/second/dataset"))
    with pytest.raises(DataError, match=r"strayed was trained on another dataset \(fingerprint"):
        trained(second_config(root, "stray", init={"from": str(source)}))


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    path.write_bytes(content)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(root, caplog):
    config = first_config(root, output={"path": f"{root}/first/older"}, checkpoint={"keep": 9})
    trained(config)
    place = pathlib.Path(config.output.path, "checkpoints")
    older = begun(second_config(root, "of-8", init={"from": str(_until(config, 8)), "weights": "raw"}))
    newest = sorted(place.iterdir())[-1]
    flip(next(newest.glob("tables/user/00000.npy")))
    got = begun(second_config(root, "damaged", init={"from": config.output.path, "weights": "raw"}))
    for name, value in older.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert "00000.npy: size or checksum differs from COMMITTED; falling back" in caplog.text
    for path in place.glob("*/dense.npz"):
        flip(path)
    with pytest.raises(CheckpointError, match="no checkpoint verifies .* start from another run, or remove"):
        begun(second_config(root, "all-damaged", init={"from": config.output.path}))


def test_the_best_checkpoint_is_taken_before_newer_ones(root, caplog):
    source = copied(root, "best")
    steps = sorted(int(path.name[5:14]) for path in (source / "checkpoints").iterdir())
    assert steps[-1] == 12 and len(steps) > 1
    evaluations = [Evaluated(step=steps[0], value=0.5), Evaluated(step=12, value=0.25)]
    record = BestRecord(metric="ndcg@5", protocol="full", evaluations=evaluations)
    write_best(str(source / "checkpoints"), record)
    config = second_config(root, "of-best", init={"from": str(source)})
    assert checked_source(config, None).startswith(f"step {steps[0]} of {source}, ")
    caplog.set_level("INFO", logger="absl")
    begun(config)
    assert f"started from step {steps[0]} of {source}" in caplog.text


def _until(config, step: int) -> pathlib.Path:
    """A copy of a run without the checkpoints after a step."""
    made = pathlib.Path(shutil.copytree(config.output.path, f"{config.output.path}-{step}"))
    for path in (made / "checkpoints").iterdir():
        if int(path.name[5:14]) > step:
            shutil.rmtree(path)
    return made


def test_increments_are_laid_over_the_full_checkpoint(root, monkeypatch):
    monkeypatch.setattr("trainer.checkpoints.store.CHUNK_ROWS", 7)
    few = {"train": {"batch_size": 2}, "checkpoint": {"every_steps": 3, "keep": 9, "compact_at": 9}}
    config = trained(first_config(root, output={"path": f"{root}/first/increments"}, **few))
    names = [path.name for path in pathlib.Path(config.output.path, "checkpoints").iterdir()]
    assert sum(name.endswith("increment") for name in names) >= 2
    got = begun(second_config(root, "laid", init={"from": config.output.path, "weights": "raw"}))
    before = newest_state(config.output.path)
    for side in ("user", "item"):
        sources = sources_of(root, side)
        kept = np.flatnonzero(sources >= 0)
        np.testing.assert_array_equal(
            got[f"tables/{side}"][kept, :24], before[f"tables/{side}"][sources[kept], :24]
        )


def test_the_mean_of_the_last_checkpoints(root):
    tail = {"polyak": {"kind": "tail_average", "checkpoints": 2}}
    place = f"{root}/first/tail"
    config = trained(first_config(root, output={"path": place}, checkpoint={"keep": 9}, **tail))
    got = begun(second_config(root, "of-tail", init={"from": place}))
    states = [newest_state(place), newest_state(_until(config, 8))]
    sources = sources_of(root, "user")
    kept = np.flatnonzero(sources >= 0)
    both = np.mean([s["tables/user"][sources[kept], :8].astype(np.float64) for s in states], axis=0)
    np.testing.assert_array_equal(got["tables/user"][kept, :8], both.astype(np.float32))
    dense = np.mean([s["dense/000"].astype(np.float64) for s in states], axis=0)
    np.testing.assert_array_equal(got["dense/000"], dense.astype(np.float32))


ROBE = {"user": {"dim": 8, "kind": "robe_z", "size": 64, "block": 8}, "item": {"dim": 8}}


@pytest.mark.slow
def test_robe_z(root):
    """The whole array on the same dataset; refused where keys have other ids."""
    config = trained(first_config(root, output={"path": f"{root}/first/robe"}, tables=ROBE))
    same = first_config(
        root,
        output={"path": f"{root}/first/robe-2"},
        tables=ROBE,
        init={"from": config.output.path, "weights": "raw"},
    )
    got, before = begun(same), newest_state(config.output.path)
    np.testing.assert_array_equal(got["tables/user"][:, :24], before["tables/user"][:, :24])
    trained(same)
    with pytest.raises(
        CheckpointError, match="tables.user: robe_z finds rows by their ids, and keys have other"
    ):
        begun(second_config(root, "robe", tables=ROBE, init={"from": config.output.path}))


def test_from_a_bucket(root, bucket):
    """Increments, too, which are laid over the full checkpoint from copies."""
    source = pathlib.Path(root, "first", "run")
    for path in filter(pathlib.Path.is_file, source.rglob("*")):
        storage.write_bytes(f"{bucket.url}/run/{path.relative_to(source)}", path.read_bytes())
    assert any(path.name.endswith("increment") for path in (source / "checkpoints").iterdir())
    got = begun(second_config(root, "of-bucket", init={"from": f"{bucket.url}/run/"}))
    wanted = begun(second_config(root, "of-disk"))
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    storage.remove(f"{bucket.url}/run/config.yaml")
    with pytest.raises(CheckpointError, match="init.from: gs://.*/run: no run there"):
        begun(second_config(root, "of-nothing", init={"from": f"{bucket.url}/run"}))


def test_plan_and_doctor_look_first(root, tmp_path, capsys):
    path = tmp_path / "run.yaml"

    def asked(config) -> list[str]:
        path.write_text(json.dumps(config.model_dump(mode="json")))
        plan(_Arguments(str(path)))
        probe("init", config.model_dump_json())
        *lines, result = capsys.readouterr().out.splitlines()
        found = [line for line in lines if line.startswith("starts from")]
        return [*found, json.loads(result)["status"], json.loads(result)["found"]]

    text = f"step 12 of {root}/first/run, average weights, rows by key of {root}/first/dataset"
    line, status, found = asked(second_config(root, "planned"))
    assert line.split(maxsplit=2)[2] == found == text and status == "ok"
    assert asked(first_config(root, init={"from": f"{root}/elsewhere"})) == [
        "ok",
        f"not read: {root}/first/run has checkpoints to resume from",
    ]
    gone = second_config(root, "planned", init={"from": f"{root}/elsewhere"})
    with pytest.raises(UserError, match="init.from: .*elsewhere: no run there"):
        asked(gone)
    capsys.readouterr()
    probe("init", gone.model_dump_json())
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == "fail" and result["fix"].startswith("train it first, or correct")


class _Arguments:
    """Flags of `lazytower plan`."""

    what, overrides, tpu, json, probe_steps, k, format = "train", (), [], False, 0, None, None

    def __init__(self, config: str):
        self.config = config


def test_the_saved_config_starts_again(second):
    saved = load_config(f"{second.output.path}/config.yaml", [f"output.path={second.output.path}-2"])
    assert saved.init == second.init
    trained(saved)
    for name, value in newest_state(second.output.path).items():
        np.testing.assert_array_equal(newest_state(saved.output.path)[name], value, err_msg=name)


def test_nothing_is_left_of_a_warm_start_that_failed(root, monkeypatch):
    write = storage.write_bytes

    def fail(path, content):
        if path.endswith("start.npz"):
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(storage, "write_bytes", fail)
    config = second_config(root, "full")
    with pytest.raises(UserError, match="full/start.npz: cannot be written .No space left on device."):
        trained(config)
    assert CheckpointStore(f"{config.output.path}/checkpoints", 1, {}).steps() == []
    assert not pathlib.Path(config.output.path, "config.yaml").exists()
