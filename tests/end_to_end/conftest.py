"""Fixtures of the tests of several commands."""

from tests.support.quick_beam import quick_beam

__all__ = ["quick_beam"]
