"""Starts TensorFlow for all tests as the commands do: Keras 2, quiet, deterministic."""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Read when gcsfs is imported; tests.gcs_bucket says why.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
