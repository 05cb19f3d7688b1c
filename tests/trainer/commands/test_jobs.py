"""`lazytower jobs`: its flags, what it shows, and how it finds a job."""

import argparse
import os
import time

import pytest

from configs.errors import UserError
from tests.trainer.test_cli import flags, run
from trainer.commands import jobs
from trainer.jobs.logs import LogReader
from trainer.jobs.record import JobRecord
from trainer.jobs.text import format_job, format_list
from trainer.launchers.local_state import job_path, remember, remembered
from trainer.vm.log import CHUNK_BYTES

SHARED = {"--help", "--config", "--set"}
FACTS = {"name": "n", "output": "gs://b/run", "chips": 4, "price_per_chip_hour": 3600.0}


@pytest.fixture
def record(tmp_path, monkeypatch) -> JobRecord:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return JobRecord.create(f"{tmp_path}/jobs/one", FACTS)


def write(record: JobRecord, name: str, text: str) -> None:
    from configs.system import storage

    path = f"{record.attempt_path(1)}/{name}"
    storage.make_directory(path.rpartition("/")[0])
    storage.write_bytes(path, text.encode())


def test_the_flags_are_frozen():
    parser = argparse.ArgumentParser()
    jobs.add_arguments(parser)
    [actions] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    found = {name: flags(child) for name, child in actions.choices.items()}
    more = {"logs": {"--follow"}, "watch": {"--resume"}}
    names = ("list", "show", "logs", "cancel", "watch", "wait", "supervise")
    assert found == {name: SHARED | more.get(name, set()) for name in names}


def test_what_is_shown(record, monkeypatch):
    record.append("requesting", 1)
    record.append("ready", 1)
    began = record.append("running", 1).seconds
    monkeypatch.setattr(time, "time", lambda: began + 5)
    write(
        record,
        "heartbeat.json",
        '{"boot": "b", "count": 1, "time": "T", "stage": "training", "restarts": 2, '
        '"progress": {"step": 1200, "total": 5000, "loss": 0.51234, "examples_per_second": 81234.0}}',
    )
    shown = format_job(record)
    for line in (
        *("state        running, 0:00:05", "step         1,200/5,000", "loss         0.5123"),
        *("examples/s   81,234", "heartbeat    T, training, 2 restarts", "output       gs://b/run"),
    ):
        assert line in shown
    assert [line.split("  ")[1] for line in shown.splitlines()[-4:]] == [
        *("submitted", "requesting 1", "ready 1", "running 1")
    ]
    line = format_list([record]).splitlines()[1].split()
    assert line[:5] == ["one", "running", "1", "1,200/5,000", "0.5123"]


def test_the_cost_grows_while_a_slice_is_up(record, monkeypatch):
    """4 chips at 3,600 an hour are 4 a second."""
    record.append("requesting", 1)
    assert "cost so far  0.00" in format_job(record)
    up = record.append("ready", 1).seconds
    monkeypatch.setattr(time, "time", lambda: up + 10)
    assert "cost so far  40.00" in format_job(record)


def test_the_end_of_the_log_of_a_failed_job(record):
    record.append("requesting", 1)
    record.append("stopping", 1, "training ended with exit code 2", outcome="failed", exit_code=2)
    record.append("failed", 1, "training ended with exit code 2")
    write(
        record,
        "final.json",
        '{"state": "failed", "exit_code": 2, "reason": "r", "log": ["one", "two"], "progress": {}}',
    )
    shown = format_job(record)
    assert shown.endswith("end of the log:\none\ntwo") and "stopping -> failed 1  training ended" in shown
    assert jobs._exit_code(record) == 2


def test_a_log_is_read_on_where_it_was_left(record):
    record.append("requesting", 1)
    reader = LogReader(record)
    assert list(reader.new()) == []
    write(record, "log/worker-0-000000.txt", "first\n")
    assert "".join(reader.new()) == "--- attempt 1, worker 0\nfirst\n"
    full = "first\n" + "x" * (CHUNK_BYTES - 6)
    write(record, "log/worker-0-000000.txt", full)
    write(record, "log/worker-0-000001.txt", "ü second")
    assert "".join(reader.new()) == full[6:] + "ü second"
    assert list(reader.new()) == []


