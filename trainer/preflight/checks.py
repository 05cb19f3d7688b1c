"""Checks that `lazytower doctor` runs in its own process: versions, device files, memory, disk."""

import fcntl
import importlib.metadata
import os
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from configs.system.chips import device_files, find_chips
from configs.system.pythons import NEWEST, OLDEST

OK, WARN, FAIL = "ok", "warn", "fail"
_TENSORFLOWS = ("tensorflow", "tensorflow-tpu", "tensorflow-cpu")
_LIBTPU = ">=0.0.14,<0.0.32"  # of TensorFlow 2.20; later ones abort when it is imported
_LEAST_MEMORY = 2e9  # TensorFlow, and tables of some size
INSTALL_LAZYTOWER = "pip install -c docker/constraints-cpu.txt . (for a TPU as in docker/install.sh)"


@dataclass(frozen=True)
class Result:
    """One line of the report."""

    name: str
    status: str
    """ok, warn or fail."""
    found: str
    fix: str = ""
    """What to do when the status is not ok."""


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, None when there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def declared_requirements() -> list[str] | None:
    """Requirements of lazytower as it is installed (setup.py's), None when it is not."""
    try:
        return importlib.metadata.requires("lazytower") or []
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class CheckedMachine:
    """What the checks inspect; tests replace files and versions."""

    output: str = "."
    """Output of the run: a local directory, existing or not, or a gs:// URL."""
    chip_wanted: bool = False
    """Whether the run trains on a TPU of this machine."""
    root: str = "/"
    """Directory of /dev, /sys and /tmp."""
    python: tuple[int, ...] = tuple(sys.version_info[:3])
    version: Callable[[str], str | None] = installed_version
    requirements: list[str] | None = field(default_factory=declared_requirements)

    def path(self, path: str) -> str:
        """A path of the system, such as dev/accel0."""
        return os.path.join(self.root, path)


def check_python(machine: CheckedMachine) -> Result:
    """One that TensorFlow 2.20 has wheels for."""
    found = ".".join(map(str, machine.python))
    if OLDEST <= machine.python[:2] <= NEWEST:
        return Result("Python", OK, found)
    oldest, newest = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
    fix = f"use Python {oldest} to {newest}; TensorFlow has no wheels for others"
    return Result("Python", FAIL, found, fix)


def check_packages(machine: CheckedMachine) -> Result:
    """Everything that setup.py requires is installed, in a version that it allows."""
    from packaging.requirements import Requirement

    if machine.requirements is None:
        return Result("packages", FAIL, "lazytower itself is not installed", INSTALL_LAZYTOWER)
    wanted = [Requirement(text) for text in machine.requirements]
    # Those of this Python, and no extras.
    here = {"extra": "", "python_version": ".".join(map(str, machine.python[:2]))}
    wanted = [each for each in wanted if not each.marker or each.marker.evaluate(here)]
    missing, others = [], []
    for requirement in wanted:
        names = _TENSORFLOWS if requirement.name == "tensorflow" else (requirement.name,)
        versions = [version for name in names if (version := machine.version(name))]
        if not versions:
            missing.append(requirement.name)
        elif not all(requirement.specifier.contains(version, prereleases=True) for version in versions):
            others.append(f"{requirement.name} {', '.join(versions)} (not {requirement.specifier})")
    if missing:
        return Result("packages", FAIL, f"missing: {', '.join(missing)}", INSTALL_LAZYTOWER)
    if others:
        return Result("packages", WARN, f"not as tested: {'; '.join(others)}", INSTALL_LAZYTOWER)
    return Result("packages", OK, f"{len(wanted)}, in versions that setup.py allows")


def check_protobuf(machine: CheckedMachine) -> Result:
    """Below 7, which breaks the proto of TPU Adam."""
    found = machine.version("protobuf")
    if found is None or int(found.partition(".")[0]) >= 7:
        fix = "pip install 'protobuf<7'; 7 breaks the TPU Adam proto"
        return Result("protobuf", FAIL, found or "missing", fix)
    return Result("protobuf", OK, found)


