"""Fixtures of all tests of prepare."""

from tests.support.quick_beam import quick_beam

__all__ = ["quick_beam"]
