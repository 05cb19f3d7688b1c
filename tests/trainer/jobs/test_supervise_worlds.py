"""Jobs in random worlds: every error code at every call, full disks, torn files, killed processes.

At the end nothing that is billed is left, no process runs, and each job has ended once. See
tests/support/job_worlds.py.
"""

import os
import pathlib
import types

import pytest
import yaml

from configs.load import dump_config, parse_config
from configs.system import storage
from tests.support.documents import document
from tests.support.job_worlds import Child, Clock, Process, World, signals_in, threading_in
from trainer.jobs import record, supervise, watch
from trainer.jobs.record import FINAL, JobRecord
from trainer.jobs.supervise import SliceMayStay, cancel
from trainer.launchers import local, processes, tpu_api
from trainer.vm import files as vm_files
from trainer.vm import log as vm_log
from trainer.vm import program as vm
from trainer.vm import slice as vm_slice

pytestmark = pytest.mark.any_python

HOUR = 3600.0
LIMITS = {
    **{"retries": 8, "poll_seconds": 60, "heartbeat_seconds": 60, "log_seconds": 120},
    **{"backoff_seconds": 30, "max_backoff_seconds": 120, "max_seconds": 6 * HOUR},
}
CLOUD = {"kind": "cloud_tpu", "project": "shop", "zone": "us-east5-b", "slice": "v6e-4", "python": "/python"}