def check_wheel(machine: CheckedMachine) -> Result:
    """One build of TensorFlow, and the libtpu that fits it."""
    from packaging.specifiers import SpecifierSet

    name = "TensorFlow wheel"
    builds = {build: version for build in _TENSORFLOWS if (version := machine.version(build))}
    found = ", ".join(f"{build} {version}" for build, version in builds.items()) or "none"
    if len(builds) != 1:
        fix = f"pip uninstall {' '.join(builds)}, then install one of them" if builds else INSTALL_LAZYTOWER
        return Result(name, FAIL, found, f"{fix}; they overwrite each other's files" if builds else fix)
    if "tensorflow-tpu" not in builds:
        if machine.chip_wanted:
            fix = (
                "only tensorflow-tpu drives chips; use the trainer-tpu image, or docker/install.sh as it does"
            )
            return Result(name, FAIL, found, fix)
        return Result(name, OK, found)
    libtpu = machine.version("libtpu")
    found += f", libtpu {libtpu or 'missing'}"
    if libtpu is None or not SpecifierSet(_LIBTPU).contains(libtpu):
        return Result(
            name, FAIL, found, f"pip install 'libtpu{_LIBTPU}'; others abort at import or lack calls"
        )
    return Result(name, OK, found)


def check_chip(machine: CheckedMachine) -> Result:
    """TPU chips on the PCI bus, their device files, and whether another process holds them."""
    name = "TPU chip"
    kinds, files = find_chips(machine.root), device_files(machine.root)
    if not kinds and not any(os.path.basename(path).startswith("accel") for path in files):
        if machine.chip_wanted:
            fix = "device.kind is tpu; run on a TPU VM (in Docker with --privileged), or set device.kind=cpu"
            return Result(name, FAIL, "none", fix)
        return Result(name, OK, "none (CPU machine)")
    found = ", ".join(f"{number} x {kind}" for kind, number in kinds.items()) or "of an unknown kind"
    if not files:
        fix = "start the container with --privileged; outside a container, install the TPU driver"
        return Result(name, FAIL, f"{found}, no /dev/accel* and no /dev/vfio/*", fix)
    closed = [path for path in files if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        fix = "run as root (Docker: --user 0), or change the permissions of the file"
        return Result(name, FAIL, f"{found}, {closed[0]} cannot be opened", fix)
    lock = machine.path("tmp/libtpu_lockfile")
    holder = lock_holder(lock)
    if holder:
        fix = f"wait until it ends, or end it; if {lock} remains, remove it"
        return Result(name, FAIL, f"{found}, held by {holder}", fix)
    return Result(name, OK, f"{found}, {len(files)} device files")


def lock_holder(path: str) -> str:
    """The holder of a file's POSIX lock, "" when there is none. Takes no lock itself."""
    if not os.path.exists(path):
        return ""
    layout = "hhqqi"  # struct flock: type, whence, start, length, process
    question = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with open(path, "rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except OSError as error:  # libtpu creates it readable for its user alone
        return f"another user ({path}: {error.strerror})"
    kind, *_, process = struct.unpack(layout, answer)
    if kind == fcntl.F_UNLCK:
        return ""
    return f"process {process}" if process > 0 else "a process of another container"


def check_processor(machine: CheckedMachine) -> Result:
    """Cores that this process may use."""
    return Result("processor", OK, f"{len(os.sched_getaffinity(0))} cores")


def check_free_memory(machine: CheckedMachine) -> Result:
    """Memory that a new process can take; `lazytower plan` forecasts what a run needs."""
    from trainer.resources.machine import free_memory

    free, limit = free_memory()
    found = f"{free / 1e9:.1f} GB ({limit})"
    if free < _LEAST_MEMORY:
        fix = f"end other processes, or raise the limit; even small tables take {_LEAST_MEMORY / 1e9:.0f} GB"
        return Result("memory", WARN, found, fix)
    return Result("memory", OK, found)


def check_disk(machine: CheckedMachine) -> Result:
    """Free space and speed of the local disk of the output."""
    from configs.errors import UserError
    from configs.system.storage import is_remote
    from trainer.resources import machine as forecast

    output = "." if is_remote(machine.output) else machine.output
    parent = forecast.existing_parent(output)
    free = shutil.disk_usage(parent).free
    found = f"{free / 1e9:.1f} GB free at {parent}"
    if free < 2 * forecast.PROBE_BYTES:
        return Result("disk", FAIL, found, "free some space, or use another output.path")
    try:
        speed = forecast.disk_speed(parent)
    except UserError:
        return Result(
            "disk", FAIL, f"{parent} cannot be written", "change its permissions, or use another output.path"
        )
    return Result("disk", OK, f"{found}, writes {speed / 1e6:.0f} MB/s")


CHECKS = (
    check_python,
    check_packages,
    check_protobuf,
    check_wheel,
    check_chip,
    check_processor,
    check_free_memory,
    check_disk,
)
