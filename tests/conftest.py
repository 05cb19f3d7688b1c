"""Starts TensorFlow for all tests as the commands do: Keras 2, quiet, deterministic. Holds their fixtures."""

import functools
import gc
import os
import socket

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Several processes share the processors, and NumPy's threads would wait for one another busily.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# As in configs.system.storage, which gives the reason; a test may import gcsfs before that module.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

import pytest
from absl import logging
from hypothesis import HealthCheck, settings

from configs.system.garbage import collect_rarely
from tests.support import shared
from tests.support.gcs_bucket import bucket
from tests.support.job_runs import cloud
from tests.support.kubernetes_jobs import kubernetes, submit
from tests.support.plain_graphs import plain_graphs

# Before anything restores the verbosity: absl's default hides what tests look for in the log.
logging.set_verbosity(logging.INFO)
# A slow or busy machine must not fail a test, and a failure must be reproducible everywhere.
settings.register_profile(
    "any machine", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

__all__ = ["bucket", "cloud", "kubernetes", "plain_graphs", "submit"]  # fixtures


def pytest_configure(config):
    """The process that pytest was started in makes room for what its processes share."""
    collect_rarely()
    if not hasattr(config, "workerinput"):
        config.add_cleanup(functools.partial(shared.end, shared.begin()))


def pytest_collection_modifyitems(items):
    """Torture tests have no limit of time."""
    for item in items:
        if item.get_closest_marker("torture"):
            item.add_marker(pytest.mark.timeout(0))


def pytest_collection_finish():
    """All modules are imported: what they hold stays, so later collections of garbage need not look at it.

    An export collects garbage, which takes longer than its own work once half a million objects are there.
    """
    _keep_what_is_left()


def pytest_runtest_teardown(item, nextitem):
    """What a file of tests leaves in TensorFlow's registries stays as well. A default that Beam's clients of
    Google's services set for the whole process does not: servers of later tests would stop after a minute."""
    socket.setdefaulttimeout(None)
    if nextitem is not None and nextitem.path != item.path:
        _keep_what_is_left()


def _keep_what_is_left():
    gc.collect()
    gc.freeze()
