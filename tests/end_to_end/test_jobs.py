"""Jobs on a fake Cloud TPU, whose machines run the real start-up script and really train.

The fixture asserts after each test that no slice, node or machine is left.
"""

import contextlib
import functools
import json
import pathlib
import re
import signal
import subprocess
import sysconfig
import tempfile

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import status_pb2

from configs.load import parse_config
from tests.support.checkpoint_state import newest_state
from tests.support.fake_tpu import TOKEN, Fault, wait_until
from tests.support.gcs_gate import gate, mentions
from tests.support.job_runs import NUM_STEPS, Cloud, download, job_document
from tests.support.tiny_run import write_planted
from trainer.jobs.record import JobRecord
from trainer.jobs.stage import stage
from trainer.jobs.supervise import cancel, supervise
from trainer.training.run import train
from trainer.vm import program as vm

UP = ["requesting", "queued", "provisioning", "ready"]
STEPS = ("--set", "train.num_steps=20")


def same_weights(cloud: Cloud) -> None:
    """The run in the bucket ended with the state of an undisturbed one."""
    theirs, ours = newest_state(download(cloud, "run/")), undisturbed()
    assert int(ours["step"]) == NUM_STEPS and set(ours) == set(theirs)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@functools.cache
def undisturbed() -> dict[str, np.ndarray]:
    """Final state of the same run on a disk, without interruption."""
    with tempfile.TemporaryDirectory(prefix="undisturbed-") as directory:
        write_planted(directory)
        document = job_document(directory, directory)
        document["launch"] = {"kind": "local"}
        train(parse_config(document, "undisturbed"))
        return newest_state(f"{directory}/run")


def checkpoints(cloud: Cloud) -> list[str]:
    return [name for name in cloud.bucket.names("run/checkpoints/") if name.endswith("COMMITTED")]


def trains(cloud: Cloud, path: str, saved: int = 1) -> bool:
    """Whether the job has saved this many checkpoints, and its supervisor has seen it running."""
    return len(checkpoints(cloud)) >= saved and "running" in cloud.history(path)


def held_back(cloud: Cloud, saved: int = 1, lost: bool = True):
    """Until the end of the block no more than so many checkpoints are saved: the job cannot end meanwhile.

    Args:
      saved: checkpoints.
      lost: the trainer is dead by then.
    """
    return gate(
        cloud.bucket.store,
        lambda r: r.method != "GET" and mentions(r, "run/checkpoints/") and len(checkpoints(cloud)) >= saved,
        lost,
    )


@pytest.mark.slow
def test_from_submit_to_success(cloud):
    output, log = cloud.lazytower("submit", "--config", cloud.config)
    path = output.strip()
    job = path.rpartition("/")[2]
    assert re.fullmatch(r"gs://bucket/run/jobs/planted-\d{8}-\d{6}-[0-9a-f]{4}", path)
    assert "where the bucket" not in log and "across regions" not in log
    _, shown = cloud.lazytower("jobs", "logs", job, "--follow"), cloud.lazytower("jobs", "show", job)[0]
    cloud.lazytower("jobs", "wait", job)
    assert cloud.history(path) == ["submitted", *UP, "running", "stopping", "succeeded"]
    assert f"step         {NUM_STEPS}/{NUM_STEPS}" in shown and "cost so far" in shown
    assert job in cloud.lazytower("jobs", "list")[0]
    assert "succeeded" in cloud.lazytower("jobs", "list", "--config", cloud.config)[0]
    text = cloud.lazytower("jobs", "logs", job)[0]
    assert "--- attempt 1, worker 0" in text and f"step {NUM_STEPS}/{NUM_STEPS}" in text
    site = f"{cloud.directory}/machines/{job}-1/site"
    assert (cloud.directory / "machines" / f"{job}-1" / "site" / "trainer" / "vm" / "program.py").exists(), (
        "the wheel's"
    )
    assert f"--target {site}" in text
    for name in cloud.bucket.names("run/jobs/"):
        assert TOKEN.encode() not in cloud.bucket.read(name), "credentials are kept in memory"
    same_weights(cloud)


@pytest.mark.slow
def test_suspended_in_the_middle_and_resumed(cloud):
    """The other way in which a slice is lost, PREEMPTED, is that of the next tests."""
    with held_back(cloud, 2):
        path = cloud.lazytower("submit", "--config", cloud.config)[0].strip()
        wait_until(lambda: trains(cloud, path, 2), what="for checkpoints")
        cloud.tpu.preempt("SUSPENDED")
    cloud.lazytower("jobs", "wait", path)
    history = ["submitted", *UP, "running", "preempted", *UP, "resumed", "stopping", "succeeded"]
    assert cloud.history(path) == history
    assert cloud.tpu.started == [f"{JobRecord(path).id}-{attempt}" for attempt in (1, 2)]
    assert "resuming from step" in cloud.lazytower("jobs", "logs", path)[0]
    same_weights(cloud)


