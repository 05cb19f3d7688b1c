"""How often a process looks for garbage in cycles."""

import atexit
import gc

_OBJECTS = 50_000
"""New objects after which the youngest are looked at; Python's default is 700."""


def collect_rarely() -> None:
    """Makes Python look for cycles of garbage more rarely, and not at all when the process ends.

    TensorFlow's modules are half a million objects: looking at them takes a sixth of the time in which they
    are imported, and 0.8 s at the end of each process (docs/decisions.md). Objects that are in no cycle are
    freed and closed as always.
    """
    gc.set_threshold(_OBJECTS, 10, 10)
    atexit.register(gc.freeze)
