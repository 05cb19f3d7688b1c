"""The machine's program, run alone: log pieces, progress, retries, other workers, environments."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import urllib.error

import psutil
import pytest

from tests.support.fake_tpu import wait_until
from trainer.training.progress import Progress
from trainer.vm import files as vm_files
from trainer.vm import program as vm
from trainer.vm import slice as vm_slice
from trainer.vm.files import Directory, patiently
from trainer.vm.log import progress


def spec(tmp_path, **more) -> dict:
    job = tmp_path / "job"
    job.mkdir(exist_ok=True)
    work = str(tmp_path / "work")
    return {
        **{"job": str(job), "attempt": 1, "work": work, "directory": work, "python": None, "install": None},
        **{"slice": None, "train": ["--help"], "heartbeat_seconds": 0.2, "log_seconds": 0.2},
        **{"max_seconds": 900, **more},
    }


def run(told: dict, log: bool = True, **environment: str) -> tuple[int, dict | None, str]:
    """(exit code, final.json, log) of a machine with this specification."""
    done = subprocess.run(
        [sys.executable, "-m", "trainer.vm", json.dumps(told)],
        env={**os.environ, "GCE_METADATA_HOST": "127.0.0.1:9", **environment},
        timeout=900,
    )
    final = pathlib.Path(told["job"]) / "attempts" / "001" / "final.json"
    text = (pathlib.Path(told["work"]) / "log.txt").read_text() if log else ""
    return done.returncode, json.loads(final.read_text()) if final.exists() else None, text


def test_progress_is_read_from_the_trainer_s_own_lines(caplog):
    caplog.set_level("INFO")
    clock = iter([0.0, 0.0, 2.0, 4.0, 6.0, 8.0, 10.0])
    with Progress(30_000, stream=io.StringIO(), clock=lambda: next(clock), every_seconds=0) as shown:
        shown._examples_per_step = 4096
        shown.update(10_000, loss=2.5)
        shown.update(20_000, loss=1.25e-05)
    found = [progress(record.getMessage()) for record in caplog.records]
    assert found[-1]["step"] == 20_000 and found[-1]["total"] == 30_000
    assert found[-1]["loss"] == 1.25e-05 and found[-1]["examples_per_second"] > 1e6
    assert progress("checkpoint of step 12: full") == {} == progress("")
    assert progress("step 5/10 (50%)  loss nan")["loss"] != progress("step 5/10 (50%)  loss nan")["loss"]


def test_patience_has_an_end_and_none_with_what_will_not_pass(monkeypatch):
    pauses = []
    monkeypatch.setattr(vm_files.time, "sleep", pauses.append)

    def fail():
        raise OSError("no route")

    def forbid():
        raise urllib.error.HTTPError("http://x", 403, "Forbidden", {}, None)

    with pytest.raises(OSError, match="heart: no route"):
        patiently(fail, "heart", 4)
    assert pauses == [1, 2, 4]
    with pytest.raises(OSError, match="403"):
        patiently(forbid, "heart", 4)
    assert pauses == [1, 2, 4]


def test_the_first_worker_writes_the_job_s_files(tmp_path):
    code, final, log = run(spec(tmp_path))
    assert code == 0 and (final["state"], final["exit_code"]) == ("succeeded", 0)
    beat = json.loads((tmp_path / "job" / "attempts" / "001" / "heartbeat.json").read_text())
    assert beat["count"] >= 1 and beat["stage"] == "training"
    assert "usage: lazytower" in log and "usage: lazytower" in "".join(final["log"])


def test_other_workers_only_log(tmp_path):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Metadata(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path.endswith("/attributes/agent-worker-number")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"3")

    server = HTTPServer(("127.0.0.1", 0), Metadata)
    Thread(target=server.handle_request, daemon=True).start()
    slice_ = {"project": "p", "zone": "z", "id": "s"}
    address = f"127.0.0.1:{server.server_address[1]}"
    code, final, log = run(spec(tmp_path, slice=slice_), GCE_METADATA_HOST=address)
    server.server_close()
    assert code == 0 and final is None and "usage: lazytower" not in log and "worker 3" in log
    written = [str(p.relative_to(tmp_path / "job")) for p in (tmp_path / "job").rglob("*") if p.is_file()]
    assert written == ["attempts/001/log/worker-3-000000.txt"]


def test_a_worker_that_does_not_know_its_number_takes_none(monkeypatch):
    """If two machines believed to be the first, they would write the same files."""
    monkeypatch.setattr(vm_files.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    with pytest.raises(OSError, match="refused"):
        vm_files.Metadata().worker()

    def unknown(request, seconds):
        raise urllib.error.HTTPError("http://x", 404, "Not Found", {}, None)

    monkeypatch.setattr(vm_files, "ask", unknown)
    assert vm_files.Metadata().worker() == 0


def test_whatever_goes_wrong_is_told(tmp_path):
    """Without an outcome, a slice would stay until it counts as hung."""
    code, final, log = run(spec(tmp_path, train=None))
    assert code == 1 and final["state"] == "failed" and final["reason"].startswith("TypeError")
    assert "Traceback" in "".join(final["log"])


def interpreter(tmp_path, script: str) -> str:
    """Path of what stands in for the trainer's Python."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_trainer_that_is_killed(tmp_path):
    machine = quiet_machine(tmp_path, python=interpreter(tmp_path, "kill -9 $$"))
    final = machine._work()
    assert final["exit_code"] == 137 and final["state"] == "failed"
    assert final["reason"] == "training was killed by SIGKILL; after SIGKILL, suspect a lack of memory"


