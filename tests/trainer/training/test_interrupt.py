"""Signals and time limits: the step in progress ends, its state is saved, resumed runs have the same bits."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import yaml

from configs.errors import Stopped
from configs.load import load_config
from tests.support.tiny_run import SMALL_MODEL, planted_document, write_planted
from trainer.checkpoints.store import CheckpointStore
from trainer.report.metrics_file import read_metrics
from trainer.training.interrupt import Interrupt
from trainer.training.run import train

NUM_STEPS = 3000


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """run.yaml: all steps in one inner loop, and no checkpoint before the end."""
    directory = tmp_path_factory.mktemp("interrupt")
    write_planted(str(directory))
    document = planted_document(str(directory))
    document["model"] = SMALL_MODEL
    document["train"] |= {"num_steps": NUM_STEPS, "steps_per_loop": NUM_STEPS}
    document["checkpoint"] = {"every_steps": NUM_STEPS, "keep": 3}
    document["evaluate"] = {"every_steps": 0, "k": [5]}
    (directory / "run.yaml").write_text(yaml.safe_dump(document))
    return directory


@pytest.fixture(scope="module")
def whole(place):
    """Final state of an undisturbed run."""
    return final_state(pathlib.Path(train(config_of(place, "whole"))).parent)


def config_of(place, output, *overrides):
    return load_config(str(place / "run.yaml"), [f"output.path={place / output}", *overrides])


def final_state(run, step=NUM_STEPS) -> dict[str, np.ndarray]:
    newest = pathlib.Path(run) / "checkpoints" / f"step-{step:09d}"
    state = {str(path.relative_to(newest)): np.load(path) for path in newest.rglob("*.npy")}
    return state | dict(np.load(newest / "dense.npz"))


def assert_equal(got, wanted):
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


class Command:
    """`lazytower train` in a separate process."""

    def __init__(self, place, output, *flags):
        command = [sys.executable, "-m", "trainer.cli", "train", "--config", str(place / "run.yaml")]
        command += ["--set", f"output.path={place / output}", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log = ""

    def wait_for(self, text: str, seconds: float = 0.0) -> None:
        """Until a line of the log holds `text`, and so many seconds more."""
        while text not in self.log:
            line = self.process.stderr.readline()
            assert line, self.log
            self.log += line
        time.sleep(seconds)

    def end(self, *numbers: int, pause: float = 0.0) -> int:
        """Sends signals, waits for the end; the exit code."""
        for number in numbers:
            self.process.send_signal(number)
            time.sleep(pause)
        self.log += self.process.communicate(timeout=900)[1]
        return self.process.returncode


@pytest.mark.slow
def test_signals_inside_the_inner_loop(place, whole):
    """An inner loop of 700 steps takes about a second, so most signals come in the middle of one."""
    for attempt in range(5):
        output = f"run-{attempt}"
        stops = [stopped(place, output, signal.SIGTERM, 0.1)]
        if stops[0] is not None:
            stops.append(stopped(place, output, signal.SIGINT, 0.3))
        if any(stop % 700 for stop in stops if stop is not None):
            break
    else:
        raise AssertionError("the loop went on to its end")
    train(config_of(place, output))
    assert_equal(final_state(place / output), whole)


def stopped(place, output, number, wait) -> int | None:
    """The step at which a signal stopped the run, which says and saves so; None: it had ended before."""
    command = Command(place, output, "--set", "train.steps_per_loop=700")
    command.wait_for("  loss ", wait)  # the first loop is done, which traced them all; or all is
    assert (code := command.end(number)) in (0, 75), command.log
    if code == 0:
        return None
    name = signal.Signals(number).name
    last = command.log.splitlines()[-1]
    assert last.startswith(f"lazytower train: stopped by {name} at step ")
    assert last.endswith("; rerun the same command to resume")
    step = int(last.split("at step ")[1].split(";")[0].replace(",", ""))
    newest = max((place / output / "checkpoints").iterdir())
    assert newest.name == f"step-{step:09d}" and (newest / "COMMITTED").exists()
    [event] = [line for line in read_metrics(str(place / output))[-1:]]
    assert (event["event"], event["reason"], event["step"]) == ("stop", name, step)
    return step


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_and_leaves_the_last_good_checkpoint(place, whole, second):
    output, settings = f"twice-{second}", ("checkpoint.every_steps=100", "train.steps_per_loop=7")
    checkpoints = place / output / "checkpoints"
    for attempt in range(1, 11):
        before = set(checkpoints.glob("*/COMMITTED"))
        command = Command(place, output, *(word for key in settings for word in ("--set", key)))
        while before.issuperset(checkpoints.glob("*/COMMITTED")):
            assert command.process.poll() is None
            time.sleep(0.01)
        # Once all is saved the second one is Python's own.
        code = command.end(signal.SIGTERM, second, pause=0.02 * attempt if second == signal.SIGTERM else 0)
        assert "Traceback" not in command.log
        if code != 75:  # else the two came too close together, and were one; or too far apart
            break
    assert code in (128 + signal.SIGTERM, 128 + signal.SIGINT, -second), command.log
    train(config_of(place, output))
    assert_equal(final_state(place / output), whole)


def test_a_signal_before_training(place):
    for attempt in range(5):
        command = Command(place, f"early-{attempt}")
        command.wait_for("run planted: dataset")
        assert command.end(signal.SIGTERM) == 75
        if " at step " not in command.log:  # otherwise the signal came late
            break
    assert command.log.endswith(
        "stopped by SIGTERM before training began; rerun the same command to start again\n"
    )
    assert "Traceback" not in command.log and not (place / f"early-{attempt}/checkpoints").exists()


@pytest.mark.slow
def test_the_time_limit(place, whole):
    command = Command(place, "limit", "--max_seconds", "7.5")
    code = command.end()
    assert "Traceback" not in command.log
    if code:
        assert code == 75 and "stopped by the time limit of 7.5 s at step " in command.log
    with Interrupt(3000) as interrupt:
        train(config_of(place, "limit"), interrupt)
    assert_equal(final_state(place / "limit"), whole)


SHORT = (
    "train.num_steps=60",
    "train.steps_per_loop=10",
    "checkpoint.every_steps=20",
    "evaluate.every_steps=20",
)


@pytest.fixture(scope="module")
def short(place):
    train(config_of(place, "short", *SHORT))
    return place / "short"


def kill_once(monkeypatch, owner, name, after, call=2):
    """Sends SIGTERM to ourselves around a call of owner.name, and waits until it was heard."""
    original, calls, heard = getattr(owner, name), [], threading.Event()
    request = Interrupt._request
    monkeypatch.setattr(Interrupt, "_request", lambda self, reason: (request(self, reason), heard.set()))

    def replaced(self, *args, **options):
        calls.append(name)
        if len(calls) == call and not after:
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard.wait(300)
        result = original(self, *args, **options)
        if len(calls) == call and after:
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard.wait(300)
        return result

    monkeypatch.setattr(owner, name, replaced)


@pytest.mark.parametrize("after", [False, True])
def test_a_signal_while_saving(place, short, monkeypatch, after):
    """The save ends, the evaluation of the same step is left to the resumed run."""
    output = f"saving-{after}"
    with monkeypatch.context() as patch:
        kill_once(patch, CheckpointStore, "save", after)
        with pytest.raises(Stopped, match="stopped by SIGTERM at step 40; rerun the same command to resume"):
            train(config_of(place, output, *SHORT))
    assert sorted(path.name[-2:] for path in (place / output / "checkpoints").iterdir()) == ["20", "40"]
    assert {line["step"] for line in read_metrics(str(place / output)) if line["kind"] == "evaluate"} == {20}
    finish_and_compare(place, output, short)


def test_a_signal_while_evaluating(place, short, monkeypatch):
    """The evaluation is given up, and the resumed run makes up for it."""
    with monkeypatch.context() as patch:
        # An evaluation checks for the averages, then for the raw weights: this is the second one's averages.
        kill_once(patch, Interrupt, "check", after=False, call=3)
        with pytest.raises(Stopped, match="stopped by SIGTERM at step 40"):
            train(config_of(place, "evaluating", *SHORT))
    finish_and_compare(place, "evaluating", short)


def test_a_signal_in_an_evaluation_that_no_checkpoint_preceded(place, short, monkeypatch):
    """What is saved then are the weights as trained, not their averages that were being evaluated."""
    rare = [*SHORT[:2], "checkpoint.every_steps=60", "evaluate.every_steps=20"]
    with monkeypatch.context() as patch:
        # An evaluation checks for the averages, then for the raw weights: this is the second one's averages.
        kill_once(patch, Interrupt, "check", after=False, call=3)
        with pytest.raises(Stopped, match="stopped by SIGTERM at step 40"):
            train(config_of(place, "rare-cut", *rare))
    train(config_of(place, "rare-cut", *rare))
    assert_equal(final_state(place / "rare-cut", 60), final_state(short, 60))


def finish_and_compare(place, output, short):
    train(config_of(place, output, *SHORT))
    assert_equal(final_state(place / output, 60), final_state(short, 60))
    figures = [
        [
            (line["step"], line["scorer"], line["ndcg@5"])
            for line in read_metrics(str(run))
            if "scorer" in line
        ]
        for run in (place / output, short)
    ]
    assert figures[0] == figures[1]


def test_handlers_and_the_wakeup_descriptor_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    threads = set(threading.enumerate())
    with Interrupt() as interrupt:
        assert signal.getsignal(signal.SIGTERM) == interrupt._handle
        wished = threading.Event()
        interrupt.defer(wished.set)
        os.kill(os.getpid(), signal.SIGINT)
        assert wished.wait(300) and interrupt.reason == "SIGINT"
        with pytest.raises(Stopped):
            interrupt.check()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1 and threads.issuperset(threading.enumerate())


def test_a_wish_before_it_is_deferred_is_not_lost():
    with Interrupt() as interrupt:
        with pytest.raises(Stopped, match="before training began"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(300)
        wished = threading.Event()
        interrupt.defer(wished.set)
        assert wished.wait(300) and interrupt.reason == "SIGTERM"


def test_outside_the_main_thread_only_the_time_limit_counts():
    reasons = []

    def work(limit):
        wished = threading.Event()
        with Interrupt(limit) as interrupt:
            interrupt.defer(wished.set)
            wished.wait(300 if limit == 0.05 else 0.5)
            reasons.append(interrupt.reason)

    for limit in (None, 0.05, 100):
        thread = threading.Thread(target=work, args=[limit])
        thread.start()
        thread.join()
    assert reasons == [None, "the time limit of 0.05 s", None]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
