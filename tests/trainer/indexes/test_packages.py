"""What is reported where scann is missing or does not fit."""

import importlib.util
import sys

import pytest

from configs.errors import ConfigError
from trainer.indexes.packages import load_operations, op_library, require_package


@pytest.fixture
def broken_scann(tmp_path, monkeypatch):
    """A package whose operations cannot be imported, as one that was built for another TensorFlow."""
    for folder in ("scann", "scann/scann_ops", "scann/scann_ops/py"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / "scann/scann_ops/py/scann_ops.py").write_text("raise ImportError('undefined symbol: x')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "scann"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "scann"]:
        del sys.modules[name]


def test_operations_that_do_not_load_are_named(broken_scann):
    with pytest.raises(ConfigError, match=r"WHAT: .*TensorFlow 2\.\d+.*undefined symbol: x.*scann==1\.4\.2"):
        load_operations("scann", "WHAT")


def test_the_shared_library_is_in_the_package(broken_scann):
    assert op_library("scann") == str(broken_scann / "scann/scann_ops/cc/_scann_ops.so")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match="WHAT requires the package scann, which is not installed; run pip install"
    ):
        require_package("scann", "WHAT")
    with pytest.raises(ConfigError, match="WHAT requires the package scann"):
        load_operations("scann", "WHAT")