@pytest.mark.slow
def test_supervisor_killed_and_restarted(cloud):
    path = stage(cloud.load())
    with held_back(cloud, lost=False):
        process = cloud.start("jobs", "supervise", path)
        wait_until(lambda: trains(cloud, path), what="for a checkpoint")
        process.kill()
        process.communicate()
    wait_until(lambda: JobRecord(path).final(1) is not None, what="for the machine to end by itself")
    wait_until(lambda: not cloud.tpu.nodes, what="for the machine to delete its slice without a supervisor")
    assert cloud.history(path) == ["submitted", *UP, "running"]
    cloud.lazytower("jobs", "supervise", path)
    assert cloud.history(path)[-2:] == ["stopping", "succeeded"]
    same_weights(cloud)


@pytest.mark.slow
def test_supervisors_killed_at_random_and_a_preemption_between(cloud):
    path = stage(cloud.load())
    with held_back(cloud, 2) as held:
        for number, seconds in enumerate((1.2, 2.5, 3.5, 4.5, 6.0, 12, 24, 48, 96, 192)):
            process = cloud.start("jobs", "supervise", path)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.kill()
            process.communicate()
            if held.reached.is_set() and cloud.tpu.vms and len(cloud.tpu.started) == 1:
                cloud.tpu.preempt()
                held.open()
            if number >= 4 and held.reached.is_set():  # later than that only on slow machines
                break
    cloud.lazytower("jobs", "watch", path, "--resume")
    history = cloud.history(path)
    assert history[-1] == "succeeded" and history.count("preempted") == 1
    assert len(set(cloud.tpu.started)) == len(cloud.tpu.started), "no attempt ran twice"
    same_weights(cloud)


@pytest.mark.slow
def test_no_quota_at_first_and_an_api_that_fails_now_and_then(cloud):
    quota = "Quota limit 'TPUV6EPreemptiblePerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0"
    codes = grpc.StatusCode
    cloud.tpu.faults = {
        "CreateQueuedResource": [
            Fault(codes.UNAVAILABLE),
            Fault(codes.RESOURCE_EXHAUSTED, quota),
            Fault(codes.DEADLINE_EXCEEDED, after=True),
        ],
        "GetQueuedResource": [
            *(Fault(codes.UNAVAILABLE), Fault(codes.DEADLINE_EXCEEDED), Fault(codes.INTERNAL))
        ],
        "GetNode": [Fault(codes.UNAVAILABLE), Fault(codes.DEADLINE_EXCEEDED)],
    }
    output, log = cloud.lazytower("submit", "--config", cloud.config, *STEPS)
    path = output.strip()
    assert f"v6e-4 in us-east5-b: the quota of project shop is too small ({quota})" in log
    cloud.lazytower("jobs", "wait", path)
    again = ["requesting", "refused", *UP]
    assert cloud.history(path) == ["submitted", *again, "resumed", "stopping", "succeeded"]
    sent = [r for r in cloud.tpu.requests if type(r).__name__ == "CreateQueuedResourceRequest"]
    assert [r.queued_resource_id[-2:] for r in sent] == ["-1", "-1", "-2", "-2"]
    assert len({r.request_id for r in sent}) == 2 and not any(cloud.tpu.faults.values())


@pytest.mark.slow
def test_on_a_bare_machine_an_environment_is_made(cloud):
    """The exact set of packages is empty here; machines use the packages of the tests."""
    (cloud.directory / "exact.txt").write_text("# nothing\n")
    cloud.tpu.environment["PYTHONPATH"] = sysconfig.get_paths()["purelib"]
    bare = ("launch.python=null", f"launch.constraints={cloud.directory}/exact.txt")
    path = stage(cloud.load(*bare, "train.num_steps=20"))
    assert supervise(path).state == "succeeded"
    text = cloud.lazytower("jobs", "logs", path)[0]
    work = cloud.directory / "machines" / f"{JobRecord(path).id}-1"
    assert f"--no-deps --requirement {work}/constraints.txt" in text
    assert f"$ {work}/venv/bin/python -m trainer.cli train" in text and "step 20/20" in text
    [installed] = work.glob("venv/lib/python*/site-packages/trainer/vm/program.py")
    assert installed.read_bytes() == pathlib.Path(vm.__file__).read_bytes()


@pytest.mark.slow
def test_a_bad_wheel_shows_its_log(cloud):
    wheel = cloud.directory / "lazytower-9.9-py3-none-any.whl"
    wheel.write_bytes(b"no wheel at all")
    path = stage(cloud.load(f"launch.wheel={wheel}"))
    assert supervise(path).state == "failed"
    shown = cloud.lazytower("jobs", "show", path)[0]
    assert "pip install" in shown and "failed with exit code 1" in shown
    assert "end of the log:" in shown and "lazytower-9.9-py3-none-any.whl" in shown
    assert cloud.history(path)[-2:] == ["stopping", "failed"] and len(cloud.tpu.started) == 1, "not retried"
    cloud.lazytower("jobs", "wait", path, code=1)


