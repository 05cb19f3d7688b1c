"""Runs on the machine of a job: installs, trains, restarts, and says how it goes. Standard library only.

The start-up script holds a copy of this file and of trainer/vm_files.py, so that the log arrives even when
nothing can be installed. It is given one argument, JSON; trainer/startup.py says what is in it. On a TPU
slice of several machines it runs on each: worker 0 trains and owns the job's files, others install and log.
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
import urllib.request
import uuid

from trainer.vm_files import TRIES, Bucket, Directory, Events, Log, Metadata, ask, patiently, say

RUN_AGAIN = 75  # the trainer's exit code when it was stopped and has saved
GRACE_SECONDS = 25.0  # a machine that is taken away has about 30 seconds
DEADLINE_GRACE_SECONDS = 600.0  # to save when launch.max_seconds is over, and nobody hurries


class Failed(Exception):
    """The job cannot go on; its text says why."""

    def __init__(self, text: str, exit_code: int = 1):
        super().__init__(text)
        self.exit_code = exit_code


class Machine:
    """One attempt of a job on this machine."""

    def __init__(self, spec: dict):
        self._spec, self._metadata = spec, Metadata()
        self._prefix = f"attempts/{spec['attempt']:03}"
        remote = spec["job"].startswith("gs://")
        self._files = Bucket(spec["job"], self._metadata) if remote else Directory(spec["job"])
        self.worker = self._metadata.worker() if spec["slice"] else 0
        log = os.path.join(spec["work"], "log.txt")
        self._log = Log(log, self._files, f"{self._prefix}/log/worker-{self.worker}-")
        self._deadline = time.monotonic() + spec["max_seconds"]
        self._events, self._given_up = Events(self._files, spec["attempt"]), False
        self._stopped, self._done = None, threading.Event()
        self._stage, self._restarts, self._beats, self._boot = "installing", 0, 0, uuid.uuid4().hex

    def run(self) -> int:
        """Installs and trains to an end, tells of it, and deletes the slice; the exit code."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        say(f"job {self._spec['job']}, attempt {self._spec['attempt']}, worker {self.worker}")
        threads = [threading.Thread(target=self._ship, daemon=True)]
        if self.worker == 0:
            threads.append(threading.Thread(target=self._beat, daemon=True))
        for thread in threads:
            thread.start()
        final = {"state": "succeeded", "exit_code": 0, "reason": ""}
        try:
            self._look_at_job()
            environment = self._install()
            if self.worker == 0:
                self._train(environment)
        except Failed as failure:
            final = {"state": "failed", "exit_code": failure.exit_code, "reason": str(failure)}
        except Exception as error:  # whatever it is, the slice must not stay
            traceback.print_exc()
            final = {"state": "failed", "exit_code": 1, "reason": f"{type(error).__name__}: {error}"}
        if self._stopped:
            say(f"stopped by {self._stopped}")  # who does so knows what comes next
        else:
            say(f"{final['state']} {final['reason']}".rstrip())
        self._done.set()
        for thread in threads:
            thread.join()
        return self._end(final)

    def _end(self, final: dict) -> int:
        if self._stopped or self.worker:
            self._last_log(tries=2)
            if self._given_up:
                self._leave()
            return 128 + signal.SIGTERM if self._stopped else final["exit_code"]
        # The outcome before the slice goes: who finds no slice looks for the outcome next.
        final |= {"log": [], "time": _now(), "progress": {}}
        with _reported("the end of the log is not in the outcome"):
            final |= {"log": self._log.last_lines(), "progress": self._log.latest_progress()}
        self._last_log(tries=TRIES)
        with _reported("the outcome could not be written"):
            patiently(lambda: self._files.put(f"{self._prefix}/final.json", _json(final)), "final.json", 9)
        if self._spec["slice"]:
            self._leave()
        return final["exit_code"]

    def _leave(self) -> None:
        with _reported("the slice could not be deleted from here; the supervisor will"):
            patiently(self._delete_slice, "deleting the slice")

    def _look_at_job(self) -> None:
        """Stops when the job has ended without this machine: a slice may come up after a cancellation, when
        no supervisor looks for it any more. A local process costs nothing, and is stopped by its launcher."""
        if self.worker or not self._spec["slice"] or self._stopped:
            return
        with _reported("the job's events could not be read"):
            if reason := self._events.end():
                self._stopped, self._given_up = reason, True

    def _last_log(self, tries: int) -> None:
        with _reported("the end of the log is not kept"):
            patiently(self._log.ship, "log", tries)

    def _on_signal(self, number, frame) -> None:
        self._stopped = signal.Signals(number).name

    def _install(self) -> dict:
        """Environment variables under which the wheel's trainer runs; also sets the interpreter."""
        spec, environment = self._spec["install"], dict(os.environ)
        self._python = self._spec["python"] or sys.executable
        if spec is None:
            return environment
        work = self._spec["work"]
        wheel = self._fetch(spec["wheel"])
        pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
        if self._spec["python"]:
            # Beside the interpreter's own packages, and before them: they stay as they are.
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

    def _fetch(self, name: str) -> str:
        path = os.path.join(self._spec["work"], name)
        content = patiently(lambda: self._files.get(name), name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def _run(self, command: list, environment: dict) -> None:
        code = self._call(command, environment)
        if code and not self._stopped:
            self._check_deadline(code)
            raise Failed(f"{' '.join(command)} failed with exit code {code}", code)

    def _check_deadline(self, code: int) -> None:
        """Raises Failed when a command was ended, with this code, because there is no more time."""
        if time.monotonic() > self._deadline:
            code = 128 - code if code < 0 else code
            raise Failed(f"not done after launch.max_seconds {self._spec['max_seconds']:g}", code)

    def _call(self, command: list, environment: dict) -> int:
        """Exit code of a command whose output goes to the log."""
        if self._stopped:
            return RUN_AGAIN
        say("$ " + shlex.join(command))
        child, until = subprocess.Popen(command, env=environment, cwd=self._spec["directory"]), math.inf
        while child.poll() is None:
            now = time.monotonic()
            if self._stopped or now > self._deadline:
                if until == math.inf:
                    child.terminate()  # once: a second signal would end the trainer before it has saved
                # The least: a machine that is saving at its deadline may be taken away too.
                until = min(until, now + (GRACE_SECONDS if self._stopped else DEADLINE_GRACE_SECONDS))
            if now > until:
                child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.5)
        return child.returncode

    def _train(self, environment: dict) -> None:
        self._stage, pause = "training", 1.0
        while not self._stopped:
            started = time.monotonic()
            code = self._call(self._trainer(), environment)
            if code == 0 or self._stopped:
                return
            self._check_deadline(code)
            if code < 0:
                name = signal.Signals(-code).name
                raise Failed(f"training was killed by {name}; SIGKILL: perhaps memory ran out", 128 - code)
            if code != RUN_AGAIN:
                raise Failed(f"training ended with exit code {code}", code)
            self._restarts += 1
            say(f"training stopped and saved; starting it again, the {self._restarts}. time")
            pause = 1.0 if time.monotonic() - started > 60 else min(2 * pause, 60.0)
            over = time.monotonic() + pause
            while time.monotonic() < over and not self._stopped:
                time.sleep(0.1)

    def _trainer(self) -> list[str]:
        start = self._spec.get("start", ["-m"])
        return [self._python, *start, "trainer.cli", *self._spec["train"]]

    def _ship(self) -> None:
        while not self._done.wait(self._spec["log_seconds"]):
            with _reported("log not copied, will be"):
                self._log.ship()

    def _beat(self) -> None:
        over = False
        while True:
            self._beats += 1
            beat = {"boot": self._boot, "count": self._beats, "time": _now(), "stage": self._stage}
            beat |= {"restarts": self._restarts, "progress": {}}
            with _reported("progress not read from the log"):
                beat["progress"] = self._log.latest_progress()
            with _reported("heartbeat not written"):
                self._files.put(f"{self._prefix}/heartbeat.json", _json(beat))
            if over:  # the last one is of the end
                return
            self._look_at_job()
            over = self._done.wait(self._spec["heartbeat_seconds"])

    def _delete_slice(self) -> None:
        slice_ = self._spec["slice"]
        host = os.environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU", "https://tpu.googleapis.com/")
        name = f"projects/{slice_['project']}/locations/{slice_['zone']}/queuedResources/{slice_['id']}"
        say("deleting the slice")
        self._last_log(tries=2)
        request = urllib.request.Request(
            f"{host.rstrip('/')}/v2/{name}?force=true",
            headers=self._metadata.authorization(),
            method="DELETE",
        )
        ask(request)


@contextlib.contextmanager
def _reported(what: str):
    """Goes on after any error, which is logged: none may end a training that works, or let a slice stay."""
    try:
        yield
    except OSError as error:
        say(f"{what}: {error}")
    except Exception:
        say(f"{what}: {traceback.format_exc()}")


def _json(document: dict) -> bytes:
    return json.dumps(document).encode()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def main() -> None:
    """Entry point: the log, in the working directory, takes all output of this process and its children."""
    spec = json.loads(sys.argv[1])
    os.makedirs(spec["work"], exist_ok=True)
    log = os.open(os.path.join(spec["work"], "log.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    machine = Machine(spec)
    sys.exit(machine.run())


if __name__ == "__main__":
    main()
