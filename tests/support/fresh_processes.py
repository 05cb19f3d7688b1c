"""Fewer processes for tests of what runs in several: each start of TensorFlow takes seconds."""

import types

import pytest


def only_first_is_fresh(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType) -> None:
    """Runs only the first call of `module.in_fresh_process` in another process, and later ones in this."""
    start, calls = module.in_fresh_process, []

    def call(function, *args):
        calls.append(function)
        return start(function, *args) if len(calls) == 1 else function(*args)

    monkeypatch.setattr(module, "in_fresh_process", call)
