"""A simulated world for jobs: the product's supervisor, launchers and machine program on a virtual clock.

Processes are threads that run one at a time and hand over whenever they sleep, ask a service or touch a
shared file. So a run depends on its seed alone, hours take a moment, and a process can be killed between any
two of its effects: a killed one raises `Killed` at once and at every effect that its unwinding would have.
"""

import contextlib
import errno
import io
import json
import random
import shlex
import signal
import threading
import time
import types
import urllib.error
from collections.abc import Callable

import grpc
from google.api_core import exceptions
from google.auth import exceptions as auth
from google.cloud import tpu_v2 as tpu

from tests.support.fake_tpu import _METHODS, STATES, TOKEN, FakeTpu, _node, _resource

MIN_SLEEP = 2.0  # shorter sleeps, as in loops that watch something, would only cost time
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
# What comes instead of an answer, beside the codes.
ODD_ERRORS = (
    lambda: auth.TransportError("connection reset"),
    lambda: auth.RefreshError("Reauthentication is needed"),
    lambda: exceptions.ServiceUnavailable("Getting metadata from plugin failed with error: invalid_grant"),
    lambda: exceptions.RetryError("timeout", None),
    lambda: ConnectionResetError("by peer"),
    lambda: RuntimeError("of a kind that nobody expects"),
)
HTTP_CODES = (400, 401, 403, 404, 408, 409, 429, 500, 502, 503, 504)


class Killed(BaseException):
    """The process is dead."""


class Process:
    """Threads that die together.

    Args:
      skew: by which its host's clock is wrong, in seconds.
      mark: (job, attempt, is_machine) of a local job's process.
    """

    def __init__(self, world: "World", main: Callable, skew: float = 0.0, mark: tuple | None = None):
        self.world, self.skew, self.mark = world, skew, mark
        self.pid, self.killed, self.handlers = next(world.pids), False, {}
        self.children: list[Child] = []
        self.when_killed: Callable = lambda: None
        self.result, self.threads = None, []
        world.processes.append(self)
        self.start(lambda: setattr(self, "result", main()))

    def start(self, target: Callable) -> "Actor":
        """One more thread."""
        actor = Actor(self, target)
        self.threads.append(actor)
        return actor

    @property
    def alive(self) -> bool:
        return not self.killed and not self.threads[0].ended

    def kill(self, quietly: bool = False) -> None:
        """SIGKILL, or power off (quietly: unrecorded)."""
        if not self.alive:
            return
        self.killed = True
        for actor in self.threads:
            self.world.unwind(actor)
        for child in self.children:
            child.parent_died(quietly)
        if not quietly:
            self.when_killed()

    def terminate(self) -> None:
        """SIGTERM."""
        if signal.SIGTERM in self.handlers:
            self.handlers[signal.SIGTERM](signal.SIGTERM, None)
        else:
            self.kill()


class Actor:
    """One thread of a process, which runs when it is given the turn."""

    def __init__(self, process: Process, target: Callable):
        self.process, self.wake, self.ended = process, process.world.now, False
        self.turn, self.back, self.error = threading.Semaphore(0), process.world.back, None
        self._target = target
        process.world.actors.append(self)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        world = self.process.world
        self.turn.acquire()
        world.local.actor = self
        try:
            if not self.process.killed:
                self._target()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.ended = True
        self.back.release()


