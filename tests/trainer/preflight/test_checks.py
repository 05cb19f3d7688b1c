"""Checks of the doctor, each on other versions and device files than this machine's."""

import fcntl
import subprocess
import sys
from collections import namedtuple

import pytest

from trainer.preflight.checks import (
    CHECKS,
    CheckedMachine,
    check_chip,
    check_disk,
    check_free_memory,
    check_packages,
    check_protobuf,
    check_python,
    check_wheel,
    lock_holder,
)
from trainer.resources import machine as forecast

PACKAGES = {"tensorflow": "2.20.0", "tf-keras": "2.20.1", "protobuf": "6.33.6", "numpy": "2.4.6"}
REQUIRED = ["tensorflow==2.20.0", "tf-keras==2.20.1", "protobuf<7", "numpy", 'pytest>=8; extra == "dev"']


def machine(packages=PACKAGES, **facts) -> CheckedMachine:
    return CheckedMachine(version=packages.get, **facts)


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 9, 18), "fail"), ((3, 10, 1), "ok"), ((3, 11, 7), "ok"), ((3, 13, 5), "ok"), ((3, 14, 0), "fail")],
)
def test_python(version, status):
    result = check_python(CheckedMachine(python=version))
    assert result.status == status and result.found == ".".join(map(str, version))
    assert bool(result.fix) == (status != "ok")


@pytest.mark.parametrize(
    ("changes", "status", "found"),
    [
        ({}, "ok", "4, in versions"),
        ({"numpy": None, "tf-keras": None}, "fail", "missing: tf-keras, numpy"),
        ({"tf-keras": "2.19.0"}, "warn", "tf-keras 2.19.0 (not ==2.20.1)"),
        ({"tensorflow": None, "tensorflow-tpu": "2.20.0"}, "ok", "4, in versions"),
        ({"tensorflow": None, "tensorflow-tpu": "2.19.1"}, "warn", "tensorflow 2.19.1 (not ==2.20.0)"),
        ({"tensorflow": None}, "fail", "missing: tensorflow"),
    ],
)
def test_packages(changes, status, found):
    result = check_packages(machine(PACKAGES | changes, requirements=REQUIRED))
    assert result.status == status and found in result.found


@pytest.mark.parametrize(("python", "status"), [((3, 11, 7), "fail"), ((3, 12, 0), "ok"), ((3, 13, 5), "ok")])
def test_packages_of_some_pythons_only(python, status):
    required = [*REQUIRED, "tensorflow-addons==0.23.0; python_version < '3.12'"]
    result = check_packages(machine(requirements=required, python=python))
    assert result.status == status
    assert result.found == (
        "missing: tensorflow-addons" if status == "fail" else "4, in versions that setup.py allows"
    )


def test_packages_of_a_checkout_that_is_not_installed():
    result = check_packages(machine(requirements=None))
    assert result.status == "fail" and "pip install" in result.fix


@pytest.mark.parametrize(
    ("version", "status"),
    [("6.33.6", "ok"), ("5.29.0", "ok"), ("7.0.0", "fail"), ("10.1", "fail"), (None, "fail")],
)
def test_protobuf(version, status):
    assert check_protobuf(machine({"protobuf": version})).status == status


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        ({"tensorflow": "2.20.0"}, "ok", "tensorflow 2.20.0"),
        ({}, "fail", "none"),
        ({"tensorflow": "2.20.0", "tensorflow-tpu": "2.20.0", "libtpu": "0.0.21"}, "fail", "uninstall"),
        ({"tensorflow-tpu": "2.20.0", "libtpu": "0.0.21"}, "ok", "libtpu 0.0.21"),
        ({"tensorflow-tpu": "2.20.0", "libtpu": "0.0.14"}, "ok", "libtpu 0.0.14"),
        ({"tensorflow-tpu": "2.20.0", "libtpu": "0.0.13"}, "fail", ">=0.0.14,<0.0.32"),
        ({"tensorflow-tpu": "2.20.0", "libtpu": "0.0.32"}, "fail", ">=0.0.14,<0.0.32"),
        ({"tensorflow-tpu": "2.20.0", "libtpu": "0.0.51"}, "fail", ">=0.0.14,<0.0.32"),
        ({"tensorflow-tpu": "2.20.0"}, "fail", "libtpu missing"),
    ],
)
def test_wheel(packages, status, words):
    result = check_wheel(machine(packages))
    assert result.status == status and words in f"{result.found}; {result.fix}"