class Job:
    """A job in a world, with its user, supervisors and misfortunes."""

    def __init__(self, seed: int, directory: pathlib.Path, patch):
        self.world = World(seed)
        self.draw, self.directory = self.world.draw, directory
        self.is_local = self.draw.random() < 0.3
        self.world.outcome = self.draw.choice([0, 0, 0, 2])
        _enter(self.world, patch, self.is_local)
        self.path, self.supervisor = self._submit(), None

    def _submit(self) -> str:
        work = f"{self.directory}/machines"
        for attempt in range(1, 100):
            storage.make_directory(f"{work}/one-1-{attempt}")
        launch = LIMITS | ({"kind": "local"} if self.is_local else CLOUD | {"work_dir": work})
        config = parse_config(document(launch=launch), "x")
        path = f"{self.directory}/jobs/one-1"
        storage.make_directory(path)
        storage.write_bytes(f"{path}/config.yaml", dump_config(config).encode())
        storage.write_bytes(f"{path}/w.whl", b"a wheel")
        facts = {"launcher": config.launch.kind, "directory": str(self.directory), "wheel": "w.whl"}
        JobRecord.create(path, facts | {"output": "run", "project": "shop", "zone": "us-east5-b"})
        return path

    def state(self):
        return JobRecord(self.path).state()

    def supervised(self) -> None:
        """Starts a supervisor on some host unless there is one; one that meets a lease goes away."""
        if self.supervisor is None or not self.supervisor.alive:
            skew = self.draw.gauss(0, 5000)
            self.supervisor = Process(self.world, lambda: supervise.supervise(self.path), skew)

    def cancelled(self) -> None:
        """A user cancels, repeatedly as long as the command reports that something may be left."""

        def cancelling():
            while True:
                try:
                    return cancel(self.path)
                except SliceMayStay as error:
                    assert "may be left" in str(error) and "rerun `lazytower jobs cancel" in str(error)
                except OSError as error:  # the job's files could not be read for long
                    assert "injected" in str(error)
                self.world.pause(600.0)

        Process(self.world, cancelling, self.draw.gauss(0, 5000))

    def misfortune(self) -> None:
        """One of those that exist."""
        machines = [p for p in self.world.processes if p.alive and (p.mark or p in self._on_slices())]
        roll = self.draw.random()
        if roll < 0.3 and self.supervisor is not None:
            self.supervisor.kill()
        elif roll < 0.45 and machines:
            self.draw.choice(machines).kill()
        elif roll < 0.6:
            self.world.tpu.take_away()
        elif roll < 0.75:
            self._tear()
        elif roll < 0.85:
            self.world.full = not self.world.full
        elif roll < 0.95:
            self.world.storm = self.draw.choice([0.0, 0.1, 0.5, 1.0])

    def _on_slices(self) -> list:
        return list(self.world.tpu.machines.values())

    def _tear(self) -> None:
        """A file becomes empty, half or strange; config.yaml one of another version."""
        torn = [*pathlib.Path(self.path).glob("attempts/*/*.json"), pathlib.Path(self.path, "config.yaml")]
        path = self.draw.choice(torn)
        text = path.read_text()
        if path.name == "config.yaml":
            content = yaml.safe_load(text)
            content["train"]["new"] = content["launch"]["new"] = 1
            path.write_text(yaml.safe_dump(content))
        else:
            path.write_text(self.draw.choice(["", text[: len(text) // 2], "[]", '{"boot": 1}', "\0" * 99]))

    def chaos(self) -> None:
        """A few hours in which things go wrong."""
        self.world.storm = self.draw.choice([0.0, 0.1, 0.3])
        cancel_at = self.draw.randrange(60)
        for turn in range(self.draw.randrange(5, 40)):
            if self.draw.random() < 0.7:
                self.supervised()
            self.world.run(self.draw.uniform(0, 600.0))
            if turn == cancel_at:
                self.cancelled()
            self.misfortune()
        self.world.storm, self.world.full = 0.0, False

    def left_alone(self) -> None:
        """No supervisor: machines that are up delete their slices themselves."""
        if self.supervisor is not None:
            self.supervisor.kill()
        up = [name for name, machine in self.world.tpu.machines.items() if machine.alive]
        self.world.run(12 * HOUR)
        assert not [name for name in up if name in self.world.tpu.nodes]

    def ends(self) -> None:
        """All is well again, and a supervisor is there; fails when something stays."""

        def over():
            return self.state().state in FINAL and not self.world.left()

        for _ in range(60):
            if not over():
                self.supervised()
            if self.world.run(HOUR, over):
                break
        assert over(), (self.state(), self.world.left())
        types_ = [event.type for event in JobRecord(self.path).events()]
        assert sum(type_ in FINAL for type_ in types_) == 1 and types_[-1] in FINAL
        self.world.run(HOUR)
        assert self.world.left() == [], "and nothing comes up later"


def _enter(world: World, patch, shared_disk: bool) -> None:
    """The product's modules live in the world from now on."""
    clock, threads = Clock(world), threading_in(world)
    for module in (supervise, watch, record, vm, vm_files, vm_slice, tpu_api, processes):
        patch.setattr(module, "time", clock)
    for module in (vm, vm_log):
        patch.setattr(module, "threading", threads)
    patch.setattr(vm, "signal", signals_in(world))
    patch.setattr(vm, "subprocess", types.SimpleNamespace(**vars(vm.subprocess) | {"Popen": child_in(world)}))
    patch.setattr(local, "subprocess", types.SimpleNamespace(Popen=machine_in(world), DEVNULL=None))
    patch.setattr(processes, "job_processes", world.local_processes)
    ours = {"kill": world.signal, "getuid": os.getuid, "getpid": os.getpid}
    patch.setattr(processes, "os", types.SimpleNamespace(**ours))
    for module in (vm_files, vm_slice):
        patch.setattr(module, "ask", world.ask)
    patch.setattr(tpu_api.TpuApi, "_connected", lambda self: client_in(world))
    patch.setattr(os, "fsync", lambda handle: None)  # this machine is never powered off
    patch.setattr(storage, "sync_directory", lambda path: None)
    full_for_all = (lambda: world.full) if shared_disk else (lambda: False)
    for name in ("put", "get"):
        method = getattr(vm_files.Directory, name)
        patch.setattr(vm_files.Directory, name, world.shaken(method, full_for_all if name == "put" else bool))
    patch.setattr(vm_log.Log, "_write_file", lambda self, content: None)  # has tests of its own
    shaken = {"read_bytes": bool, "names": bool, "create_bytes": full_for_all, "write_bytes": full_for_all}
    files = {name: world.shaken(getattr(storage, name), full) for name, full in shaken.items()}
    for module in (record, local, processes):
        patch.setattr(module, "storage", types.SimpleNamespace(**vars(storage) | files))


def child_in(world: World):
    """subprocess.Popen of the machine's program."""
    return lambda command, **options: Child(world, command, **options)


def machine_in(world: World):
    """subprocess.Popen of the local launcher."""
    import json

    def start(command, env, **unused):
        world.pause()
        told = json.loads(command[-1])
        mark = (told["job"], told["attempt"], True)
        process = Process(world, lambda: vm.Machine(told).run(), mark=mark)
        world.pause()
        return process

    return start


def client_in(world: World):
    """The API's client."""

    class Client:
        def __getattr__(self, method):
            name = "".join(word.title() for word in method.split("_"))
            return lambda request, retry, timeout: world.call(name, request)

    return Client()


def live(seed: int, directory: pathlib.Path) -> Job:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(directory / "state"))
        job = Job(seed, directory, patch)
        try:
            job.chaos()
            if job.draw.random() < 0.3:
                job.left_alone()
            job.ends()
        finally:
            job.world.end()
        return job


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_left(seed, tmp_path):
    live(seed, tmp_path)


@pytest.mark.parametrize(
    "number", [pytest.param(60, marks=pytest.mark.slow), pytest.param(300, marks=pytest.mark.torture)]
)
def test_nothing_is_left_in_many_worlds(tmp_path, number):
    seen = set()
    for seed in range(1000, 1000 + number):
        job = live(seed, tmp_path / str(seed))
        seen |= {event.type for event in JobRecord(job.path).events()}
    assert seen == set(record.TYPES) or number < 300, "every event has come up"


@pytest.mark.parametrize("storm", [0.0, 0.3])
@pytest.mark.parametrize("killed", [False, True])
def test_a_machine_deletes_its_slice_without_a_supervisor(killed, storm, tmp_path, monkeypatch):
    """Also when its program is killed, and whatever the services answer now and then."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    job = Job(0 if killed else 2, tmp_path, monkeypatch)
    assert not job.is_local
    try:
        job.supervised()
        assert job.world.run(HOUR, lambda: bool(job.world.trainers)) and job.world.tpu.nodes
        job.world.storm = storm
        if killed:
            [machine] = job.world.tpu.machines.values()
            machine.kill()
        job.left_alone()
        assert job.world.tpu.nodes == {} and job.world.tpu.started == ["one-1-1"]
    finally:
        job.world.end()
