"""Fixtures of all tests of steps on TPUs and clusters."""

from tests.support.plain_graphs import plain_graphs

__all__ = ["plain_graphs"]