class Child:
    """A trainer, as subprocess.Popen shows it: it saves now and then, and at SIGTERM."""

    def __init__(self, world: "World", command: list, env=None, **unused):
        self.world, self.command, self.returncode = world, command, None
        self.bound = any("prctl" in word for word in command)
        self.began, self.ends, self.code = world.now, None, None
        owner = world.local.actor.process
        owner.children.append(self)
        self.mark = owner.mark and (*owner.mark[:2], False)
        self.lines, self.stdout, self.pid = 0, self, next(world.pids)
        self.start_step = world.saved
        if "pip" in command:
            self.returncode = 0
            return
        if world.training():  # the run's lock
            self.returncode = 2
        world.trainers.append(self)

    def step(self) -> int:
        return self.start_step + int(self.world.now - self.began)

    def poll(self) -> int | None:
        if self.returncode is None:
            world = self.world
            world.saved = max(world.saved, self.step() // 300 * 300)
            if self.ends is not None and world.now >= self.ends:
                world.saved = max(world.saved, self.step())
                self.returncode = self.code
            elif self.step() >= world.num_steps:
                world.saved, self.returncode = world.num_steps, world.outcome
        return self.returncode

    def wait(self, timeout: float) -> int | None:
        self.world.pause(20.0)
        return self.poll()

    def terminate(self) -> None:
        if self.ends is None:
            self.ends, self.code = self.world.now + 5.0, 75

    def kill(self) -> None:
        if self.poll() is None:
            self.returncode = -9

    def parent_died(self, quietly: bool) -> None:
        if quietly:
            self.kill()
        elif self.bound:
            self.terminate()

    def read1(self, size: int) -> bytes:
        """A line of its output."""
        while self.poll() is None:
            self.world.pause(120.0)
            saved, step = self.world.saved, self.step()
            line = f"checkpoint of step {saved}: full\nstep {step}/{self.world.num_steps} (1%)  loss 0.5\n"
            return line.encode()
        return b""


class World:
    """Services, machines and processes.

    Attributes:
      now: seconds since its beginning.
      saved: newest step that the run has saved.
      storm: probability that a call or a file fails.
      full: whether the machines' disks are full.
    """

    def __init__(self, seed: int):
        self.draw, self.now, self.storm, self.full = random.Random(seed), 0.0, 0.0, False
        self.pids = iter(range(1000, 10**9))
        self.processes: list[Process] = []
        self.actors: list[Actor] = []
        self.trainers: list[Child] = []
        self.saved, self.num_steps, self.outcome = 0, 1800, 0
        self.back, self.local = threading.Semaphore(0), threading.local()
        self.tpu = SimulatedTpu(self)
        self.http_calls: list[tuple[str, str]] = []

    # The turn.

    def pause(self, seconds: float = 0.0) -> None:
        """The calling process hands over for that many seconds."""
        actor = getattr(self.local, "actor", None)
        if actor is None:  # the test itself
            return
        if not actor.process.killed:
            actor.wake = self.now + seconds
            actor.back.release()
            actor.turn.acquire()
        if actor.process.killed:
            raise Killed

    def unwind(self, actor: Actor) -> None:
        """Lets a killed thread come to its end. The caller may be of another process, or of none."""
        if not actor.ended and actor is not getattr(self.local, "actor", None):
            actor.back = threading.Semaphore(0)  # to here, not to `run`
            actor.turn.release()
            actor.back.acquire()

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Lets time pass; whether `until` came true."""
        end = self.now + seconds
        while not until():
            self.actors = [actor for actor in self.actors if not actor.ended]
            ready = [actor for actor in self.actors if actor.wake <= self.now]
            if not ready:
                coming = min((actor.wake for actor in self.actors), default=float("inf"))
                if coming > end:
                    self.now = end
                    return until()
                self.now = coming
                continue
            actor = self.draw.choice(ready)
            actor.turn.release()
            self.back.acquire()
            if actor.error is not None:
                raise actor.error
        return True

    def end(self) -> None:
        """Time stands still."""
        for process in self.processes:
            process.kill(quietly=True)

    # What is there.

    def training(self) -> int:
        """Trainers that are alive."""
        return sum(child.poll() is None for child in self.trainers)

    def left(self) -> list:
        """What is still billed, or running."""
        machines = [process for process in self.processes if process.alive and process.mark]
        trainers = [child for child in self.trainers if child.poll() is None]
        return [*self.tpu.resources, *self.tpu.nodes, *machines, *trainers]

    def local_processes(self, job: str) -> list:
        """As trainer.launchers.processes.job_processes."""
        from trainer.launchers.processes import Process as Found

        self.pause()
        machines = [(p.pid, p.mark) for p in self.processes if p.alive and p.mark]
        trainers = [(c.pid, c.mark) for c in self.trainers if c.poll() is None and c.mark]
        return [Found(pid, mark[1], mark[2]) for pid, mark in machines + trainers if mark[0] == job]

    def signal(self, pid: int, number: int) -> None:
        """As os.kill."""
        self.pause()
        for found in (*self.processes, *self.trainers):
            if found.pid == pid:
                return found.terminate() if number == signal.SIGTERM else found.kill()
        raise ProcessLookupError

    # Faults.

    def fails(self) -> bool:
        return self.draw.random() < self.storm

    def call(self, name: str, request: dict):
        """A call of the API's client."""
        self.pause(self.draw.choice([0.0, 0.0, 1.0, 70.0] if self.storm else [0.0]))
        fault = self._fault() if self.fails() else None
        if fault is not None and self.draw.random() < 0.6:
            raise fault
        answer = getattr(self.tpu, name)(_METHODS[name](**request), self.tpu)
        self.pause()
        if fault is not None:  # after it has acted
            raise fault
        return answer

    def _fault(self) -> Exception:
        if self.draw.random() < 0.2:
            return self.draw.choice(ODD_ERRORS)()
        return exceptions.from_grpc_status(self.draw.choice(CODES), "injected")

    def ask(self, request, seconds: float = 60) -> bytes:
        """The machine's requests: its metadata server, and the API's GET and DELETE over HTTP."""
        self.pause()
        url, method = request.full_url, request.get_method()
        self.http_calls.append((method, url))
        if self.fails():
            if self.draw.random() < 0.3:
                raise TimeoutError("timed out")
            raise urllib.error.HTTPError(url, self.draw.choice(HTTP_CODES), "injected", {}, io.BytesIO())
        if url.endswith("/token"):
            return json.dumps({"access_token": TOKEN, "expires_in": 3599}).encode()
        if "agent-worker-number" in url:
            return b"0"
        assert request.get_header("Authorization") == f"Bearer {TOKEN}"
        name = url.partition("/v2/")[2].partition("?")[0]
        found = self.tpu.resources.get(name) or self.tpu.nodes.get(name)
        if found is None:
            raise urllib.error.HTTPError(url, 404, "Not Found", {}, io.BytesIO())
        if method == "DELETE":
            self.tpu._delete(_resource(name))
            return b"{}"
        return json.dumps(_camel(found)).encode()

    def shaken(self, action: Callable, full: Callable[[], bool] = lambda: False) -> Callable:
        """A function on shared files that fails now and then, and while the disk is full."""

        def shaking(*args, **kwargs):
            self.pause()
            if getattr(self.local, "actor", None) is not None:
                if full():
                    raise OSError(errno.ENOSPC, "No space left on device")
                if self.fails():
                    raise OSError(errno.EIO, "injected")
            return action(*args, **kwargs)

        return shaking


def _camel(found) -> dict:
    """The fields that a machine looks at, as REST names them."""
    if isinstance(found, tpu.QueuedResource):
        specs = [{"node": {"labels": dict(spec.node.labels)}} for spec in found.tpu.node_spec]
        return {"tpu": {"nodeSpec": specs}, "state": {"state": found.state.state.name}}
    return {"labels": dict(found.labels), "state": found.state.name}


class SimulatedTpu(FakeTpu):
    """The service without a network, whose machines run trainer.vm.program in the world."""

    def __init__(self, world: World):
        self.world, self.resources, self.nodes, self.machines = world, {}, {}, {}
        self.vms, self._known, self.late_failure, self.started = {}, {}, None, []
        self.start_machines, self.lock = False, threading.RLock()

    def abort(self, code, message):
        raise exceptions.from_grpc_status(code, message)

    def _provide(self, resource) -> None:
        super()._provide(resource)
        [spec] = resource.tpu.node_spec
        script = spec.node.metadata["startup-script"]
        told = json.loads(shlex.split(script.splitlines()[-1])[-1])
        self.machines[f"{spec.parent}/nodes/{spec.node_id}"] = self._boot(told, "run")
        self.started.append(spec.node_id)

    def _boot(self, told: dict, entry: str) -> Process:
        """The start-up script: the program, and after it was killed what deletes the slice."""
        from trainer.vm.program import Machine

        process = Process(self.world, lambda: getattr(Machine(told), entry)(), self.world.draw.gauss(0, 5000))
        process.when_killed = lambda: self._boot(told, "leave")
        place = told["slice"]
        name = f"projects/{place['project']}/locations/{place['zone']}/nodes/{place['id']}"
        self.machines[name] = process
        return process

    def power_off(self, name: str) -> None:
        process = self.machines.pop(name, None)
        if process is not None:
            process.kill(quietly=True)

    def _delete(self, name: str) -> None:
        self.nodes.pop(_node(name), None)
        if name in self.resources:
            self.resources[name].state = tpu.QueuedResourceState(state=STATES.DELETING)
        self.power_off(_node(name))
        self.world.pause()  # the machine that has asked for it is off by now

    def take_away(self) -> None:
        """A preemption, of one of the kinds there are."""
        for name in [name for name in self.nodes if name in self.machines]:
            self.power_off(name)
            how = self.world.draw.choice(["PREEMPTED", "SUSPENDED", "GONE"])
            if how == "PREEMPTED":
                self.nodes[name].state = tpu.Node.State.PREEMPTED
            else:
                del self.nodes[name]
            if how == "SUSPENDED" and _resource(name) in self.resources:
                self.resources[_resource(name)].state = tpu.QueuedResourceState(state=STATES.SUSPENDED)


class Clock:
    """The module `time` of a process in the world, its host's error included."""

    strftime, strptime = staticmethod(time.strftime), staticmethod(time.strptime)

    def __init__(self, world: World):
        self._world = world

    def sleep(self, seconds: float) -> None:
        self._world.pause(max(seconds, MIN_SLEEP))

    def monotonic(self) -> float:
        return self._world.now

    def time(self) -> float:
        actor = getattr(self._world.local, "actor", None)
        return 1.7e9 + self._world.now + (actor.process.skew if actor else 0.0)

    def gmtime(self, seconds: float | None = None):
        return time.gmtime(self.time() if seconds is None else seconds)


def threading_in(world: World) -> types.SimpleNamespace:
    """The module `threading` of a process in the world."""

    class Thread:
        def __init__(self, target, args=(), daemon=True):
            self._start, self._actor = lambda: target(*args), None

        def start(self):
            self._actor = world.local.actor.process.start(self._start)

        def join(self, timeout=None):
            end = world.now + (timeout or 1e9)
            while not self._actor.ended and world.now < end:
                world.pause(1.0)

    class Event:
        def __init__(self):
            self._set = False

        def set(self):
            self._set = True

        def wait(self, timeout):
            end = world.now + timeout
            while not self._set and world.now < end:
                world.pause(min(timeout, 30.0))
            return self._set

    class Lock(contextlib.AbstractContextManager):
        held = False

        def __enter__(self):
            while self.held:
                world.pause(1.0)
            self.held = True

        def __exit__(self, *unused):
            self.held = False

    return types.SimpleNamespace(Thread=Thread, Event=Event, Lock=Lock)


def signals_in(world: World) -> types.SimpleNamespace:
    """The module `signal` of a process in the world."""

    def set_handler(number, handler):
        world.local.actor.process.handlers[number] = handler

    names = {name: getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGKILL", "Signals")}
    return types.SimpleNamespace(signal=set_handler, **names)