def test_chips_need_the_wheel_for_tpus():
    assert check_wheel(machine(chip_wanted=True)).status == "fail"
    packages = {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.31"}
    assert check_wheel(machine(packages, chip_wanted=True)).status == "ok"


def pci(root, *devices: tuple[str, str]) -> None:
    for number, (vendor, device) in enumerate(devices):
        folder = root / f"sys/bus/pci/devices/0000:00:0{number}.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "device").write_text(f"{device}\n")


def device_files(root, *names: str) -> None:
    for name in names:
        path = root / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


NETWORK_CARD, OTHER = ("0x1ae0", "0x0042"), ("0x8086", "0x006f")


def test_no_chip_is_fine_unless_it_is_wanted(tmp_path):
    pci(tmp_path, NETWORK_CARD, OTHER)
    device_files(tmp_path, "vfio/0", "accel/accel0")  # of something else
    assert check_chip(CheckedMachine(root=str(tmp_path))).found == "none (CPU machine)"
    result = check_chip(CheckedMachine(root=str(tmp_path), chip_wanted=True))
    assert result.status == "fail" and "device.kind" in result.fix


@pytest.mark.parametrize(
    ("device", "files", "found"),
    [
        ("0x005e", ["accel0", "accel1"], "2 x v4, 2 device files"),
        ("0x006f", ["vfio/0", "vfio/1", "vfio/vfio"], "2 x v6e, 2 device files"),
    ],
)
def test_chips(tmp_path, device, files, found):
    pci(tmp_path, NETWORK_CARD, ("0x1ae0", device), ("0x1ae0", device))
    device_files(tmp_path, *files)
    result = check_chip(CheckedMachine(root=str(tmp_path), chip_wanted=True))
    assert (result.status, result.found) == ("ok", found)


def test_chips_without_device_files(tmp_path):
    pci(tmp_path, ("0x1ae0", "0x0062"))
    result = check_chip(CheckedMachine(root=str(tmp_path)))
    assert result.status == "fail" and "1 x v5p" in result.found and "--privileged" in result.fix


def test_chips_that_cannot_be_opened(tmp_path):
    device_files(tmp_path, "accel0")
    (tmp_path / "dev/accel1").symlink_to("gone")  # rights would not keep root out
    result = check_chip(CheckedMachine(root=str(tmp_path)))
    assert result.status == "fail" and f"{tmp_path}/dev/accel1 cannot be opened" in result.found


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "wb")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_chips_that_another_process_holds(tmp_path):
    device_files(tmp_path, "accel0")
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "tmp/libtpu_lockfile"
    path.touch()
    here = CheckedMachine(root=str(tmp_path))
    assert check_chip(here).status == "ok"  # the file remains after its process has ended
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        result = check_chip(here)
        assert result.status == "fail" and f"held by process {holder.pid}" in result.found
        holder.stdin.close()
        holder.wait(timeout=300)
    assert lock_holder(str(path)) == ""


def test_a_lock_that_cannot_be_read(tmp_path):
    path = tmp_path / "tmp/libtpu_lockfile"
    path.mkdir(parents=True)  # rights would not keep root out
    device_files(tmp_path, "accel0")
    result = check_chip(CheckedMachine(root=str(tmp_path)))
    assert result.status == "fail" and f"held by another user ({path}: Is a directory)" in result.found


def test_looking_at_a_lock_does_not_take_it(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    with open(path, "rb") as reader:
        lock_holder(str(path))
        script = f"import fcntl; fcntl.lockf(open({str(path)!r}, 'wb'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        assert subprocess.run([sys.executable, "-c", script], timeout=900).returncode == 0
        assert fcntl.fcntl(reader, fcntl.F_GETFD) >= 0


def test_disk(tmp_path):
    result = check_disk(CheckedMachine(output=str(tmp_path / "not/yet")))
    assert result.status == "ok" and f"GB free at {tmp_path}, writes" in result.found
    assert list(tmp_path.iterdir()) == []


def test_disk_that_is_full(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1e9, 9e8, 1e8))
    result = check_disk(CheckedMachine(output=str(tmp_path)))
    assert result.status == "fail" and result.found == f"0.1 GB free at {tmp_path}"


def test_disk_that_cannot_be_written(tmp_path, monkeypatch):
    def refused(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refused)
    result = check_disk(CheckedMachine(output=str(tmp_path)))
    assert (result.status, result.found) == ("fail", f"{tmp_path} cannot be written")


def test_memory(monkeypatch):
    assert check_free_memory(CheckedMachine()).found.endswith(("(free memory)", "(cgroup limit)"))
    monkeypatch.setattr(forecast, "free_memory", lambda: (1_500_000_000, "cgroup limit"))
    result = check_free_memory(CheckedMachine())
    assert (result.status, result.found) == ("warn", "1.5 GB (cgroup limit)")


def test_every_check_has_a_name_of_its_own():
    names = [check(CheckedMachine()).name for check in CHECKS]
    assert len(set(names)) == len(names)
