"""Real processes on this machine as hosts: what one machine computes, the same bits each time, and lost
hosts."""

import pathlib
import signal

import numpy as np
import pytest

from configs.load import parse_config
from tests.support.cluster_hosts import (
    SECONDS,
    copied,
    driven,
    moved,
    on_cluster,
    started,
    state,
    wait_for,
    workers,
)
from tests.support.ranking_dataset import EVERYTHING, click_log, ranking_document
from tests.support.tiny_run import planted_document, write_planted
from trainer.training.run import train

CUT, END = 10, 20
TOWER = {"layers": [12, 8], "dropout": 0.1}
TOWERS = {
    "kind": "two_tower",
    "user_tower": {"inputs": ["user", "history"], **TOWER},
    "item_tower": {"inputs": ["item"], **TOWER},
    "history": {"pooling": "mean"},
    "loss": {"extra_negatives": 16},
}

SEQUENCE = {
    "kind": "two_tower",
    "user_tower": {"inputs": ["history"], "sequence": {"heads": 2, "dropout": 0.1}},
    "item_bias": True,
    "loss": {"extra_negatives": 16},
}


EPSILON = 1e-3
"""Adam divides by the root of a sum that may be near zero, which makes 1e-4 of a rounding error of 1e-8 in
20 steps. With this one, rounding stays below 3e-6, and what is more comes from other gradients."""


def rounded(table: dict) -> dict:
    """A table's options with an optimizer that does not magnify rounding."""
    return table | {"optimizer": table.get("optimizer", {}) | {"epsilon": EPSILON}}


def settled(document: dict, **sections) -> dict:
    document = document | sections
    document["optimizer"] = document.get("optimizer", {}) | {"epsilon": EPSILON}
    document["tables"] = {name: rounded(table) for name, table in document.get("tables", {}).items()}
    document["train"] = document["train"] | {"num_steps": END, "steps_per_loop": 4, "batch_size": 64}
    document["checkpoint"] = {"every_steps": CUT, "keep": 9}
    document["evaluate"] = {"every_steps": 0}
    return document


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("cluster")
    write_planted(str(path))
    return path


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory):
    with workers(2, tmp_path_factory.mktemp("two")) as found:
        yield found


@pytest.fixture
def addresses(two_hosts) -> list[str]:
    for worker in two_hosts:
        worker.start()
    return two_hosts[0].addresses


def towers(directory: pathlib.Path) -> dict:
    return settled(planted_document(str(directory)), model=TOWERS)


@pytest.fixture(scope="module")
def undisturbed(directory, two_hosts):
    """The same run three times, in one driver: whole, once more, and resumed from half of the first."""
    runs = [directory / name for name in ("whole", "again", "resumed")]
    document = towers(directory)
    document["train"]["clip_norm"] = 0.5
    first, *others = (on_cluster(document, two_hosts[0].addresses, run) for run in runs)
    driven(first)
    copied(runs[0], runs[2], CUT)
    driven(*others)
    return document, runs


def grouped(directory: pathlib.Path) -> dict:
    """Two groups on each host."""
    document = towers(directory)
    document["model"] = TOWERS | {"loss": {"extra_negatives": 16, "group": 16}}
    return document


def assert_close(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-6, atol=1e-5, err_msg=name)


def assert_same(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    assert [name for name, value in expected.items() if found[name].tobytes() != value.tobytes()] == []


def test_two_hosts_compute_what_one_machine_does(undisturbed, directory):
    document, (whole, *_) = undisturbed
    alone = moved(document, directory / "alone")
    train(parse_config(alone, "alone"))
    assert_close(state(whole, END), state(directory / "alone", END))


def test_the_same_command_gives_the_same_bits(undisturbed):
    _, (whole, again, _) = undisturbed
    assert_same(state(again, END), state(whole, END))


def test_a_resumed_run_equals_an_undisturbed_one(undisturbed):
    _, (whole, _, resumed) = undisturbed
    assert_same(state(resumed, END), state(whole, END))


def test_one_machine_resumes_the_run_of_a_cluster(undisturbed, directory):
    document, (whole, *_) = undisturbed
    copied(whole, directory / "one", CUT)
    train(parse_config(moved(document, directory / "one"), "one"))
    assert_close(state(directory / "one", END), state(whole, END))


def test_a_killed_worker_ends_the_run_and_the_next_one_goes_on(undisturbed, two_hosts, addresses, directory):
    document, (whole, *_) = undisturbed
    run, log = directory / "killed", directory / "killed.log"
    copied(whole, run, CUT)
    driver = started(on_cluster(document, addresses, directory / "endless", num_steps=1_000_000), log)
    wait_for("checkpoint of step", log, driver)
    two_hosts[0].end(signal.SIGKILL)
    assert driver.wait(SECONDS) == 75
    assert f"host 1 at {addresses[1]} is lost" in log.read_text()
    two_hosts[0].start()
    driven(on_cluster(document, addresses, run))
    assert_same(state(run, END), state(whole, END))


# --- slow: other models, settings and numbers of hosts, all in one driver for each number ---


def compared(directory: pathlib.Path) -> dict[str, dict]:
    """Runs that cover what models and tables can do, by name."""
    clicks = directory / "clicks"
    clicks.mkdir(exist_ok=True)
    if not (clicks / "dataset").exists():
        click_log(str(clicks), 1500, owners=True, model=EVERYTHING)
    plain = towers(directory)
    pointwise = settled(planted_document(str(directory)), model={"kind": "dot_bias", "negatives": 3})
    pointwise["train"]["clip_norm"] = 0.5
    by_rows = settled(planted_document(str(directory)), model=TOWERS)
    by_rows["tables"] = {
        "user": rounded({"dim": 8, "engine": "rows", "optimizer": {"kind": "adam"}}),
        "item": rounded({"dim": 12, "optimizer": {"kind": "rowwise_adagrad"}}),
    }
    by_rows["polyak"] = {"kind": "uniform", "start_fraction": 0.25}
    ordered = settled(planted_document(str(directory)), model=SEQUENCE)
    ordered["tables"] = {"item": rounded({"dim": 9})}
    return {
        "sequence": ordered,
        "towers": plain,
        "groups": grouped(directory),
        "dot_bias": pointwise,
        "ranking": settled(ranking_document(str(clicks), EVERYTHING, owners=True, tables={"*": {}})),
        "rows": by_rows,
    }


@pytest.fixture(scope="module", params=[2, 4], ids=lambda n: f"{n}_hosts")
def all_runs(request, directory, tmp_path_factory):
    """(directory of the runs of a cluster, documents by name)."""
    root = tmp_path_factory.mktemp(f"hosts{request.param}")
    documents = compared(directory)
    with workers(request.param, root) as found:
        addresses = found[0].addresses
        driven(*(on_cluster(document, addresses, root / name) for name, document in documents.items()))
    return root, documents


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sequence", "towers", "groups", "dot_bias", "ranking", "rows"])
def test_clusters_compute_what_one_machine_does(all_runs, directory, name):
    root, documents = all_runs
    alone = directory / f"alone-{name}"
    if not alone.exists():
        train(parse_config(moved(documents[name], alone), name))
    assert_close(state(root / name, END), state(alone, END))


@pytest.mark.slow
def test_four_hosts_resume_the_run_of_two(undisturbed, directory, tmp_path):
    document, (whole, *_) = undisturbed
    copied(whole, tmp_path / "four", CUT)
    with workers(4, tmp_path) as found:
        driven(on_cluster(document, found[0].addresses, tmp_path / "four"))
    assert_close(state(tmp_path / "four", END), state(whole, END))


@pytest.mark.slow
def test_a_worker_that_hangs_is_noticed(undisturbed, two_hosts, addresses, directory):
    document, _ = undisturbed
    log = directory / "hangs.log"
    endless = on_cluster(document, addresses, directory / "hangs", num_steps=1_000_000)
    endless["device"] = endless["device"] | {"keepalive_seconds": 2}
    driver = started(endless, log)
    wait_for("checkpoint of step", log, driver)
    assert two_hosts[0].process is not None
    two_hosts[0].process.send_signal(signal.SIGSTOP)
    try:
        assert driver.wait(SECONDS) == 75
    finally:
        two_hosts[0].end(signal.SIGKILL)
    assert f"host 1 at {addresses[1]} does not answer" in log.read_text()


@pytest.mark.slow
def test_a_worker_outlives_its_driver(undisturbed, two_hosts, addresses, directory):
    document, _ = undisturbed
    log = directory / "outlived.log"
    driver = started(on_cluster(document, addresses, directory / "outlived", num_steps=1_000_000), log)
    wait_for("checkpoint of step", log, driver)
    driver.kill()
    driver.wait(SECONDS)
    wait_for("has gone", two_hosts[0].log, two_hosts[0].process)
    driven(on_cluster(document, addresses, directory / "next"))
    assert two_hosts[0].end() == 0


@pytest.mark.slow
def test_a_batch_that_is_not_finite_changes_nothing(two_hosts, addresses, directory):
    document = towers(directory)
    document["tables"] = {name: {"dim": 8, "init_stddev": 1e19} for name in ("user", "item")}
    document["model"] = document["model"] | {"normalize": False}  # so that dot products overflow
    document["train"] = document["train"] | {"skip_nonfinite": END}
    document["polyak"] = {"kind": "none"}
    driven(on_cluster(document, addresses, directory / "skips"))
    before, after = state(directory / "skips", CUT), state(directory / "skips", END)
    assert int(after.pop("skipped")) == END and int(before.pop("skipped")) == CUT
    assert (int(before.pop("step")), int(after.pop("step"))) == (CUT, END)
    assert_same(after, before)
