"""A job on Kubernetes from its request to its end, decided from what the API says of its JobSet and pods."""

import json
import pathlib

import pytest

from configs.errors import UserError
from tests.support.kubernetes_jobs import JOB, kubernetes_config
from trainer.jobs.config import JobConfig
from trainer.jobs.logs import LogReader
from trainer.jobs.record import JobRecord
from trainer.jobs.supervise import cancel
from trainer.jobs.text import format_job, format_list
from trainer.launchers.kubernetes import Kubernetes
from trainer.launchers.pods.jobset_pods import JobSetPods


def log_of(path: str) -> str:
    return "".join(LogReader(JobRecord(path)).new())


def test_from_request_to_success(submit, kubernetes):
    job = submit()
    assert job.turn().state == "queued" and len(kubernetes.jobsets) == 1
    shown = format_job(job.record)
    assert "host 0: 0/3 nodes are available: 3 Insufficient memory." in shown
    kubernetes.start()
    kubernetes.say(0, "step 10/40 (25%)  loss 0.5  100 examples/s", "checkpoint of step 10: full")
    assert job.turn().state == "running"
    assert "10/40" in format_job(job.record) and "10/40" in format_list([job.record])
    assert "step 10/40" in log_of(job.path)
    kubernetes.say(0, "done in 3 s")
    kubernetes.end(0, 0)
    state = job.finish()
    assert (state.state, state.reason) == ("succeeded", "") and kubernetes.jobsets == {}
    assert log_of(job.path).count("step 10/40") == 1 and "done in 3 s" in log_of(job.path)
    asked = [request for request in kubernetes.requests if request.startswith("DELETE")]
    assert len(asked) == 1


def test_exit_code_75_restarts_all_pods_in_the_same_jobset(submit, kubernetes):
    job = submit(hosts=3)
    job.turn()
    kubernetes.start()
    before = [pod["metadata"]["name"] for pod in kubernetes.hosts()]
    job.turn()
    kubernetes.end(0, 75)
    after = [pod["metadata"]["name"] for pod in kubernetes.hosts()]
    assert len(after) == 3 and not set(before) & set(after)
    assert job.turn().state == "running" and "1 restarts" in format_job(job.record)
    kubernetes.start()
    kubernetes.lose(2)
    kubernetes.start()
    job.turn()
    kubernetes.say(0, "again")
    kubernetes.say(1, "a worker's line")
    kubernetes.end(0, 0)
    assert job.finish().state == "succeeded" and job.record.state().attempt == 1
    text = log_of(job.path)
    assert "--- attempt 1, worker 1\n" in text and "a worker's line" in text and "again" in text


@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        (lambda cluster: cluster.end(1, 2), 2, "host 1 ended with exit code 2"),
        (
            lambda cluster: cluster.end(0, 137, "OOMKilled"),
            137,
            "host 0 was killed for lack of memory; raise",
        ),
        (lambda cluster: cluster.pass_deadline(), 1, "not done within launch.max_seconds"),
    ],
    ids=["error", "memory", "deadline"],
)
def test_other_errors_end_the_job_at_once(submit, kubernetes, end, code, reason):
    job = submit(hosts=2)
    job.turn()
    kubernetes.start()
    job.turn()
    kubernetes.say(1, "Traceback of host 1")
    kubernetes.say(0, "Traceback of host 0")
    end(kubernetes)
    state = job.finish()
    assert state.state == "failed" and reason in state.reason and kubernetes.jobsets == {}
    final = job.record.final(1)
    assert final["exit_code"] == code and len(job.history()) == len(set(job.history()))
    assert any("Traceback of host" in line for line in final["log"])


def test_restarts_have_an_end(submit, kubernetes):
    job = submit(retries=1)
    job.turn()
    for _ in range(2):
        kubernetes.start()
        job.turn()
        kubernetes.end(0, 75)
    state = job.finish()
    assert state.state == "failed" and state.exit_code == 75
    assert state.reason == "stopped again after 1 restarts of all pods (launch.retries)"


