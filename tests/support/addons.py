"""Tests that need TF-Addons, where this Python has it."""

import pytest

from configs.system.pythons import missing_addons

needs_addons = pytest.mark.skipif(missing_addons() is not None, reason=f"{missing_addons()}")


def skipping_tfa(parameters) -> list:
    """Parameters of a test; those that are or hold the engine tfa are skipped without TF-Addons."""
    return [pytest.param(each, marks=needs_addons) if "tfa" in each else each for each in parameters]
