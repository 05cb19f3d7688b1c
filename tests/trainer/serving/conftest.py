"""Fixtures of all tests of serving."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _graphs(plain_graphs):
    """All of them run graphs as they were traced."""
