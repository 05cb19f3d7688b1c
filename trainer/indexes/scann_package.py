"""The optional package scann: its operations, or an error that says how to get them."""

import importlib.util
import os

from configs.errors import ConfigError

INSTALL_SCANN = "pip install 'scann==1.4.2'"


def require_scann(what: str) -> None:
    """Raises ConfigError unless scann is installed; `what` needs it. Imports nothing."""
    if importlib.util.find_spec("scann") is None:
        raise ConfigError(f"{what} needs the package scann, which is not installed: {INSTALL_SCANN}")


def load_scann(what: str):
    """scann's module of TensorFlow operations, which are registered by importing it.

    Raises:
      ConfigError: it is not installed, or not for this TensorFlow; `what` needs it.
    """
    require_scann(what)
    import tensorflow as tf

    try:
        from scann.scann_ops.py import scann_ops
    except (ImportError, tf.errors.OpError) as error:
        line = str(error).splitlines()[0]
        raise ConfigError(
            f"{what}: scann's operations do not load into TensorFlow {tf.__version__} ({line}): "
            f"{INSTALL_SCANN}"
        ) from None
    return scann_ops


def op_library() -> str:
    """Path of the shared library that servers must load; scann must be installed."""
    [folder] = importlib.util.find_spec("scann").submodule_search_locations
    return os.path.join(folder, "scann_ops", "cc", "_scann_ops.so")