def test_how_a_job_is_found(record, tmp_path):
    with pytest.raises(UserError, match="one: not submitted from this machine; add the run's --config"):
        job_path("one", None)
    assert job_path("one", "gs://b/jobs") == "gs://b/jobs/one"
    assert job_path("gs://b/jobs/two", None) == "gs://b/jobs/two"
    remember("one", record.path)
    assert job_path("one", None) == record.path and remembered() == [record.path]


def test_who_looks_while_a_job_is_being_remembered_sees_no_half_of_it(record, monkeypatch):
    replace, seen = os.replace, []
    monkeypatch.setattr(os, "replace", lambda *names: (seen.append(remembered()), replace(*names)))
    remember("one", record.path)
    assert seen == [[]] and remembered() == [record.path]


def test_no_such_job_is_one_line(tmp_path):
    done = run("jobs", "show", f"{tmp_path}/none")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no job here; `lazytower jobs list` shows all jobs" in done.stderr


def test_jobs_that_are_gone_do_not_hide_the_others(record, tmp_path):
    lines = format_list([JobRecord(f"{tmp_path}/jobs/deleted"), record]).splitlines()
    assert lines[1].split()[:2] == ["deleted", "gone"] and lines[2].split()[:2] == ["one", "submitted"]


def test_watching_without_a_terminal_prints_each_event_once(record, capsys):
    view = jobs._View(record)
    view.show()
    record.append("requesting", 1)
    view.show()
    view.show()
    assert [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()] == [
        *("submitted", "requesting 1")
    ]


def test_waiting_outlasts_a_store_that_is_away(record, monkeypatch):
    answers = [OSError("no route"), None]

    def events(self):
        if (answer := answers.pop(0)) is not None:
            raise answer
        return []

    monkeypatch.setattr(JobRecord, "events", events)
    assert not jobs._is_over(record) and not jobs._is_over(record)


def test_watching_on_a_terminal_draws_the_whole_job(record, capsys, monkeypatch):
    view = jobs._View(record)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    view.show()
    view.show()
    drawn = capsys.readouterr().out.split("\x1b[H\x1b[2J")
    assert len(drawn) == 3 and all("state        submitted" in text for text in drawn[1:])


@pytest.mark.parametrize(
    ("launcher", "unseen", "words"),
    [
        ("cloud_tpu", False, "no slice is left"),
        ("cloud_tpu", True, "cannot be seen"),
        ("local", False, "no process is left"),
    ],
)
def test_cancel_says_that_no_slice_is_left_only_when_it_has_looked(
    launcher, unseen, words, tmp_path, capsys, monkeypatch
):
    record = JobRecord.create(f"{tmp_path}/jobs/one", FACTS | {"launcher": launcher})
    record.append("requesting", 1)
    record.append("stopping", 1, "no permission", outcome="failed", answered=True)
    record.append("failed", 1, "no permission", unseen=unseen)

    monkeypatch.setattr("trainer.jobs.supervise.cancel", lambda path: JobRecord(path).state())
    assert jobs.run(argparse.Namespace(action="cancel", job=record.path, config=None, overrides=[])) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("one: failed; ") and words in shown
    assert ("is left\n" in shown) == (not unseen)


TORN = [
    "",
    "{",
    "[]",
    '{"state": 3}',
    '{"boot": 1, "count": 1, "progress": {"step": "x"}}',
    "\0\0\0",
    "9" * 5000,
]


@pytest.mark.parametrize("text", TORN)
def test_torn_files_of_one_job_hide_nothing(record, tmp_path, text):
    record.append("requesting", 1)
    write(record, "heartbeat.json", text)
    write(record, "final.json", text)
    other = JobRecord.create(f"{tmp_path}/jobs/two", FACTS)
    (tmp_path / "jobs" / "three").mkdir()
    (tmp_path / "jobs" / "three" / "job.json").write_text(text)
    lines = format_list([JobRecord(f"{tmp_path}/jobs/three"), JobRecord(record.path), other]).splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["one", "requesting"], ["two", "submitted"]]
    assert "state        requesting" in format_job(JobRecord(record.path))
    assert format_job(JobRecord(f"{tmp_path}/jobs/three")).startswith("job  ")


def test_a_place_that_cannot_be_read_hides_no_other(record, monkeypatch):
    closed = JobRecord(f"{record.path}-closed")
    monkeypatch.setattr(closed, "state", lambda: (_ for _ in ()).throw(PermissionError("no")))
    lines = format_list([closed, record]).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["one-closed", "unknown"], ["one", "submitted"]]
