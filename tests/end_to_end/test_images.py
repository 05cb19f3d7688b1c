"""Container images: pinned sets, Dockerfiles and scripts. scripts/images.sh performs the installations."""

import ast
import functools
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[2]
DOCKERFILES = sorted(ROOT.glob("docker/*.Dockerfile"))
SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), *ROOT.glob("docker/*.sh")])
# By image: its set, and what it has in place of a package (None: nothing, on purpose).
IMAGES = {
    "trainer-cpu": ("constraints-cpu.txt", {}),
    "trainer-tpu": ("constraints-tpu.txt", {"tensorflow": "tensorflow-tpu"}),
    "pipelines": (
        "constraints-pipelines.txt",
        {"tensorflow": "tensorflow-cpu"}
        | dict.fromkeys(["tf-keras", "tensorflow-recommenders", "tensorflow-addons"]),
    ),
}


@functools.cache
def pins(name: str, python: str = "3.11") -> dict[str, str]:
    """Versions by package in a set, for a version of Python."""
    found = {}
    for line in (ROOT / "docker" / name).read_text().splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        requirement = Requirement(text)
        [exact] = requirement.specifier
        assert exact.operator == "==" and not exact.version.endswith("*"), line
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            package = canonicalize_name(requirement.name)
            assert package not in found, f"{package} is pinned twice in {name} for {python}"
            found[package] = exact.version
    return found


def declared() -> list[Requirement]:
    """install_requires of setup.py."""
    calls = [
        node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Call)
    ]
    [texts] = [k.value for call in calls for k in call.keywords if k.arg == "install_requires"]
    return [Requirement(text) for text in ast.literal_eval(texts)]


@pytest.mark.parametrize("image", IMAGES)
def test_what_setup_requires_is_pinned_in_every_image(image):
    name, replaced = IMAGES[image]
    for requirement in declared():
        package = replaced.get(requirement.name, requirement.name)
        if package:
            version = pins(name)[canonicalize_name(package)]
            assert requirement.specifier.contains(version), f"{package} {version} in {name}"
        else:
            assert requirement.name not in pins(name)


@pytest.mark.parametrize(
    ("name", "python"),
    [
        ("constraints-tpu.txt", "3.10"),
        ("constraints-tpu.txt", "3.11"),
        ("constraints-tpu.txt", "3.13"),
        ("constraints-pipelines.txt", "3.11"),
    ],
)
def test_sets_agree(name, python):
    cpu = pins("constraints-cpu.txt", python)
    found = pins(name, python)
    others = {package: version for package, version in found.items() if cpu.get(package, version) != version}
    assert not others


def test_the_tpu_set_is_whole_on_tpu_machines_too():
    """They have Python 3.10, where pip sees nothing but the set; scripts/images.sh installs it."""
    old, new = (pins("constraints-tpu.txt", python) for python in ("3.10", "3.11"))
    assert set(new) <= set(old)
    # What packages require only on 3.10, with the versions of the resolved set.
    resolved = [set(pins("constraints-cpu.txt", python)) for python in ("3.10", "3.11")]
    only = resolved[0] - resolved[1] - {"tomli", "greenlet"}  # of pytest and SQLAlchemy
    assert set(old) - set(new) == only - set(new) != set()
    for requirement in declared():
        package = "tensorflow-tpu" if requirement.name == "tensorflow" else requirement.name
        assert requirement.specifier.contains(old[canonicalize_name(package)])


def test_the_tpu_set_has_one_tensorflow_and_the_libtpu_that_fits():
    from trainer.preflight.checks import CheckedMachine, check_protobuf, check_wheel

    tpu = CheckedMachine(version=pins("constraints-tpu.txt").get, chip_wanted=True)
    assert check_wheel(tpu).status == "ok" and check_protobuf(tpu).status == "ok"


def test_boot_comes_from_the_sdk_of_the_pinned_beam():
    text = (ROOT / "docker/pipelines.Dockerfile").read_text()
    assert f"apache/beam_python3.11_sdk:{pins('constraints-pipelines.txt')['apache-beam']}\n" in text


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles(path):
    image, lines = path.stem, path.read_text().splitlines()
    assert image in IMAGES
    assert "latest" not in path.read_text()
    assert "ARG BASE=python:3.11-slim" in lines and any(line.startswith("FROM ${BASE}") for line in lines)
    installs = [line for line in lines if line.startswith("RUN docker/")]
    steps = ["requirements", *(["kernels"] if image == "trainer-cpu" else []), "package"]
    assert installs == [f"RUN docker/install.sh {image} {step}" for step in steps]
    # The layer with the requirements must not depend on the source.
    early = lines[: lines.index(installs[0])]
    assert [line for line in early if line.startswith("COPY")] == [
        "COPY setup.py pyproject.toml ./",
        "COPY docker ./docker",
    ]
    assert "USER 1000" in lines
    assert not any("pip install" in line for line in lines), "install steps stand in docker/install.sh"
    for source in re.findall(r"^COPY (?!--)(.+) \S+$", path.read_text(), re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists()
            assert f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_every_image_has_a_dockerfile():
    assert {path.stem for path in DOCKERFILES} == set(IMAGES)


@pytest.mark.parametrize("arguments", [("trainer-gpu", "package"), ("trainer-cpu", "all")])
def test_install_knows_its_steps(arguments):
    done = subprocess.run(
        [ROOT / "docker/install.sh", *arguments], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 2 and "no such image or step" in done.stderr


def test_images_sh_knows_the_images():
    done = subprocess.run([ROOT / "scripts/images.sh", "none"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 2 and "docker/none.Dockerfile" in done.stderr


def test_images_sh_tells_of_failures(tmp_path):
    # The first command of the lint fails, the last one succeeds.
    for name, code in (("hadolint", 1), ("shellcheck", 0), ("python", 1)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} was here\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": f"{tmp_path}/python"}
    command = [ROOT / "scripts/images.sh", "pipelines"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "FAIL  lint: lint",
        "      hadolint was here",
        "FAIL  pipelines: installed: build pipelines",
        "      python was here",
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_run(path):
    sourced = path.name in ("environment.sh", "interpreters.sh")
    assert os.access(path, os.X_OK) != sourced
    assert sourced or path.read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed")
def test_dockerfiles_lint_clean():
    done = subprocess.run(["hadolint", *DOCKERFILES], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_scripts_lint_clean():
    command = ["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *SCRIPTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout
