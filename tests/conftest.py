"""Starts TensorFlow for all tests as the commands do: Keras 2, quiet, deterministic. Holds their fixtures."""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As configs.system.storage, which says why; a test may import gcsfs before it.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

from absl import logging
from hypothesis import HealthCheck, settings

from tests.support.gcs_bucket import bucket
from tests.support.job_runs import cloud

# Before anything sets it back to what it was: absl's own default hides what tests look for in the log.
logging.set_verbosity(logging.INFO)
# A machine that is slow or busy is no reason to fail, and what fails must fail for everybody.
settings.register_profile(
    "any machine", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

__all__ = ["bucket", "cloud"]  # fixtures
