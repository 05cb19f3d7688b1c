"""The loop: when actions are due, how far an inner loop runs, and that it is traced once."""

import math
import os
import threading

import pytest
import tensorflow as tf

from configs.errors import DataError
from trainer.training.loop import Every, Loop


class CountingStep(tf.Module):
    """Adds up its batches; the loss is the batch."""

    looks_each_step = True

    def __init__(self, start=0):
        super().__init__()
        self.step = tf.Variable(start, dtype=tf.int64)
        self.total = tf.Variable(0, dtype=tf.int64)

    def __call__(self, batch):
        self.step.assign_add(1)
        self.total.assign_add(batch)
        return tf.cast(batch, tf.float32), tf.constant(True)


def no_skip(step):
    raise AssertionError(f"step {step} was left out")


def run(num_steps, steps_per_loop, start=0, **every):
    """Runs to the end; (inner loops, log of (name, step) of actions, loop, step)."""
    step, loops, log = CountingStep(start), [], []
    loop = Loop(step, tf.data.Dataset.counter(start + 1), num_steps, steps_per_loop)
    actions = [
        Every(steps, lambda at, name=name: log.append((name, at)), at_end=end)
        for name, (steps, end) in every.items()
    ]
    assert loop.run(lambda done, steps, loss: loops.append((done, steps, loss)), actions, no_skip)
    return loops, log, loop, step


def test_every():
    every = Every(10, print)
    assert [step for step in range(1, 35) if every.due(step, 34)] == [10, 20, 30]
    assert [Every(10, print, at_end=True).due(step, 34) for step in (33, 34)] == [False, True]
    assert [every.next_step(step) for step in (0, 9, 10, 11)] == [10, 10, 20, 20]
    never = Every(0, print)
    assert never.next_step(5) == math.inf and not any(never.due(step, 9) for step in range(10))
    assert Every(0, print, at_end=True).due(9, 9)


def test_an_inner_loop_never_runs_past_a_due_step():
    loops, log, _, step = run(23, 6, save=(10, True), evaluate=(4, False))
    assert [done for done, _, _ in loops] == [4, 8, 10, 12, 16, 20, 23]
    assert [at for name, at in log if name == "save"] == [10, 20, 23]
    assert [at for name, at in log if name == "evaluate"] == [4, 8, 12, 16, 20]
    assert [name for name, at in log if at == 20] == ["save", "evaluate"], "in the order given"
    assert int(step.total) == sum(range(1, 24))


def test_the_mean_loss_of_each_inner_loop():
    loops, *_ = run(7, 3)
    assert loops == [(3, 3, 2.0), (6, 3, 5.0), (7, 1, 7.0)]


def test_the_first_loop_shows_the_loss_before_anything_is_learned():
    loops, *_ = run(250, 50)
    assert [done for done, _, _ in loops] == [2, 50, 100, 150, 200, 250]
    assert loops[0][2] == 1.5


def test_a_resumed_loop_goes_on_where_it_was():
    loops, log, _, step = run(23, 6, start=9, save=(10, True))
    assert [done for done, _, _ in loops] == [10, 16, 20, 23] and int(step.step) == 23
    assert [at for _, at in log] == [10, 20, 23]


def test_a_finished_run_does_nothing():
    loops, log, *_ = run(5, 2, start=5, save=(1, True))
    assert loops == [] and log == []


def test_loops_of_all_lengths_share_one_trace():
    *_, loop, _ = run(40, 7, a=(9, False), b=(4, True))
    assert loop._compiled.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("damage", ["gone", "cut", "flip"])
