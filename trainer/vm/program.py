"""Runs on the machine of a job: installs, trains, restarts and reports. Standard library only.

The start-up script holds a copy of trainer/vm, so that the log arrives even when nothing can be installed.
The one argument is the JSON that trainer/launchers/startup.py describes. On a TPU slice of several machines
this runs on each: worker 0 trains and owns the job's files, the others install and log. `hosts` rehearses a
cluster: workers in processes of this machine.
"""

import contextlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from types import FrameType
from typing import Any

from trainer.vm.files import TRIES, Bucket, Directory, Events, Metadata, patiently, say
from trainer.vm.hosts import Workers
from trainer.vm.log import JobFiles, Log
from trainer.vm.slice import Slice

RUN_AGAIN = 75  # the trainer's exit code after it was stopped and saved
GRACE_SECONDS = 25.0  # a preempted machine has about 30 seconds
DEADLINE_GRACE_SECONDS = 600.0  # to save after launch.max_seconds
# Environment variable by which a local job's processes are found: trainer/launchers/processes.py.
PROCESS_MARK = "LAZYTOWER_PROCESS"
_LONGEST_PAUSE, _JOIN_SECONDS = 60.0, 120.0
_PUMP_SECONDS = 5.0  # for a child's last output; its own children may keep the pipe open
# Starts a command that gets SIGTERM when this process dies, since nothing would supervise it. It takes a
# process of its own: no code may run between fork and exec while other threads run.
_BOUND = """
import ctypes, os, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
try:
    ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGTERM
except (OSError, AttributeError):
    pass  # not Linux
if os.getppid() == parent:
    os.execvp(command[0], command)
"""


