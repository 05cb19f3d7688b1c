"""The start-up script: it is valid, holds the very program, and passes strange names on as they are."""

import functools
import json
import os
import subprocess
import sys

import pytest

from trainer import vm, vm_files, vm_log, vm_slice
from trainer.startup import startup_script


def spec(work: str, python: str | None = sys.executable, **more) -> dict:
    return {"job": "gs://b/jobs/j-1", "attempt": 2, "work": work, "python": python, **more}


def test_it_is_valid_shell():
    for python in (None, "/opt/my env/bin/python"):
        script = startup_script(spec("/var/lib/lazytower/j-1", python))
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        assert ("python3-venv" in script) == (python is None)


def test_what_it_starts_is_this_program_with_this_spec(tmp_path):
    """Names with quotes, spaces and dollars come through."""
    told = spec(f"{tmp_path}/a 'b' $HOME \"c\"", odd="$(touch /tmp/never) `id` \\ '\n ü")
    script = startup_script(told)
    ending = "from trainer.vm import main; main()"
    assert script.count(ending) == 1
    script = script.replace(ending, "print(sys.argv[1])")
    done = subprocess.run(["bash"], input=script, text=True, check=True, capture_output=True)
    assert json.loads(done.stdout) == told
    for module in (vm, vm_files, vm_log, vm_slice):
        name = module.__name__.rpartition(".")[2] + ".py"
        with open(module.__file__, encoding="utf-8") as file:
            assert (tmp_path / told["work"] / "boot" / "trainer" / name).read_text() == file.read()


def test_it_is_clean():
    try:
        done = subprocess.run(
            ["shellcheck", "-"], input=startup_script(spec("/w", None)), text=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("shellcheck is not installed")
    assert done.returncode == 0, done.stdout


def test_packages_are_tried_again_and_in_vain_is_no_end(tmp_path):
    """The machine's program starts in any case, and tells what it could not do."""
    tried = tmp_path / "tried"
    for name, text in {
        "python3": '[ "$2" = "import ensurepip" ] && exit 1; echo started',
        "apt-get": f'echo "$@" >> {tried}; exit 100',
        "sleep": ":",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = startup_script(spec(f"{tmp_path}/work", None))
    run = functools.partial(subprocess.run, ["bash"], input=script, text=True, capture_output=True)
    done = run(env=environment)
    assert (done.returncode, done.stdout) == (0, "started\n")
    assert tried.read_text().splitlines() == ["-q -o DPkg::Lock::Timeout=300 update"] * 4
    (tmp_path / "apt-get").write_text(f'#!/bin/bash\necho "$@" >> {tried}\n')
    tried.unlink()
    assert run(env=environment).stdout == "started\n" and len(tried.read_text().splitlines()) == 2
