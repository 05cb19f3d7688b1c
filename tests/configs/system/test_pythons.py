"""The supported Pythons are stated alike everywhere, and so is what some of them lack."""

import pathlib
import re
import sys
from collections import namedtuple

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from configs.system import pythons

ROOT = pathlib.Path(__file__).parents[3]
SUPPORTED = [f"3.{minor}" for minor in range(pythons.OLDEST[1], pythons.NEWEST[1] + 1)]
Version = namedtuple("Version", ["major", "minor", "micro", "releaselevel", "serial"])


def test_setup_allows_these():
    [allowed] = re.findall(r'python_requires="(.*)"', (ROOT / "setup.py").read_text())
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}" in SpecifierSet(allowed)] == SUPPORTED


def test_scripts_find_these():
    text = (ROOT / "scripts/interpreters.sh").read_text()
    [found] = re.findall(r"^SUPPORTED=\((.*)\)$", text, re.MULTILINE)
    # The newest with TF-Addons first, so that everything is tested where there is a choice.
    first, *others = found.split()
    assert first == ".".join(map(str, pythons.NEWEST_OF_ADDONS)) and sorted([first, *others]) == SUPPORTED


@pytest.mark.parametrize("name", ["setup.py", "docker/constraints-cpu.txt", "docker/constraints-tpu.txt"])
def test_addons_are_installed_where_there_are_wheels(name):
    [text] = re.findall(r"tensorflow-addons==[^\"#\n]*(?:\"3[^\"]*\")?", (ROOT / name).read_text())
    marker = Requirement(text.strip()).marker
    with_addons = [version for version in SUPPORTED if marker.evaluate({"python_version": version})]
    assert with_addons == SUPPORTED[: SUPPORTED.index(".".join(map(str, pythons.NEWEST_OF_ADDONS))) + 1]


@pytest.mark.parametrize(
    ("minor", "built", "reason"),
    [
        (10, False, None),
        (11, False, None),
        (12, False, "TF-Addons has no release for Python 3.12"),
        (13, False, "TF-Addons has no release for Python 3.13"),
        (13, True, None),
    ],
)
def test_addons_are_missing_on_newer_ones(monkeypatch, minor, built, reason):
    monkeypatch.setattr(sys, "version_info", Version(3, minor, 1, "final", 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if built else None)
    assert pythons.missing_addons() == reason
