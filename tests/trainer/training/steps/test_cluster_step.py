"""Real processes on this machine as hosts: what one machine computes, the same bits each time, and lost
hosts."""

import pathlib
import signal
from typing import NamedTuple

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
from trainer.report.metrics_file import read_metrics
from trainer.training.run import train

pytestmark = pytest.mark.slow

CUT, END, ENDLESS = 10, 20, 1_000_000
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


class Runs(NamedTuple):
    """Three runs in one driver, of which the last one loses its worker after a checkpoint."""

    document: dict
    whole: pathlib.Path
    again: pathlib.Path
    """The same run once more."""
    exit_code: int
    log: str
    """Of the driver."""


def clipped(directory: pathlib.Path) -> dict:
    document = towers(directory)
    document["train"]["clip_norm"] = 0.5
    return document


@pytest.fixture(scope="module")
def runs(directory, two_hosts) -> Runs:
    document, log = clipped(directory), directory / "killed.log"
    whole, again = directory / "whole", directory / "again"
    addresses = two_hosts[0].addresses
    finite = [on_cluster(document, addresses, run) for run in (whole, again)]
    driver = started(log, *finite, on_cluster(document, addresses, directory / "endless", num_steps=ENDLESS))
    wait_for("checkpoint of step", log, driver, times=2 * END // CUT + 1)
    two_hosts[0].end(signal.SIGKILL)
    return Runs(document, whole, again, driver.wait(SECONDS), log.read_text(errors="replace"))


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


def test_two_hosts_compute_what_one_machine_does(runs, directory):
    train(parse_config(moved(runs.document, directory / "alone"), "alone"))
    assert_close(state(runs.whole, END), state(directory / "alone", END))


def test_the_same_command_gives_the_same_bits(runs):
    assert_same(state(runs.again, END), state(runs.whole, END))


def test_one_machine_resumes_the_run_of_a_cluster(runs, directory):
    copied(runs.whole, directory / "one", CUT)
    train(parse_config(moved(runs.document, directory / "one"), "one"))
    assert_close(state(directory / "one", END), state(runs.whole, END))


def test_a_killed_worker_ends_the_run(runs, two_hosts):
    assert runs.exit_code == 75
    assert f"host 1 at {two_hosts[0].addresses[1]} is lost" in runs.log


def test_a_run_resumed_with_another_worker_equals_an_undisturbed_one(runs, addresses, directory):
    copied(runs.whole, directory / "resumed", CUT)
    driven(on_cluster(runs.document, addresses, directory / "resumed"))
    assert_same(state(directory / "resumed", END), state(runs.whole, END))


# --- other models, settings and numbers of hosts, in one driver for each number ---

ON_TWO, ON_FOUR = ("dot_bias", "ranking"), ("sequence", "groups", "rows")
"""A driver traces every run, which takes longer than its steps, so each has one number of hosts. With
scripts/torture.sh, networks of both numbers train most of them."""


def compared(directory: pathlib.Path) -> dict[str, dict]:
    """Runs that cover what models and tables can do, by name."""
    clicks = directory / "clicks"
    clicks.mkdir(exist_ok=True)
    if not (clicks / "dataset").exists():
        click_log(str(clicks), 1500, owners=True, model=EVERYTHING)
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
        "groups": grouped(directory),
        "dot_bias": pointwise,
        "ranking": settled(ranking_document(str(clicks), EVERYTHING, owners=True, tables={"*": {}})),
        "rows": by_rows,
    }


def warm(directory: pathlib.Path, runs: Runs) -> dict:
    """A run that starts from another one's averages."""
    return towers(directory) | {"init": {"from": str(runs.whole)}}


@pytest.fixture(scope="module")
def of_two_hosts(directory, two_hosts, runs) -> pathlib.Path:
    """Directory of all runs, and of one whose batches are not finite."""
    two_hosts[0].start()
    own = compared(directory)
    documents = {name: own[name] for name in ON_TWO} | {"skips": infinite(directory)}
    addresses, root = two_hosts[0].addresses, directory / "two"
    root.mkdir()
    driven(*(on_cluster(document, addresses, root / name) for name, document in documents.items()))
    return root


@pytest.fixture(scope="module")
def of_four_hosts(directory, runs) -> pathlib.Path:
    """Directory of all runs, and of one that two hosts began."""
    own = compared(directory)
    documents = {name: own[name] for name in ON_FOUR}
    documents |= {"resumed": runs.document, "warm": warm(directory, runs)}
    root = directory / "four"
    root.mkdir()
    copied(runs.whole, root / "resumed", CUT)
    with workers(4, root) as found:
        addresses = found[0].addresses
        driven(*(on_cluster(document, addresses, root / name) for name, document in documents.items()))
    return root


def infinite(directory: pathlib.Path) -> dict:
    document = towers(directory)
    document["tables"] = {name: {"dim": 8, "init_stddev": 1e19} for name in ("user", "item")}
    document["model"] = document["model"] | {"normalize": False}  # so that dot products overflow
    document["train"] = document["train"] | {"skip_nonfinite": END}
    return document | {"polyak": {"kind": "none"}}


@pytest.mark.parametrize(
    ("hosts", "name"), [*(("two", name) for name in ON_TWO), *(("four", name) for name in ON_FOUR)]
)
def test_clusters_compute_what_one_machine_does(request, hosts, directory, name):
    root, alone = request.getfixturevalue(f"of_{hosts}_hosts"), directory / f"alone-{name}"
    train(parse_config(moved(compared(directory)[name], alone), name))
    assert_close(state(root / name, END), state(alone, END))


def test_a_cluster_starts_from_another_run(of_four_hosts, directory, runs):
    alone = directory / "alone-warm"
    train(parse_config(moved(warm(directory, runs), alone), "warm"))
    assert_close(state(of_four_hosts / "warm", END), state(alone, END))
    lines = read_metrics(str(of_four_hosts / "warm"))
    [event] = [line for line in lines if line.get("event") == "warm_start"]
    assert event["tables"]["user"]["kept"] > 0 == event["tables"]["user"]["new"]


def test_four_hosts_resume_the_run_of_two(of_four_hosts, runs):
    assert_close(state(of_four_hosts / "resumed", END), state(runs.whole, END))


def test_a_batch_that_is_not_finite_changes_nothing(of_two_hosts):
    before, after = state(of_two_hosts / "skips", CUT), state(of_two_hosts / "skips", END)
    assert int(after.pop("skipped")) == END and int(before.pop("skipped")) == CUT
    assert (int(before.pop("step")), int(after.pop("step"))) == (CUT, END)
    assert_same(after, before)


def test_a_worker_outlives_its_driver_and_hangs_under_the_next(two_hosts, addresses, directory):
    log, (worker,) = directory / "outlived.log", two_hosts
    endless = on_cluster(clipped(directory), addresses, directory / "outlived", num_steps=ENDLESS)
    driver = started(log, endless)
    wait_for("checkpoint of step", log, driver)
    driver.kill()
    driver.wait(SECONDS)
    wait_for("has gone", worker.log, worker.process)
    log = directory / "hangs.log"
    driver = started(log, endless | {"device": endless["device"] | {"keepalive_seconds": 2}})
    wait_for("checkpoint of step", log, driver)
    worker.process.send_signal(signal.SIGSTOP)
    try:
        assert driver.wait(SECONDS) == 75
    finally:
        worker.process.send_signal(signal.SIGCONT)
    assert f"host 1 at {addresses[1]} does not answer" in log.read_text(errors="replace")
    assert worker.end() == 0