class Failed(Exception):
    """The job cannot continue; the text says why."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Machine:
    """One attempt of a job on this machine."""

    def __init__(self, spec: dict[str, Any], log: Log | None = None) -> None:
        self._spec, self._metadata = spec, Metadata()
        self._prefix = f"attempts/{spec['attempt']:03}"
        remote = spec["job"].startswith("gs://")
        self._files: JobFiles = Bucket(spec["job"], self._metadata) if remote else Directory(spec["job"])
        self._log = log or Log(os.path.join(spec["work"], "log.txt"))
        self._log.files = self._files
        self._began = time.monotonic()
        self._events, self._given_up = Events(self._files, spec["attempt"]), False
        self._stopped: str | None = None
        self._done = threading.Event()
        self._stage, self._restarts, self._beats, self._boot = "installing", 0, 0, uuid.uuid4().hex
        self.worker: int | None = None
        self._threads: list[threading.Thread] = []

    def run(self) -> int:
        """Installs, trains, reports the outcome and deletes the slice; returns the exit code."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        final: dict[str, Any] = {"state": "failed", "exit_code": 1, "reason": "ended early"}
        stopped = None
        try:
            final = self._work()
            stopped = self._stopped  # a later signal changes nothing
            self._end_threads()
            self._report(final, stopped)
        finally:
            # What stopped this machine looks after the slice, unless the job has ended meanwhile.
            if self._spec["slice"] and self.worker == 0 and (self._given_up or not stopped):
                self._leave()
        return int(128 + signal.SIGTERM if stopped else final["exit_code"])

    def leave(self) -> None:
        """Deletes the slice after this program was killed."""
        self._find_worker()
        if self._spec["slice"] and self.worker == 0:
            say("the job's program was killed")
            self._leave()

    def _work(self) -> dict[str, Any]:
        """Trains to an end; returns the outcome as final.json states it."""
        final: dict[str, Any] = {"state": "succeeded", "exit_code": 0, "reason": ""}
        try:
            self._find_worker()
            say(f"job {self._spec['job']}, attempt {self._spec['attempt']}, worker {self.worker}")
            self._start_threads()
            self._look_at_job()
            environment = self._install()
            if self.worker == 0:
                self._train(environment)
        except Failed as failure:
            final = {"state": "failed", "exit_code": failure.exit_code, "reason": str(failure)}
        except Exception as error:  # after any error the slice must be deleted
            say(traceback.format_exc())
            final = {"state": "failed", "exit_code": 1, "reason": f"{type(error).__name__}: {error}"}
        if self._stopped:
            say(f"stopped by {self._stopped}")
        else:
            say(f"{final['state']} {final['reason']}".rstrip())
        return final

    def _start_threads(self) -> None:
        targets = (self._ship, self._beat) if self.worker == 0 else (self._ship,)
        for target in targets:
            thread = threading.Thread(target=target, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _end_threads(self) -> None:
        """Sends the last heartbeat; does not wait for a hanging thread, since the slice is billed."""
        self._done.set()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def _find_worker(self) -> None:
        """Waits for the metadata server, which gives the worker's number and tokens."""
        slice_, pause = self._spec["slice"], 1.0
        self.worker = 0 if not slice_ or slice_.get("hosts") == 1 else None
        while self.worker is None and not self._stopped:
            try:
                self.worker = self._metadata.worker()
            except OSError as error:
                say(f"metadata server: {error}; retrying")
                self._pause(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._log.prefix = f"{self._prefix}/log/worker-{self.worker or 0}-"

    def _pause(self, seconds: float) -> None:
        over = time.monotonic() + seconds
        while time.monotonic() < over and not self._stopped:
            time.sleep(0.1)

    def _report(self, final: dict[str, Any], stopped: str | None) -> None:
        """Writes the outcome before the slice goes: a supervisor without a slice reads the outcome."""
        if stopped or self.worker:
            self._last_log(tries=2)
            return
        final |= {"log": [], "time": _now(), "progress": {}}
        with _reported("the end of the log is not in the outcome"):
            final |= {"log": self._log.last_lines(), "progress": self._log.latest_progress()}
        self._last_log(tries=TRIES)
        with _reported("the outcome cannot be written"):
            patiently(lambda: self._files.put(f"{self._prefix}/final.json", _json(final)), "final.json", 9)

    def _leave(self) -> None:
        with _reported("the slice cannot be deleted from here; the supervisor will"):
            say("deleting the slice")
            self._last_log(tries=2)
            Slice(self._spec["slice"], self._metadata).delete()

    def _look_at_job(self) -> None:
        """Stops when the job has ended without this machine: a slice may come up after a cancellation, when
        no supervisor looks for it."""
        if self.worker or self._stopped:
            return
        with _reported("the job's events cannot be read"):
            if reason := self._events.end():
                self._stopped, self._given_up = reason, True

    def _last_log(self, tries: int) -> None:
        with _reported("the end of the log is not kept"):
            patiently(self._log.ship, "log", tries)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopped = signal.Signals(number).name

    def _install(self) -> dict[str, str]:
        """Installs the wheel and sets the interpreter; returns the trainer's environment variables."""
        spec, environment = self._spec["install"], self._environment()
        self._python = self._spec["python"] or sys.executable
        if spec is None:
            return environment
        work = self._spec["work"]
        wheel = self._fetch(spec["wheel"])
        pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
        if self._spec["python"]:
            # In a directory before the interpreter's own packages, which stay unchanged.
            site = os.path.join(work, "site")
            self._run([self._python, *pip, "--upgrade", "--target", site, wheel], environment)
            known = environment.get("PYTHONPATH")
            return {**environment, "PYTHONPATH": site + (os.pathsep + known if known else "")}
        self._run([sys.executable, "-m", "venv", os.path.join(work, "venv")], environment)
        self._python = os.path.join(work, "venv", "bin", "python")
        exact = self._fetch(spec["constraints"])
        self._run([self._python, *pip, "--requirement", exact], environment)
        self._run([self._python, *pip, "--force-reinstall", wheel], environment)
        return environment

    def _environment(self) -> dict[str, str]:
        """Environment variables of all children, which mark them as part of the job."""
        mark = f"child {self._spec['attempt']} {self._spec['job']}"
        return {**os.environ, PROCESS_MARK: mark}

    def _fetch(self, name: str) -> str:
        path = os.path.join(self._spec["work"], name)
        content = patiently(lambda: self._files.get(name), name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def _run(self, command: list[str], environment: dict[str, str]) -> None:
        code = self._call(command, environment)
        if code and not self._stopped:
            self._check_deadline(code)
            raise Failed(f"{' '.join(command)} failed with exit code {code}", code)

    def _check_deadline(self, code: int) -> None:
        """Raises Failed when a command ended, with this code, because launch.max_seconds is over."""
        if self._is_late():
            code = 128 - code if code < 0 else code
            raise Failed(f"not done within launch.max_seconds {self._spec['max_seconds']:g}", code)

    def _is_late(self) -> bool:
        return bool(time.monotonic() > self._began + self._spec["max_seconds"])

    def _call(self, command: list[str], environment: dict[str, str], workers: Workers | None = None) -> int:
        """Runs a command with its output in the log; returns its exit code. It is stopped early when one of
        its workers fails."""
        if self._stopped:
            return RUN_AGAIN
        say("$ " + shlex.join(command))
        child, until = self._start(command, environment), math.inf
        pump = threading.Thread(target=self._log.pump, args=(child.stdout,), daemon=True)
        pump.start()
        while child.poll() is None:
            now = time.monotonic()
            if self._stopped or self._is_late() or (workers and workers.failure()):
                if until == math.inf:
                    child.terminate()  # once: a second signal would end the trainer before it saves
                # The earlier one: a machine that saves at its deadline may be preempted too.
                until = min(until, now + (GRACE_SECONDS if self._stopped else DEADLINE_GRACE_SECONDS))
            if now > until:
                child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.5)
        pump.join(_PUMP_SECONDS)
        return child.returncode

    def _start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Starts a child that does not outlive this process, with its output in a pipe."""
        bound = [sys.executable, "-I", "-c", _BOUND, str(os.getpid()), *command]
        directory, output = self._spec["directory"], subprocess.PIPE
        return subprocess.Popen(
            bound, env=environment, cwd=directory, stdout=output, stderr=subprocess.STDOUT
        )

    def _train(self, environment: dict[str, str]) -> None:
        self._stage, pause = "training", 1.0
        while not self._stopped:
            started = time.monotonic()
            code, failure = self._train_once(environment)
            if code == 0 or self._stopped:
                return
            self._check_deadline(code)
            if failure:
                raise Failed(*failure)
            if code < 0:
                name = signal.Signals(-code).name
                raise Failed(
                    f"training was killed by {name}; after SIGKILL, suspect a lack of memory", 128 - code
                )
            if code != RUN_AGAIN:
                raise Failed(f"training ended with exit code {code}", code)
            self._restarts += 1
            say(f"training stopped and saved; restart {self._restarts}")
            pause = 1.0 if time.monotonic() - started > 60 else min(2 * pause, 60.0)
            self._pause(pause)

    def _train_once(self, environment: dict[str, str]) -> tuple[int, tuple[str, int] | None]:
        """Runs the trainer and its workers; returns its exit code, and which worker has failed."""

        def start(more: dict[str, str]) -> "subprocess.Popen[bytes]":
            return self._start(self._cli(*self._spec["work_as"]), environment | more)

        workers = Workers(self._spec.get("hosts", 1), start, self._log)
        try:
            code = self._call(self._cli(*self._spec["train"]), environment | workers.begin(), workers)
            return code, workers.failure()
        finally:
            workers.end()

    def _cli(self, *words: str) -> list[str]:
        return [self._python, *self._spec.get("start", ["-m"]), "trainer.cli", *words]

    def _ship(self) -> None:
        while not self._done.wait(self._spec["log_seconds"]):
            with _reported("the log is not copied yet"):
                self._log.ship()

    def _beat(self) -> None:
        over = False
        while True:
            self._beats += 1
            beat = {"boot": self._boot, "count": self._beats, "time": _now(), "stage": self._stage}
            beat |= {"restarts": self._restarts, "progress": {}, "up_seconds": time.monotonic() - self._began}
            with _reported("the log's progress cannot be read"):
                beat["progress"] = self._log.latest_progress()
            with _reported("the heartbeat cannot be written"):
                self._files.put(f"{self._prefix}/heartbeat.json", _json(beat))
            if over:  # this was the last heartbeat
                return
            self._look_at_job()
            over = self._done.wait(self._spec["heartbeat_seconds"])


@contextlib.contextmanager
def _reported(what: str) -> Iterator[None]:
    """Logs any error and continues: none may end a working training, or leave a slice behind."""
    try:
        yield
    except OSError as error:
        say(f"{what}: {error}")
    except Exception:
        say(f"{what}: {traceback.format_exc()}")


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def main() -> None:
    """Entry point: all output of this process and its children goes to the log."""
    sys.exit(_machine().run())


def leave() -> None:
    """Entry point after the program was killed: nothing else on this machine would delete the slice."""
    _machine().leave()


def _machine() -> Machine:
    spec = json.loads(sys.argv[1])
    with contextlib.suppress(OSError):
        os.makedirs(spec["work"], exist_ok=True)
    log = Log(os.path.join(spec["work"], "log.txt"))
    sys.stdout = sys.stderr = log
    return Machine(spec, log)
