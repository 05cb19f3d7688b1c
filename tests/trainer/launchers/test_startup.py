"""The start-up script: it is valid, holds the very program, and passes strange names on as they are."""

import functools
import json
import os
import subprocess
import sys

import pytest

from tests.support.fake_tpu import wait_until
from trainer.launchers.startup import startup_script
from trainer.vm import files as vm_files
from trainer.vm import log as vm_log
from trainer.vm import program as vm
from trainer.vm import slice as vm_slice


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
    ending = "from trainer.vm.program import main; main()"
    assert script.count(ending) == 1
    script = script.replace(ending, "print(sys.argv[1])")
    done = subprocess.run(["bash"], input=script, text=True, check=True, capture_output=True)
    assert json.loads(done.stdout) == told
    for module in (vm, vm_files, vm_log, vm_slice):
        name = module.__name__.rpartition(".")[2] + ".py"
        with open(module.__file__, encoding="utf-8") as file:
            assert (tmp_path / told["work"] / "boot/trainer/vm" / name).read_text() == file.read()


def test_it_is_clean():
    try:
        done = subprocess.run(
            ["shellcheck", "-"], input=startup_script(spec("/w", None)), text=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("shellcheck is not installed")
    assert done.returncode == 0, done.stdout


def test_packages_are_tried_again_and_in_vain_is_no_end(tmp_path):
    """The machine's program always starts, and reports what it could not do."""
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


def program(tmp_path, script: str) -> dict:
    """A spec whose interpreter is a script that logs its arguments."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/bash\necho "$2" >> {tmp_path}/asked\n{script}\n')
    path.chmod(0o755)
    return spec(f"{tmp_path}/work", str(path))


@pytest.mark.parametrize(
    ("ending", "leaves"), [("exit 0", 0), ("kill -9 $$", 1), ("exit 1", 1), ("exit 143", 0)]
)
def test_a_killed_program_is_followed_by_one_that_deletes_the_slice(ending, leaves, tmp_path):
    told = program(tmp_path, f'case "$2" in *leave*) exit 0 ;; esac\n{ending}')
    subprocess.run(["bash"], input=startup_script(told), text=True)
    asked = (tmp_path / "asked").read_text()
    assert asked.count("import main") == 1 and asked.count("import leave") == leaves


@pytest.mark.parametrize(("ending", "leaves"), [("exit 0", 0), ("exit 1", 1)])
def test_a_program_that_ends_before_it_is_waited_for(ending, leaves, tmp_path):
    told = program(tmp_path, f'case "$2" in *leave*) exit 0 ;; esac\n{ending}')
    script = startup_script(told).replace("child=$!\n", "child=$!\nsleep 0.3\n")
    done = subprocess.run(["bash"], input=script, text=True)
    assert done.returncode == 0 and (tmp_path / "asked").read_text().count("import leave") == leaves


def test_a_program_that_fails_while_it_is_stopped_is_followed_by_one_that_deletes_the_slice(tmp_path):
    fails = f"trap 'sleep 0.3; exit 1' TERM; touch {tmp_path}/ready\nwhile true; do sleep 0.05; done"
    told = program(tmp_path, f'case "$2" in *leave*) exit 0 ;; esac\n{fails}')
    process = subprocess.Popen(["bash", "-c", startup_script(told)])
    wait_until((tmp_path / "ready").exists)
    process.terminate()
    assert process.wait(60) == 0 and "import leave" in (tmp_path / "asked").read_text()


def test_a_stop_reaches_the_program(tmp_path):
    stop = f"trap 'echo saved > {tmp_path}/saved; exit 143' TERM; touch {tmp_path}/ready"
    told = program(tmp_path, f"{stop}\nwhile true; do sleep 0.05; done")
    process = subprocess.Popen(["bash", "-c", startup_script(told)])
    wait_until((tmp_path / "ready").exists)
    process.terminate()
    assert process.wait(60) == 143 and (tmp_path / "saved").exists()
    assert "leave" not in (tmp_path / "asked").read_text()


def test_without_room_on_the_disk_the_program_starts(tmp_path):
    (tmp_path / "file").touch()
    told = spec(f"{tmp_path}/file/work", work_is="a place where nothing can be made")
    script = startup_script(told).replace(
        "from trainer.vm.program import main; main()", "import trainer.vm.slice; print(7)"
    )
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True)
    assert done.stdout == "7\n", done.stderr