def put_events(directory: pathlib.Path, *events: tuple[str, int]) -> None:
    for number, (type_, attempt) in enumerate(events, 1):
        document = json.dumps({"type": type_, "attempt": attempt, "reason": "by the user"}).encode()
        Directory(str(directory)).put(f"events/{number:06}.json", document)


def test_events_tell_whether_the_machine_is_wanted(tmp_path):
    events = vm_files.Events(Directory(str(tmp_path)), 2)
    assert events.end() == ""
    asked = [("submitted", 0), ("requesting", 1), ("preempted", 1), ("requesting", 2)]
    put_events(tmp_path, *asked)
    assert events.end() == "" == events.end()
    put_events(tmp_path, *asked, ("stopping", 2))
    assert events.end() == "the job's record: stopping by the user"
    assert vm_files.Events(Directory(str(tmp_path)), 1).end() == "the job's record: attempt 2 has begun"


def test_a_machine_that_comes_up_after_the_end_installs_nothing_and_deletes_its_slice(tmp_path, monkeypatch):
    told = spec(tmp_path, slice={"project": "p", "zone": "z", "id": "s"})
    os.makedirs(told["work"])
    put_events(tmp_path / "job", ("submitted", 0), ("requesting", 1), ("stopping", 1), ("cancelled", 1))
    asked = []

    def ask(request, seconds=60):
        asked.append((request.get_method(), request.full_url.rpartition("/v2/")[2]))
        return b'{"access_token": "t", "expires_in": 3600}' if request.full_url.endswith("token") else b"0"

    monkeypatch.setattr(vm_files, "ask", ask)
    monkeypatch.setattr(vm_slice, "ask", ask)
    monkeypatch.setattr(vm.signal, "signal", lambda *_: None)
    monkeypatch.setattr(vm.subprocess, "Popen", lambda *_, **__: pytest.fail("nothing may be started"))
    assert vm.Machine(told).run() == 143
    assert asked[-1] == ("DELETE", "projects/p/locations/z/queuedResources/s?force=true")
    assert not (tmp_path / "job" / "attempts" / "001" / "final.json").exists()


@pytest.mark.parametrize("loss", ["-", "1.2.3", "abc", "+", "1e", "nano", "0x10", "1_0", "1e99999"])
def test_what_is_no_loss_is_left_out(loss):
    assert progress(f"step 5/10 (50%)  loss {loss}  7 examples/s") in (
        {"step": 5, "total": 10},
        {"step": 5, "total": 10, "examples_per_second": 7.0},
    )


def test_what_is_no_step_is_no_progress():
    for line in ("step ,/,", "step ٣/٤", "step 1/,", f"step 1/x{'9' * 5000}"):
        assert progress(line) == {}
    assert progress("step 5/10  loss inf")["loss"] == float("inf")
    assert progress("step 5/1,000  loss -1.5e-05  1,234 examples/s") == {
        **{"step": 5, "total": 1000, "loss": -1.5e-05, "examples_per_second": 1234.0}
    }


