"""A user's packages that shadow lazytower's: reported in one line, however lazytower is started."""

import os
import pathlib
import subprocess
import sys

import pytest

import lazytower_entry
from configs.system.processes import module_command

ROOT = pathlib.Path(__file__).parents[1]
ENTRY = [sys.executable, "-c", "import sys; sys.argv[0] = 'lazytower'; import lazytower_entry as e; e.main()"]


@pytest.fixture(params=["package", "file"])
def shadow(request, tmp_path):
    """Makes a package or a file of a name, in a directory of its own; returns what Python would import."""

    def make(name: str) -> pathlib.Path:
        if request.param == "file":
            path = tmp_path / f"{name}.py"
        else:
            (tmp_path / name).mkdir()
            path = tmp_path / name / "__init__.py"
        path.write_text("raise SystemExit('the file of the user ran')\n")
        return path.parent if request.param == "package" else path

    return make


def run(command: list[str], directory, *paths) -> subprocess.CompletedProcess:
    """Runs a command in a directory, with `paths` before everything else on the module path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", lazytower_entry.PACKAGES)
def test_the_command_names_what_shadows_a_package(shadow, tmp_path, name):
    """As the console script starts it: the working directory is not on the path, PYTHONPATH is."""
    found = shadow(name)
    done = run([*ENTRY, "jobs", "list"], "/", tmp_path, ROOT)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"lazytower: error: {found} shadows lazytower's package `{name}` ({ROOT / name}); "
        f"rename it, or take {tmp_path} out of PYTHONPATH\n"
    )


@pytest.mark.parametrize("name", ["configs", "pipelines"])
@pytest.mark.parametrize("module", ["trainer", "trainer.cli"])
def test_python_m_sees_the_working_directory(shadow, tmp_path, name, module):
    """A `trainer` there would run in place of ours, so `python -m trainer` cannot notice that one."""
    found = shadow(name)
    done = run([sys.executable, "-m", module, "jobs", "list"], tmp_path, ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"lazytower: error: {found} shadows lazytower's package `{name}`")
    assert "run `lazytower` from another directory" in done.stderr


@pytest.mark.parametrize("name", lazytower_entry.PACKAGES)
def test_programs_that_commands_start_notice_it(shadow, tmp_path, name):
    """The supervisor of a job, probes and so on: the working directory is not on their path."""
    found = shadow(name)
    command = module_command("trainer.cli", "jobs", "list")
    assert run(command, tmp_path, ROOT).returncode == 0
    done = run(command, "/", tmp_path, ROOT)
    assert done.returncode == 2 and done.stderr.startswith(f"lazytower: error: {found} shadows")


@pytest.mark.parametrize("package", ["trainer.version", "pipelines.job"])
def test_an_import_names_what_shadows_configs(shadow, tmp_path, package):
    found = shadow("configs")
    command = [sys.executable, "-c", f"import {package}"]
    assert run(command, "/", ROOT, tmp_path).returncode == 0  # later on the path: it shadows nothing
    done = run(command, "/", tmp_path, ROOT)
    assert done.returncode == 1
    assert f"ImportError: {found} shadows lazytower's package `configs`" in done.stderr


def test_a_folder_without_init_shadows_nothing(tmp_path):
    (tmp_path / "configs").mkdir()
    assert run([*ENTRY, "jobs", "list"], "/", tmp_path, ROOT).returncode == 0


@pytest.mark.parametrize("command", [ENTRY, [sys.executable, "-m", "trainer"]], ids=["lazytower", "-m"])
def test_the_command_and_the_module_are_the_same(command):
    done = run([*command, "--version"], "/", ROOT)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("lazytower ")
    wrong = run([*command, "train", "--config", "none.yaml"], "/", ROOT)
    assert wrong.returncode == 2
    assert wrong.stderr == "lazytower train: error: none.yaml: no such config file\n"
