"""Which Python the scripts choose, and where its environment is; the interpreters are shell stubs."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TOOLS = (
    *("awk", "bash", "cat", "chmod", "dirname", "grep", "mkdir", "mktemp", "rm", "sh", "sha256sum", "sort"),
    *("tail", "tee", "tr"),
)
# Answers the queries of scripts/interpreters.sh, and creates environments of two files.
PYTHON = """#!/bin/sh
case "$1" in
  -c) echo "{version} {path}" ;;
  --version) echo "Python {version}.9" ;;
  -m)
    mkdir -p "$3/bin"
    for name in pip python; do echo '#!/bin/sh' > "$3/bin/$name"; chmod +x "$3/bin/$name"; done
    echo "echo active: $3 {version}" > "$3/bin/activate"
    ;;
esac
"""


class Checkout:
    """A copy of what scripts/environment.sh reads, on a machine with these interpreters and no others."""

    def __init__(self, directory: pathlib.Path):
        self.root, self.bin = directory / "checkout", directory / "bin"
        for name in ("scripts/environment.sh", "scripts/interpreters.sh", "docker/constraints-cpu.txt"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        for name in ("setup.py", "pyproject.toml"):
            (self.root / name).write_text("")
        self.bin.mkdir()
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))

    def add(self, version: str, place: str = "bin", name: str = "", venv: bool = True) -> pathlib.Path:
        path = self.bin.parent / place / (name or f"python{version}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PYTHON.format(version=version, path=path if venv else "-"))
        path.chmod(0o755)
        return path

    def enter(self, **environment) -> tuple[int, list[str]]:
        """Exit code and lines of a script that sources environment.sh."""
        return self.run("-c", ". scripts/environment.sh", **environment)

    def run(self, *arguments: str, **environment) -> tuple[int, list[str]]:
        """Exit code and lines of bash."""
        machine = {"PATH": str(self.bin), "HOME": str(self.bin.parent), **environment}
        done = subprocess.run(
            [self.bin / "bash", *arguments],
            cwd=self.root,
            env=machine,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        return done.returncode, done.stdout.splitlines()


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


def installed(directory: str, version: str) -> tuple[int, list[str]]:
    line = f"installing into {directory} with Python {version}.9 (about 3 GB, a few minutes)"
    return 0, [line, f"active: {directory} {version}"]


@pytest.mark.parametrize(
    ("found", "taken"),
    [
        (["3.13"], "3.13"),
        (["3.10", "3.12"], "3.12"),
        (["3.10", "3.11", "3.12", "3.13"], "3.11"),
        (["3.9", "3.10", "3.14"], "3.10"),
    ],
)
def test_3_11_is_preferred_then_the_newest(checkout, found, taken):
    for version in found:
        checkout.add(version)
    assert checkout.enter() == installed(".venv", taken)


def test_two_pythons_have_two_environments(checkout):
    checkout.add("3.11")
    newer = checkout.add("3.13")
    assert checkout.enter() == installed(".venv", "3.11")
    assert checkout.enter(PYTHON=str(newer)) == installed(".venv-3.13", "3.13")
    # Neither recreates the other.
    assert checkout.enter() == checkout.enter(PYTHON="python3.11") == (0, ["active: .venv 3.11"])
    assert checkout.enter(PYTHON="python3.13") == (0, ["active: .venv-3.13 3.13"])
    assert checkout.enter(PYTHON="python3.13", VENV="other") == installed("other", "3.13")


def test_an_environment_of_another_python_is_made_anew(checkout):
    checkout.add("3.13")
    assert checkout.enter() == installed(".venv", "3.13")
    checkout.add("3.11")
    assert checkout.enter() == installed(".venv", "3.11")


def test_changed_requirements_are_installed(checkout):
    checkout.add("3.12")
    assert checkout.enter() == installed(".venv", "3.12")
    (checkout.root / "setup.py").write_text("# more")
    assert checkout.enter() == installed(".venv", "3.12")


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("later", "python3.12"),
        (".pyenv/versions/3.12.4/bin", "python3.12"),
        (".local/share/uv/python/cpython-3.12.4-linux-x86_64-gnu/bin", "python3.12"),
        ("later", "python3"),
    ],
)
def test_a_shim_that_does_not_start_hides_no_interpreter(checkout, place, name):
    shim = checkout.add("3.12")
    shim.write_text("#!/bin/sh\necho 'python3.12: command not found' >&2\nexit 127\n")
    checkout.add("3.12", place, name)
    path = f"{checkout.bin}:{checkout.bin.parent / 'later'}"
    assert checkout.enter(PATH=path) == installed(".venv", "3.12")
    checkout.add("3.11")
    assert checkout.enter(PATH=path, PYTHON="3.12") == installed(".venv-3.12", "3.12")
    assert checkout.enter(PATH=path, PYTHON="python3.12") == (0, ["active: .venv-3.12 3.12"])


def test_one_without_ensurepip_is_passed_over(checkout):
    checkout.add("3.11", venv=False)
    checkout.add("3.10")
    assert checkout.enter() == installed(".venv", "3.10")


NO_VENV = "cannot make virtual environments; on Debian and Ubuntu: apt install python3.13-venv"
NONE = (
    "no Python from 3.10 to 3.13 found; install one (Debian, Ubuntu: apt install python3 python3-venv) or "
    "set PYTHON to its path"
)
REFUSALS = [
    ([], {}, NONE),
    ([("3.9", True), ("3.14", True)], {}, NONE),
    ([("3.13", False)], {}, f"BIN/python3.13 {NO_VENV}"),
    ([("3.13", False)], {"PYTHON": "python3.13"}, f"PYTHON=python3.13 {NO_VENV}"),
    (
        [("3.9", True)],
        {"PYTHON": "python3.9"},
        "PYTHON=python3.9 is Python 3.9; lazytower needs one from 3.10 to 3.13",
    ),
    (
        [("3.11", True)],
        {"PYTHON": "python4"},
        "PYTHON=python4 does not start; set it to the path of a Python from 3.10 to 3.13",
    ),
]


@pytest.mark.parametrize(("found", "environment", "line"), REFUSALS)
def test_one_line_says_what_to_install(checkout, found, environment, line):
    for version, venv in found:
        checkout.add(version, venv=venv)
    code, lines = checkout.enter(**environment)
    assert (code, lines) == (1, [line.replace("BIN", str(checkout.bin))])
    assert not os.path.exists(checkout.root / ".venv")


QUICKSTART = """#!/usr/bin/env bash
. scripts/environment.sh
echo "$@" | grep -q -- '--set output.path=/'
echo 'model, average  0.2514     0.1425   0.0944  0.3421     0.2062   0.1131  0.1232'
"""
PYTEST = """case "$*" in *'-m not slow and not torture{more}') ;; *) exit 9 ;; esac
echo '12 {outcome}, 3 skipped in 4.56s (0:00:04)'
exit {code}
"""


def with_tests(checkout: Checkout, version: str, outcome: str = "passed", more: str = "") -> None:
    """An interpreter whose environments hold a `python` that is a run of the tests with this outcome."""
    path = checkout.add(version)
    program = checkout.bin.parent / f"pytest-{version}"
    program.write_text(PYTEST.format(outcome=outcome, code=int(outcome == "failed"), more=more))
    lines = f'echo "python() {{ sh {program} \\"\\$@\\"; }}" >> "$3/bin/activate"\n    ;;'
    path.write_text(path.read_text().replace(";;\nesac", f"{lines}\nesac"))


@pytest.fixture
def several(checkout) -> Checkout:
    shutil.copy(ROOT / "scripts/pythons.sh", checkout.root / "scripts")
    (checkout.root / "scripts/quickstart.sh").write_text(QUICKSTART)
    return checkout


def outcome(version: str, word: str, tests: str) -> str:
    figures = "quickstart Recall@20 0.2062, NDCG@10 0.0944"
    return f"Python {version}: {word}, {figures}, tests {tests}, 3 skipped in 4.56s"


def test_every_python_has_its_line_and_one_failure_is_one_of_all(several):
    with_tests(several, "3.11")
    with_tests(several, "3.13", "failed")
    with_tests(several, "3.12")
    code, lines = several.run("scripts/pythons.sh")
    assert code == 1
    for line, wanted in zip(
        lines[-3:],
        [
            outcome("3.11", "ok", "12 passed"),
            outcome("3.12", "ok", "12 passed"),
            outcome("3.13", "FAILED", "12 failed"),
        ],
        strict=True,
    ):
        assert line.startswith(wanted), lines
    assert sorted(path.name for path in several.root.glob(".venv*")) == [".venv", ".venv-3.12", ".venv-3.13"]


def test_one_python_and_fewer_tests(several):
    with_tests(several, "3.11")
    with_tests(several, "3.13", more=" and not any_python")
    code, lines = several.run("scripts/pythons.sh", "--lean", "3.13")
    assert code == 0 and lines[-1].startswith(outcome("3.13", "ok", "12 passed"))
    assert not (several.root / ".venv").exists()


def test_a_quickstart_that_fails_is_a_failure(several):
    with_tests(several, "3.12")
    (several.root / "scripts/quickstart.sh").write_text("echo broken; exit 3")
    code, lines = several.run("scripts/pythons.sh")
    assert code == 1
    assert lines[-1].startswith("Python 3.12: FAILED, quickstart has no figures, tests did not run, ")


@pytest.mark.parametrize(
    ("arguments", "environments", "last"),
    [
        ((), {".venv", ".venv-3.13"}, "newest: --lean 3.13"),
        (("tests/x.py",), {".venv"}, "tried with Python 3.11 only (newest here: 3.13)"),
    ],
)
def test_all_tests_run_here_and_lean_ones_on_the_newest(checkout, arguments, environments, last):
    for version in ("3.11", "3.13"):
        path = checkout.add(version)
        commands = "ruff() { :; }; mypy() { :; }; python() { echo tests; }"
        path.write_text(
            path.read_text().replace(";;\nesac", f'echo "{commands}" >> "$3/bin/activate"\n;;\nesac')
        )
    shutil.copy(ROOT / "scripts/test.sh", checkout.root / "scripts")
    stamps = "cat .venv*/requirements.sha256 | wc -l"
    (checkout.root / "scripts/pythons.sh").write_text(f"#!/usr/bin/env bash\n{stamps}\necho newest: $*\n")
    (checkout.root / "scripts/pythons.sh").chmod(0o755)
    (checkout.bin / "env").symlink_to(shutil.which("env"))
    (checkout.bin / "wc").symlink_to(shutil.which("wc"))
    code, lines = checkout.run("scripts/test.sh", *arguments)
    assert code == 0 and lines[2:] == [*["tests"] * 3, *["2"] * (len(environments) - 1), last]
    assert {path.name for path in checkout.root.glob(".venv*")} == environments


@pytest.mark.parametrize("version", ["3.9", "4", "--all"])
def test_other_pythons_are_refused(several, version):
    code, lines = several.run("scripts/pythons.sh", version)
    assert (code, lines) == (2, [f"scripts/pythons.sh: {version}: not one of 3.11 3.13 3.12 3.10"])
