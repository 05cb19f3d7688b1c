"""Starts TensorFlow for all tests as the commands do: Keras 2, quiet, deterministic."""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
