"""Fixtures of all tests of training."""

from tests.support.plain_graphs import plain_graphs

__all__ = ["plain_graphs"]