@pytest.mark.slow
def test_training_that_fails_ends_the_job_with_its_code(cloud):
    path = stage(cloud.load("dataset.path=gs://bucket/nothing"))
    state = supervise(path)
    assert (state.state, state.exit_code) == ("failed", 2)
    assert "no dataset here" in cloud.lazytower("jobs", "show", path)[0]
    cloud.lazytower("jobs", "wait", path, code=2)


@pytest.mark.slow
def test_cancel(cloud):
    endless = ("--set", "train.num_steps=1000000")
    path = cloud.lazytower("submit", "--config", cloud.config, *endless)[0].strip()
    wait_until(lambda: trains(cloud, path), what="for a checkpoint")
    _, log = cloud.lazytower("submit", "--config", cloud.config, code=2)
    assert f"output.path: job {JobRecord(path).id} writes gs://bucket/run" in log
    assert "no slice is left" in cloud.lazytower("jobs", "cancel", path)[0]
    assert cloud.tpu.left() == [] and cloud.history(path)[-2:] == ["stopping", "cancelled"]
    cloud.lazytower("jobs", "wait", path, code=130)
    cloud.lazytower("jobs", "cancel", path)
    assert cloud.history(path).count("cancelled") == 1


def test_cancel_without_a_supervisor(cloud):
    cloud.tpu.start_machines = False
    path = stage(cloud.load())
    assert supervise(path, steps=6).state in ("queued", "provisioning", "ready") and cloud.tpu.left()
    assert cancel(path).state == "cancelled"
    assert cloud.history(path)[-2:] == ["stopping", "cancelled"]


@pytest.mark.slow
def test_a_machine_without_a_sign_of_life_is_replaced(cloud):
    """The supervisor deletes it through an API that fails intermittently."""
    codes = grpc.StatusCode
    cloud.tpu.faults["DeleteQueuedResource"] = [
        *(Fault(codes.UNAVAILABLE), Fault(codes.DEADLINE_EXCEEDED, after=True))
    ]
    cloud.tpu.start_machines = False
    path = stage(cloud.load("launch.heartbeat_timeout_seconds=2", "launch.retries=1"))
    state = supervise(path)
    assert state.state == "failed" and "gave up after 2 attempts" in state.reason
    assert re.search(r"hung: the slice is up, but has sent no heartbeat for \d+ s", state.reason)
    assert cloud.history(path) == ["submitted", *UP, "preempted", *UP, "preempted", "stopping", "failed"]


@pytest.mark.slow
def test_a_request_that_fails_after_it_was_accepted(cloud):
    cloud.tpu.late_failure = status_pb2.Status(code=4, message="valid until expired")
    path = stage(cloud.load())
    state = supervise(path)
    assert state.state == "failed" and "not available within launch.valid_until_seconds" in state.reason
    cloud.tpu.late_failure = status_pb2.Status(code=8, message="no more capacity in the zone")
    path = stage(cloud.load("launch.retries=0"))
    state = supervise(path)
    assert state.state == "failed" and "no capacity now" in state.reason and "gave up" in state.reason


@pytest.mark.slow
def test_stopped_by_sigterm_and_started_again_by_the_machine_itself(cloud):
    """The trainer exits with code 75, as if something on the machine had stopped it."""
    path = stage(cloud.load())
    with held_back(cloud, lost=False):
        process = cloud.start("jobs", "supervise", path)
        wait_until(lambda: trains(cloud, path), what="for a checkpoint")
        [vm] = cloud.tpu.vms.values()
        children = psutil.Process(vm.process.pid).children(recursive=True)
        [trainer] = [child for child in children if "train" in child.cmdline()]
        trainer.send_signal(signal.SIGTERM)
    process.communicate(timeout=900)
    assert process.returncode == 0 and cloud.history(path).count("preempted") == 0
    assert "training stopped and saved; restart 1" in cloud.lazytower("jobs", "logs", path)[0]
    beat = json.loads(cloud.bucket.read(f"run/jobs/{JobRecord(path).id}/attempts/001/heartbeat.json"))
    assert beat["restarts"] == 1
    same_weights(cloud)


@pytest.mark.slow
def test_longer_than_max_seconds(cloud):
    for seconds in (9, 36, 144, 576):  # until the machine is fast enough to begin training in that time
        path = stage(cloud.load(f"launch.max_seconds={seconds}", "train.num_steps=1000000"))
        state = supervise(path)
        assert state.state == "failed" and state.reason == f"not done within launch.max_seconds {seconds}"
        if checkpoints(cloud):
            return
    raise AssertionError("training was not saved")
