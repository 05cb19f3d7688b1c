"""Versions of Python that lazytower runs on, and the one package that the newer ones lack."""

import importlib.util
import sys

OLDEST, NEWEST = (3, 10), (3, 13)
"""setup.py, README.md and scripts/interpreters.sh say the same; tests compare them."""
NEWEST_OF_ADDONS = (3, 11)
"""The last that TF-Addons was released for."""


def missing_addons() -> str | None:
    """Why this Python has no TF-Addons, None where it can be had; a build of your own counts."""
    if sys.version_info[:2] <= NEWEST_OF_ADDONS or importlib.util.find_spec("tensorflow_addons"):
        return None
    return f"TF-Addons has no release for Python {sys.version_info[0]}.{sys.version_info[1]}"
