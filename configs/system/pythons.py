"""Python versions that lazytower supports, and the one package that newer ones lack."""

import importlib.util
import sys

OLDEST, NEWEST = (3, 10), (3, 13)
"""Repeated in setup.py, README.md and scripts/interpreters.sh; tests compare them."""
NEWEST_OF_ADDONS = (3, 11)
"""Newest Python that TF-Addons was released for."""


def missing_addons() -> str | None:
    """Why this Python has no TF-Addons; None: it has, or one that you built is installed."""
    if sys.version_info[:2] <= NEWEST_OF_ADDONS or importlib.util.find_spec("tensorflow_addons"):
        return None
    return f"TF-Addons has no release for Python {sys.version_info[0]}.{sys.version_info[1]}"