def test_input_that_cannot_be_read_is_the_users(tmp_path, damage):
    """As when a shard changes after its checksum was compared."""
    shard = str(tmp_path / "shard.tfrecord")
    with tf.io.TFRecordWriter(shard) as writer:
        for value in range(5):
            writer.write(b"%d" % value)
    content = bytearray(open(shard, "rb").read())
    content[-6] ^= 1
    with open(shard, "wb") as file:
        file.write(content[:-3] if damage == "cut" else content)
    if damage == "gone":
        os.unlink(shard)
    data = tf.data.TFRecordDataset(shard).map(lambda text: tf.strings.to_number(text, tf.int64))
    loop = Loop(CountingStep(), data, 5, 5)
    with pytest.raises(DataError, match="^train split: cannot be read any more ") as caught:
        loop.run(lambda *_: None, [], no_skip)
    assert "\n" not in str(caught.value)
    reason = f"{shard}; No such file" if damage == "gone" else "corrupted record at"
    assert f"({reason}" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "error"), [("a label is outside 0..1", DataError), (None, tf.errors.OpError)]
)
def test_what_a_model_asserts_of_its_data_is_one_line_and_other_errors_stay(message, error):
    class Refusing(CountingStep):
        def __call__(self, batch):
            loss, fine = super().__call__(batch)
            if message:
                tf.debugging.Assert(batch < 3, [message])
                return loss, fine
            return loss + tf.gather([1.0, 2.0], batch), fine  # out of range from the second batch on

    loop = Loop(Refusing(), tf.data.Dataset.counter(1), 10, 5)
    with pytest.raises(error) as caught:
        loop.run(lambda *_: None, [], no_skip)
    assert not message or str(caught.value) == f"train split: {message}"


def test_a_wish_from_another_thread_ends_the_inner_loop_after_the_step_in_progress():
    """The whole run is one inner loop, and its thread sits inside TensorFlow."""
    reached, asked = threading.Event(), threading.Event()

    def hold(batch):
        if batch == 5:
            reached.set()
            asked.wait(300)
        return batch

    class Waiting(CountingStep):
        def __call__(self, batch):
            return super().__call__(tf.ensure_shape(tf.numpy_function(hold, [batch], tf.int64), []))

    step, log = Waiting(), []
    loop = Loop(step, tf.data.Dataset.counter(1), 1000, 1000)

    def wish():
        reached.wait(300)
        loop.request_stop()
        asked.set()

    thread = threading.Thread(target=wish)
    thread.start()
    finished = loop.run(lambda *line: log.append(line), [Every(0, log.append, at_end=True)], no_skip)
    thread.join()
    assert not finished and int(step.step) == 5
    assert log == [(5, 5, 3.0)], "the action of the end is not due"


def test_a_wish_before_an_action_leaves_it_out():
    log = []
    loop = Loop(CountingStep(), tf.data.Dataset.counter(1), 9, 3)

    def save(step):
        log.append(("save", step))
        loop.request_stop()

    assert not loop.run(lambda *_: None, [Every(3, save), Every(3, log.append)], no_skip)
    assert log == [("save", 3)]
    assert not loop.run(lambda *_: None, [Every(3, save)], no_skip) and log == [("save", 3)]


def test_a_wish_after_the_last_action_is_too_late():
    loop = Loop(CountingStep(), tf.data.Dataset.counter(1), 4, 4)
    assert loop.run(lambda *_: None, [Every(0, lambda step: loop.request_stop(), at_end=True)], no_skip)


def test_batches_that_are_not_applied_end_the_inner_loop_and_stay_out_of_the_mean():
    class Choosy(CountingStep):
        def __call__(self, batch):
            loss, _ = super().__call__(batch)
            fine = (batch != 3) & (batch != 4)
            return tf.where(fine, loss, float("nan")), fine

    loops, skipped, saved = [], [], []
    loop = Loop(Choosy(), tf.data.Dataset.counter(1), 8, 4)
    loop.run(lambda *line: loops.append(line), [Every(3, saved.append)], skipped.append)
    assert skipped == [3, 4] and saved == [3, 6], "a step is counted whatever became of its batch"
    assert loops == [(3, 3, 1.5), (6, 2, 5.5), (8, 2, 7.5)]
