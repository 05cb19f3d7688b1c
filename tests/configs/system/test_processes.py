"""Python that the project starts imports nothing from the working directory."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from configs.system.processes import START_MODULE, module_command

SHADOWED = ("yaml", "json", "runpy", "pydantic", "configs", "trainer", "pipelines")


def older_python() -> list[str]:
    """This machine's Python 3.10, which has no -P, if it has one that starts."""
    found = shutil.which("python3.10")
    works = found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0
    return [found] if works else []


@pytest.fixture
def hostile(tmp_path) -> pathlib.Path:
    for name in SHADOWED:
        (tmp_path / f"{name}.py").write_text(f"open('ran-{name}', 'w').close()\n")
    return tmp_path


def test_a_program_of_the_project_runs(hostile):
    command = module_command("trainer.cli", "train", "--explain")
    done = subprocess.run(command, cwd=hostile, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "dataset.path" in done.stdout
    assert not list(hostile.glob("ran-*"))


@pytest.mark.parametrize("python", [sys.executable, *older_python()])
def test_arguments_name_and_path_are_those_of_python_m(hostile, tmp_path, python):
    """With 3.10 as with 3.11, through PYTHONPATH and without an installation."""
    package = tmp_path / "elsewhere" / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "tool.py").write_text(
        "import json, os, sys\n"
        "print(__name__, os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd() in sys.path)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    command = [python, *START_MODULE, "shop.tool", "a b", "-c"]
    done = subprocess.run(command, cwd=hostile, capture_output=True, text=True, env=environment)
    assert done.stdout == "__main__ tool.py ['a b', '-c'] False\n", done.stderr
    assert not list(hostile.glob("ran-*"))


def test_a_checkout_comes_first_and_an_installation_stays_where_it_is(tmp_path):
    (tmp_path / "show.py").write_text("import sys\nprint(sys.path.index(sys.argv[1]), len(sys.path))\n")
    environment = {**os.environ, "PYTHONPATH": f"/somewhere{os.pathsep}{tmp_path}"}

    def place(root: str) -> list[int]:
        command = [sys.executable, *START_MODULE[:-1], root, "show", root]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return [int(word) for word in done.stdout.split()]

    checkout, installed = place("/checkout"), place(str(tmp_path))
    assert checkout[0] == 0 and installed[0] == 1
    assert checkout[1] == installed[1] + 1
