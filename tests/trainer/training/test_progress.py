"""Progress: speed over the last minute of training, log lines by the clock, one line in a terminal."""

import io
import logging

import pytest

from trainer.training.progress import Progress


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines(monkeypatch):
    """What is logged."""
    logged = []
    monkeypatch.setattr("absl.logging.info", lambda form, *args: logged.append(form % args))
    return logged


def _progress(clock, stream=None, **more):
    options = {"total_steps": 1000, "examples_per_step": 50} | more
    return Progress(stream=stream or io.StringIO(), clock=clock, **options)


def _advance(progress, clock, steps, seconds, **values):
    clock.now += seconds
    progress.update(progress.step + steps, **values)


def test_speed_and_time_left(clock):
    progress = _progress(clock)
    assert progress.steps_per_second is None
    for _ in range(3):
        _advance(progress, clock, steps=100, seconds=20)
    assert progress.steps_per_second == 5
    assert progress.examples_per_second == 250
    assert progress.seconds_left == 700 / 5


def test_first_loop_with_its_compilation_does_not_count_once_there_is_another(clock):
    progress = _progress(clock)
    _advance(progress, clock, steps=100, seconds=100)
    assert progress.steps_per_second == 1
    _advance(progress, clock, steps=100, seconds=10)
    assert progress.steps_per_second == 10


def test_old_speed_is_forgotten(clock):
    progress = _progress(clock, total_steps=100_000)
    for _ in range(20):
        _advance(progress, clock, steps=100, seconds=10)
    for _ in range(7):
        _advance(progress, clock, steps=10, seconds=10)
    assert progress.steps_per_second == pytest.approx(1)


def test_loops_longer_than_the_window_still_have_a_speed(clock):
    progress = _progress(clock)
    for _ in range(4):
        _advance(progress, clock, steps=100, seconds=500)
    assert progress.steps_per_second == pytest.approx(0.2)


def test_paused_time_does_not_count(clock):
    progress = _progress(clock)
    _advance(progress, clock, steps=100, seconds=10)
    with progress.paused():
        clock.now += 500
        with progress.paused():  # a checkpoint inside an evaluation counts once
            clock.now += 500
    _advance(progress, clock, steps=100, seconds=10)
    assert progress.steps_per_second == 10


def test_pause_ends_when_the_evaluation_fails(clock):
    progress = _progress(clock)
    _advance(progress, clock, steps=100, seconds=10)
    with pytest.raises(RuntimeError), progress.paused():
        clock.now += 500
        raise RuntimeError
    _advance(progress, clock, steps=100, seconds=10)
    assert progress.steps_per_second == 10


def test_log_lines_come_at_most_every_ten_seconds(clock, lines):
    progress = _progress(clock)
    for _ in range(30):
        _advance(progress, clock, steps=10, seconds=1, loss=0.31256)
    assert lines == [
        "step 10/1,000 (1%)  loss 0.3126  500 examples/s  1:39 left",
        "step 110/1,000 (11%)  loss 0.3126  500 examples/s  1:29 left",
        "step 210/1,000 (21%)  loss 0.3126  500 examples/s  1:19 left",
    ]
    progress.close()
    assert lines[3:] == ["step 300/1,000 (30%)  loss 0.3126  500 examples/s  1:10 left"]


def test_last_line_is_said_once_and_has_no_time_left(clock, lines):
    with _progress(clock, start_step=900) as progress:
        _advance(progress, clock, steps=50, seconds=5)
        _advance(progress, clock, steps=50, seconds=10)
    progress.close()
    assert lines[-1] == "step 1,000/1,000 (100%)  250 examples/s"
    assert len(lines) == 2


def test_resume_measures_only_its_own_steps(clock):
    progress = _progress(clock, start_step=900)
    _advance(progress, clock, steps=50, seconds=10)
    assert progress.steps_per_second == 5
    assert progress.seconds_left == 10


def test_without_examples_the_speed_is_in_steps(clock, lines):
    progress = _progress(clock, examples_per_step=0)
    _advance(progress, clock, steps=100, seconds=40)
    assert progress.examples_per_second is None
    assert lines == ["step 100/1,000 (10%)  2.5 steps/s  6:00 left"]


def test_no_steps_at_all(clock, lines):
    with _progress(clock, total_steps=0):
        pass
    assert lines == ["step 0/0"]


def test_lines_go_through_absl_logging(clock, caplog):
    with caplog.at_level(logging.INFO, logger="absl"):
        _advance(_progress(clock), clock, steps=100, seconds=20)
    assert "step 100/1,000" in caplog.text


def test_terminal_gets_one_line_in_place(clock, lines):
    stream = Terminal()
    progress = _progress(clock, stream)
    for _ in range(10):
        _advance(progress, clock, steps=100, seconds=10, loss=0.25)
    progress.close()
    assert lines == []
    drawn = stream.getvalue()
    assert "\n" not in drawn.rstrip("\n")
    assert drawn.count("\r") >= 10
    last = drawn.rstrip("\n").rsplit("\r", 1)[1]
    assert last.startswith("100%|")
    assert "step 1,000/1,000  loss 0.25  500 examples/s" in last


def test_terminal_line_makes_room_while_paused(clock):
    stream = Terminal()
    progress = _progress(clock, stream)
    _advance(progress, clock, steps=100, seconds=10)
    with progress.paused():
        assert stream.getvalue().endswith("\r")
        assert stream.getvalue().rstrip("\r").rsplit("\r", 1)[1].strip() == ""
    assert "step 100/1,000" in stream.getvalue().rsplit("\r", 1)[1]
    progress.close()


def test_terminal_is_not_redrawn_at_every_update(clock):
    stream = Terminal()
    progress = _progress(clock, stream, total_steps=100_000)
    for _ in range(1000):
        _advance(progress, clock, steps=1, seconds=0.001)
    assert stream.getvalue().count("\r") < 15
    progress.close()
