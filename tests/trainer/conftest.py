"""Fixtures of all tests of the trainer."""

import sys

import pytest


@pytest.fixture(scope="module", autouse=True)
def _graphs(request):
    """All of them run graphs as they were traced."""
    if "tensorflow" in sys.modules:
        request.getfixturevalue("plain_graphs")