def quiet_machine(tmp_path, **more) -> vm.Machine:
    told = spec(tmp_path, **more)
    os.makedirs(told["work"])
    machine = vm.Machine(told)
    machine._find_worker()
    return machine


def test_an_error_of_one_part_leaves_the_others(tmp_path, monkeypatch, capsys):
    """The heartbeat and the outcome arrive without the log's end, and the error is reported."""
    machine = quiet_machine(tmp_path)

    def fail():
        raise ValueError("a strange line")

    monkeypatch.setattr(machine._log, "latest_progress", fail)
    machine._done.set()
    machine._beat()
    final = {"state": "failed", "exit_code": 3, "reason": "r"}
    machine._report(dict(final), None)
    written = tmp_path / "job" / "attempts" / "001"
    assert json.loads((written / "heartbeat.json").read_text())["progress"] == {}
    assert final.items() <= json.loads((written / "final.json").read_text()).items()
    assert capsys.readouterr().out.count("ValueError: a strange line") == 3, "two beats and the end"


@pytest.mark.parametrize("answer", ["no json", "[]", '{"expires_in": 1}', '{"access_token": "t"}'])
def test_a_token_that_is_none_may_be_asked_for_again(answer, monkeypatch):
    metadata = vm_files.Metadata()
    monkeypatch.setattr(vm_files.Metadata, "get", lambda self, name: answer)
    with pytest.raises(OSError, match="the metadata server's token is invalid"):
        metadata.authorization()


def test_an_installation_that_takes_too_long_is_called_so(tmp_path):
    machine = quiet_machine(tmp_path)
    machine._began = -1e9
    with pytest.raises(vm.Failed, match="^not done within launch.max_seconds 900$") as caught:
        machine._run([sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ))
    assert caught.value.exit_code == 128 + signal.SIGTERM


SAVES_SLOWLY = """
import signal, sys, time
def save(*_):
    open("saving", "w").close()
    time.sleep(float(sys.argv[1]))
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
open("ready", "w").close()
while True:
    time.sleep(0.05)
"""


@pytest.mark.parametrize(("stopped", "seconds", "code"), [(False, "1", 75), (True, "600", -9)])
def test_at_the_deadline_there_is_more_time_to_save_than_at_a_preemption(
    stopped, seconds, code, tmp_path, monkeypatch
):
    monkeypatch.setattr(vm, "GRACE_SECONDS", 0.1)
    machine = quiet_machine(tmp_path)

    def events():
        wait_until((tmp_path / "work" / "ready").exists)
        machine._began = -1e9
        wait_until((tmp_path / "work" / "saving").exists)
        machine._stopped = "SIGTERM" if stopped else None

    thread = threading.Thread(target=events)
    thread.start()
    assert machine._call([sys.executable, "-c", SAVES_SLOWLY, seconds], dict(os.environ)) == code
    thread.join()


def test_a_trainer_ends_with_its_machine(tmp_path):
    """The kernel's out-of-memory killer may end one without the other."""
    told = spec(tmp_path, python=interpreter(tmp_path, f"exec {sys.executable} -c '{SAVES_SLOWLY}' 0"))
    process = subprocess.Popen([sys.executable, "-m", "trainer.vm", json.dumps(told)])
    wait_until((tmp_path / "work" / "ready").exists)
    [trainer] = psutil.Process(process.pid).children()
    assert trainer.environ()[vm.PROCESS_MARK] == f"child 1 {told['job']}"
    process.kill()
    process.wait()
    wait_until((tmp_path / "work" / "saving").exists, what="for the trainer to be asked to save")
    trainer.wait(60)


def test_without_a_directory_for_its_log_a_machine_runs(tmp_path):
    """As with a full disk: the outcome arrives."""
    (tmp_path / "file").touch()
    code, final, _ = run(spec(tmp_path, work=f"{tmp_path}/file/work", directory=str(tmp_path)), log=False)
    assert code == 0 and final["state"] == "succeeded"
    assert "usage: lazytower" in "".join(final["log"])