def test_cancel_leaves_nothing(submit, kubernetes):
    job = submit(hosts=2)
    job.turn()
    kubernetes.start()
    job.turn()
    assert cancel(job.path).state == "cancelled"
    assert kubernetes.jobsets == {} and kubernetes.pods == {}
    cancel(job.path)


def test_a_jobset_that_somebody_deleted_is_made_again(submit, kubernetes):
    job = submit()
    job.turn()
    kubernetes.start()
    job.turn()
    kubernetes.jobsets.clear()
    kubernetes.pods.clear()
    assert job.turn().state == "queued" and job.record.state().attempt == 2
    assert kubernetes.only()["metadata"]["name"] == f"{JOB}-2"


def test_another_s_jobset_of_the_name_is_left_alone(submit, kubernetes):
    other = submit()
    other.turn()
    kubernetes.only()["metadata"]["labels"]["lazytower-job"] = "another"
    slices = JobSetPods(other.path, {"namespace": "default"})
    assert slices.observe(1).kind == "absent"
    slices.delete(1)
    assert len(kubernetes.jobsets) == 1
    launcher = Kubernetes(kubernetes_config(), other.path, {"directory": ""})
    with pytest.raises(UserError, match="a JobSet of this name exists in namespace default and is not this"):
        launcher.create(1)
    kubernetes.only()["metadata"]["labels"]["lazytower-job"] = JOB
    launcher.create(1)  # a request that is repeated is one


@pytest.mark.parametrize(
    ("reason", "event"),
    [
        ("ImagePullBackOff", "refused"),
        ("InvalidImageName", "failed"),
        ("CreateContainerConfigError", "failed"),
    ],
)
def test_containers_that_do_not_start(submit, kubernetes, reason, event):
    job = submit(retries=0)
    job.turn()
    kubernetes.wait(reason, "Back-off pulling image")
    state = job.finish()
    assert event in job.history() and kubernetes.jobsets == {}
    assert f"host 0 does not start: {reason} (Back-off pulling image); check launch.image" in state.reason


def test_a_job_is_ended_without_its_config(submit, kubernetes):
    job = submit(namespace="ml")
    job.turn()
    kubernetes.start()
    pathlib.Path(job.path, "config.yaml").unlink()
    config = JobConfig(JobRecord(job.path))
    assert config.section["namespace"] == "ml" and config.slices is JobSetPods
    assert cancel(job.path).state == "cancelled" and kubernetes.jobsets == {}


def test_what_may_be_left_is_said_with_the_command():
    slices = JobSetPods(f"/jobs/{JOB}", {"namespace": "ml", "context": "big"})
    assert (
        f"`kubectl delete jobset {JOB}-3 --namespace ml --context big --cascade=foreground`" in slices.left(3)
    )


def test_a_supervisor_that_may_not_read_logs_supervises_all_the_same(submit, kubernetes, caplog):
    job = submit()
    job.turn()
    kubernetes.start()
    kubernetes.faults += [("/log", 403, "pods/log is forbidden")]
    assert job.turn().state == "running" and "not allowed in namespace default" in caplog.text


def test_the_next_supervisor_goes_on_where_the_last_one_stopped(submit, kubernetes):
    job = submit()
    job.turn()
    kubernetes.start()
    for number in range(3):
        kubernetes.say(0, f"line {number}, step {number}/3")
        job.turn()  # a new process each time, as far as memory goes
    text = log_of(job.path)
    assert [text.count(f"line {number},") for number in range(3)] == [1, 1, 1]
    kubernetes.end(0, 75)  # nothing new
    job.turn()
    beat = json.loads(pathlib.Path(job.path, "attempts/001/heartbeat.json").read_text())
    assert beat["progress"]["step"] == 2 and beat["restarts"] == 1
