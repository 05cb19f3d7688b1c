"""Sweeps of jobs: what becomes of a trial by its job's record, and of jobs when the sweep is killed."""

import csv
import pathlib
import random
import shutil

import optuna
import pytest

from configs.errors import ConfigError, Stopped, UserError
from configs.load import parse_config
from tests.support.documents import document
from tests.support.fake_day import Killed
from tests.support.fake_jobs import FakeJobs, cancel_by_hand, submitted_sweep
from tests.support.fake_trials import FakeTrials, swept
from trainer.jobs.record import JobRecord, find_jobs
from trainer.launchers.base import Unreachable
from trainer.sweep.submitted import SubmittedTrials

pytestmark = pytest.mark.any_python

FEW = {"trials": 5}
WHOLE = {"pruner": {"kind": "none"}}


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """Bookmarks of jobs are the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def rows(root: pathlib.Path) -> list[dict]:
    """The table, less how far a stopped trial had come until its machine was gone."""
    found = list(csv.DictReader((root / "out" / "trials.csv").open()))
    return [row | ({"steps": ""} if row["state"] == "stopped" else {}) for row in found]


def jobs_of(root: pathlib.Path, trial: int) -> list[JobRecord]:
    return find_jobs(str(root / "out" / "trials" / str(trial) / "jobs"))


def states(root: pathlib.Path, trial: int) -> list[str]:
    return [job.state().state for job in jobs_of(root, trial)]


def ended(root: pathlib.Path) -> list[tuple[str, str]]:
    return [(row["state"], row["reason"]) for row in rows(root)]


@pytest.fixture(scope="module")
def by_processes(tmp_path_factory):
    root = tmp_path_factory.mktemp("processes")
    swept(root, FakeTrials(), sweep=FEW)
    found = rows(root)
    assert {row["state"] for row in found} == {"complete", "stopped"}
    return found


@pytest.mark.slow
def test_trials_are_those_of_processes(by_processes, tmp_path):
    jobs = FakeJobs()
    submitted_sweep(tmp_path, jobs, sweep=FEW)
    assert rows(tmp_path) == by_processes
    checks = [name for command, name in jobs.done if command == "check"]
    assert checks == ["shop-0", *(f"shop-{number} again" for number in range(5))], "the dataset is read once"
    assert [command for command, _ in jobs.done][:4] == ["prepare", "check", "check", "submit"]
    for number, row in enumerate(rows(tmp_path)):
        assert states(tmp_path, number) == [{"complete": "succeeded", "stopped": "cancelled"}[row["state"]]]
    assert {JobRecord(path).state().state for path in jobs.cancelled} == {"cancelled"}


@pytest.mark.parametrize("alone", [0, 30])
def test_killed_at_any_moment_each_trial_has_one_job(by_processes, tmp_path, alone):
    """Whether jobs go on meanwhile or not."""
    draw, jobs, kills = random.Random(4), FakeJobs(), 0
    jobs.alone = alone
    for _ in range(200):
        jobs.kill_at = draw.randint(2, 12)
        try:
            submitted_sweep(tmp_path, jobs, sweep=FEW)
            break
        except Killed:
            kills += 1
    assert kills > 3
    assert rows(tmp_path) == by_processes
    assert [len(jobs_of(tmp_path, number)) for number in range(5)] == [1] * 5
    assert len(jobs.evaluated) == len(set(jobs.evaluated)), "nothing was trained twice"


def test_several_at_once(tmp_path):
    jobs = FakeJobs()
    submitted_sweep(tmp_path, jobs, 3, FEW)
    assert jobs.most_at_once == 3 and len(rows(tmp_path)) == 5


def test_all_that_run_are_taken_up_by_a_sweep_of_fewer(tmp_path):
    jobs = FakeJobs()
    jobs.kill_at = 25
    with pytest.raises(Killed):
        submitted_sweep(tmp_path, jobs, 4, {"trials": 5} | WHOLE)
    assert [states(tmp_path, number) for number in range(4)] == [["running"]] * 4
    jobs.kill_at = None
    submitted_sweep(tmp_path, jobs, 1, {"trials": 5} | WHOLE)
    assert set(jobs.supervisors.values()) == {1, 2} and jobs.most_at_once == 4
    assert [len(jobs_of(tmp_path, number)) for number in range(5)] == [1] * 5


def test_jobs_that_fail(tmp_path):
    """75 is what a trainer ends with at launch.max_seconds: no reason to end the sweep."""
    jobs = FakeJobs({0: [2], 1: [75], 2: [130]}, diverged=(3,))
    submitted_sweep(tmp_path, jobs, sweep={"trials": 2, "failures": 4} | WHOLE)
    found = ended(tmp_path)
    for number, code in enumerate((2, 75, 130)):
        [job] = jobs_of(tmp_path, number)
        assert found[number] == ("failed", f"training ended with exit code {code} (job {job.path})")
    assert [state for state, _ in found[3:]] == ["stopped", "complete"]


def test_failures_in_a_row_end_the_sweep_and_name_what_goes_on(tmp_path, caplog):
    jobs = FakeJobs({0: [2]})
    with pytest.raises(UserError, match="the last 1 trials failed, number 0: training ended with exit code"):
        submitted_sweep(tmp_path, jobs, 2, {"failures": 1} | WHOLE)
    [other] = jobs_of(tmp_path, 1)
    assert other.state().state == "running"
    assert f"jobs go on without the sweep: {other.id} (running); rerun" in caplog.text
    submitted_sweep(tmp_path, jobs, 2, {"failures": 1, "trials": 2} | WHOLE)
    assert states(tmp_path, 1) == ["succeeded"] and len(rows(tmp_path)) == 3


def test_a_job_that_is_cancelled_by_hand_is_a_failed_trial(tmp_path, monkeypatch):
    jobs = FakeJobs()
    look = FakeJobs.look

    def cancelling(self, path):
        look(self, path)
        if "shop-0-" in path and len(self.evaluated) == 3:
            cancel_by_hand(path)

    monkeypatch.setattr(FakeJobs, "look", cancelling)
    submitted_sweep(tmp_path, jobs, sweep={"trials": 1} | WHOLE)
    [job] = jobs_of(tmp_path, 0)
    assert ended(tmp_path) == [("failed", f"cancelled by the user (job {job.path})"), ("complete", "")]


def test_a_job_that_is_cancelled_while_the_sweep_is_dead_is_submitted_again(tmp_path):
    jobs = FakeJobs()
    jobs.kill_at = 15
    with pytest.raises(Killed):
        submitted_sweep(tmp_path, jobs, sweep={"trials": 1} | WHOLE)
    cancel_by_hand(jobs_of(tmp_path, 0)[0].path)
    done = list(jobs.evaluated)
    jobs.kill_at = None
    submitted_sweep(tmp_path, jobs, sweep={"trials": 1} | WHOLE)
    assert ended(tmp_path) == [("complete", "")]
    assert sorted(states(tmp_path, 0)) == ["cancelled", "succeeded"]
    assert 0 < len(done) < len(jobs.evaluated) == len(set(jobs.evaluated)), "from where it was"


def test_a_bad_launch_section_is_refused_before_anything(tmp_path):
    launch = {"kind": "cloud_tpu", "project": "p", "zone": "us-east5-b", "slice": "v6e-4"}
    jobs, remote = FakeJobs(), {"dataset": {"path": "gs://b/data"}}
    with pytest.raises(ConfigError, match="dataset.path: .*data is on this machine, .*; use gs://$"):
        submitted_sweep(tmp_path, jobs, launch=launch)
    with pytest.raises(ConfigError, match=r"output.path: .*; use gs:// \(trials are .* the sweep's output\)"):
        submitted_sweep(tmp_path, jobs, launch=launch, **remote)
    assert jobs.done == []


def test_an_unreadable_volume_is_refused(tmp_path):
    launch = {"kind": "kubernetes", "image": "x", "memory": "4Gi", "volumes": [{"claim": "c", "path": "/no"}]}
    with pytest.raises(ConfigError, match="dataset.path: /no/data cannot be read here, but a sweep reads"):
        submitted_sweep(
            tmp_path,
            FakeJobs(),
            launch=launch,
            dataset={"path": "/no/data"},
            sweep={"output": "gs://b/sweep", "storage": f"sqlite:///{tmp_path}/x.db"},
        )


def test_checks_are_made_before_the_first_trial(tmp_path):
    jobs = FakeJobs()
    jobs.refused = {0: [UserError("launch.zone: us-east5-b has no v6e-4")]}
    with pytest.raises(UserError, match="^launch.zone: us-east5-b has no v6e-4$"):
        submitted_sweep(tmp_path, jobs)
    assert jobs.done == [("prepare", "shop"), ("check", "shop-0")]
    study = optuna.load_study(study_name="out", storage=f"sqlite:///{tmp_path}/out/study.db")
    assert study.trials == []


def test_a_trial_that_does_not_fit_fails_and_a_service_that_does_not_answer_is_waited_for(tmp_path):
    jobs = FakeJobs()
    jobs.refused = {1: [UserError("tables do not fit v6e-4")], 2: [Unreachable("no answer")] * 3}
    submitted_sweep(tmp_path, jobs, sweep={"trials": 2} | WHOLE)
    assert ended(tmp_path) == [("complete", ""), ("failed", "tables do not fit v6e-4"), ("complete", "")]
    assert [len(jobs_of(tmp_path, number)) for number in range(3)] == [1, 0, 1]


def test_a_signal_during_a_check_is_no_failure(tmp_path, monkeypatch):
    """The terminal sends SIGINT to what the checks have started, too."""
    jobs = FakeJobs()
    jobs.refused = {1: [UserError("plan: no output")]}

    def check(self):
        if ("check", "shop-1 again") in self.done:
            raise Stopped("stopped by SIGINT")

    monkeypatch.setattr(FakeJobs, "check", check)
    with pytest.raises(Stopped):
        submitted_sweep(tmp_path, jobs, sweep={"trials": 2} | WHOLE)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    submitted_sweep(tmp_path, jobs, sweep={"trials": 2} | WHOLE)
    assert ended(tmp_path) == [("complete", "")] * 2


def test_a_supervisor_that_died_is_replaced_and_a_failed_cancellation_repeated(by_processes, tmp_path):
    jobs = FakeJobs()
    jobs.mortal, jobs.failing_cancels = True, 2
    submitted_sweep(tmp_path, jobs, sweep=FEW)
    assert rows(tmp_path) == by_processes
    assert min(jobs.supervisors.values()) > 1
    assert jobs.cancelled[0] == jobs.cancelled[1] == jobs.cancelled[2] != jobs.cancelled[3]


def test_a_job_whose_directory_was_deleted_has_failed(tmp_path, monkeypatch):
    jobs = FakeJobs()
    jobs.mortal, look = True, FakeJobs.look

    def deleting(self, path):
        look(self, path)
        if "shop-0-" in path and len(self.evaluated) == 2:
            shutil.rmtree(path)

    monkeypatch.setattr(FakeJobs, "look", deleting)
    submitted_sweep(tmp_path, jobs, sweep={"trials": 1} | WHOLE)
    [first, second] = ended(tmp_path)
    assert first[0] == "failed" and first[1].startswith("its directory was deleted (job ")
    assert second == ("complete", "")


def test_a_file_that_cannot_be_read_for_a_moment(tmp_path, monkeypatch):
    jobs, state, broken = FakeJobs(), JobRecord.state, []

    def reading(self):
        if len(jobs.evaluated) == 4 and len(broken) < 3 and "shop-0-" in self.path:
            broken.append(self.path)
            raise OSError("reset by peer")
        return state(self)

    monkeypatch.setattr(JobRecord, "state", reading)
    submitted_sweep(tmp_path, jobs, sweep={"trials": 1} | WHOLE)
    assert len(broken) == 3 and ended(tmp_path) == [("complete", "")]


def test_a_sweep_of_processes_leaves_jobs_alone(tmp_path):
    jobs = FakeJobs()
    jobs.kill_at = 15
    with pytest.raises(Killed):
        submitted_sweep(tmp_path, jobs, sweep={"trials": 2} | WHOLE)
    [job] = jobs_of(tmp_path, 0)
    with pytest.raises(UserError, match=f"trains as job {job.id}; rerun with --submit, or end it first"):
        swept(tmp_path, FakeTrials(), sweep={"trials": 2} | WHOLE)
    cancel_by_hand(job.path)
    swept(tmp_path, FakeTrials(), sweep={"trials": 2} | WHOLE)
    assert ended(tmp_path) == [("complete", "")] * 2


CLUSTER = {"kind": "cluster", "from": "TF_CONFIG"}
HOSTS = {"kind": "cluster", "hosts": ["a:1", "b:1"]}
CLOUD = {"kind": "cloud_tpu", "project": "p", "zone": "us-east5-b"}
PODS = {"kind": "kubernetes", "image": "x"}


@pytest.mark.parametrize(
    ("device", "launch", "shared"),
    [
        ({"kind": "cpu"}, {}, False),
        ({"kind": "tpu", "slice": "v6e-4"}, {}, True),
        ({"kind": "tpu", "slice": "v6e-4"}, CLOUD, False),
        (CLUSTER, {}, True),
        (CLUSTER, {"kind": "local", "hosts": 2}, False),
        (CLUSTER, PODS | {"hosts": 2}, False),
        (HOSTS, {}, True),
        (HOSTS, CLOUD | {"slice": "v6e-4"}, True),
    ],
)
def test_which_jobs_share_a_device(device, launch, shared):
    config = parse_config(
        document(device=device, launch=launch, train={"batch_size": 16, "num_steps": 4}), "x"
    )
    assert SubmittedTrials.shares_device(config) == shared


def test_jobs_that_share_a_device_run_one_by_one(tmp_path):
    jobs = FakeJobs()
    for is_submitted in (False, True):
        with pytest.raises(
            ConfigError, match="--jobs 2: device.kind tpu runs one trial at a time here; use 1"
        ):
            swept(tmp_path, jobs, 2, is_submitted=is_submitted, device={"kind": "tpu", "slice": "v6e-4"})
    assert jobs.done == []