class Api:
    """The metadata server and the API's HTTP side, with a queued resource and a node that go when deleted.

    Args:
      answers: errors to give first, by method of the API.
    """

    def __init__(self, monkeypatch, labels=None, resource=True, node=True, **answers):
        labels = {"lazytower-job": "one"} if labels is None else labels
        self.there = (
            {"queuedResources": {"tpu": {"nodeSpec": [{"node": {"labels": labels}}]}}} if resource else {}
        )
        self.there |= {"nodes": {"labels": labels, "state": "READY"}} if node else {}
        self.answers, self.deleted, self.tokens, self.slept = answers, [], 0, 0.0
        monkeypatch.setattr(vm_files, "ask", self.ask)
        monkeypatch.setattr(vm_slice, "ask", self.ask)
        monkeypatch.setattr(vm_slice.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        assert self.slept < 1e6, "it never stops"

    def ask(self, request, seconds=60):
        if request.full_url.endswith("token"):
            self.tokens += 1
            return b'{"access_token": "t", "expires_in": 3600}'
        method, kind = request.get_method(), request.full_url.split("/")[-2]
        if self.answers.get(method):
            raise urllib.error.HTTPError("http://x", self.answers[method].pop(0), "injected", {}, None)
        if kind not in self.there:
            raise urllib.error.HTTPError("http://x", 404, "Not Found", {}, None)
        if method == "DELETE":
            assert request.full_url.endswith("?force=true") == (kind == "queuedResources")
            self.deleted.append(kind)
            self.there.pop(kind)
            self.there.pop("nodes", None)
        return json.dumps(self.there.get(kind, {})).encode()


SLICE = {"project": "p", "zone": "z", "id": "one-1", "labels": {"lazytower-job": "one"}, "hosts": 1}


@pytest.mark.parametrize("code", [400, 401, 403, 408, 409, 412, 429, 499, 500, 501, 502, 503, 504])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_slice_is_deleted_whatever_the_service_answers_first(method, code, monkeypatch):
    api = Api(monkeypatch, **{method: [code] * 12})
    vm_slice.Slice(SLICE, vm_files.Metadata()).delete()
    assert api.there == {} and api.deleted == ["queuedResources"]
    assert (api.tokens > 5) == (code == 401), "a token that is not accepted is asked for again"


def test_a_node_that_outlives_its_queued_resource_is_deleted(monkeypatch):
    api = Api(monkeypatch, resource=False)
    vm_slice.Slice(SLICE, vm_files.Metadata()).delete()
    assert api.deleted == ["nodes"]


@pytest.mark.parametrize("resource", [True, False])
def test_a_slice_of_others_is_never_deleted(resource, monkeypatch):
    api = Api(monkeypatch, labels={"lazytower-job": "another"}, resource=resource)
    vm_slice.Slice(SLICE, vm_files.Metadata()).delete()
    assert api.deleted == [] and api.there


def test_the_slice_is_deleted_when_nothing_else_works(tmp_path, monkeypatch):
    """Neither log nor outcome can be written."""
    api = Api(monkeypatch)
    machine = vm.Machine(spec(tmp_path, slice=SLICE))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Directory, "put", full)
    monkeypatch.setattr(vm_files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(vm.signal, "signal", lambda *_: None)
    monkeypatch.setattr(machine, "_train", full)
    monkeypatch.setattr("builtins.print", full)
    assert machine.run() == 1 and api.there == {}


def test_a_metadata_server_that_is_late_is_waited_for(tmp_path, monkeypatch):
    machine, answers = vm.Machine(spec(tmp_path, slice={**SLICE, "hosts": 4})), [OSError("503")] * 9 + [3]

    def worker():
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(machine._metadata, "worker", worker)
    monkeypatch.setattr(machine, "_pause", lambda seconds: None)
    machine._find_worker()
    assert machine.worker == 3 and answers == []


def test_unreadable_events_are_passed_over(tmp_path):
    put_events(tmp_path, ("submitted", 0), ("requesting", 1), ("cancelled", 1))
    for content in (b"", b"[1]", b'{"type"'):
        Directory(str(tmp_path)).put("events/000002.json", content)
        assert vm_files.Events(Directory(str(tmp_path)), 1).end() == "the job's record: cancelled by the user"
