"""Optional packages of TensorFlow operations that indexes need, or an error that says how to install them."""

import importlib
import importlib.util
import os
from types import ModuleType

from configs.errors import ConfigError

INSTALL = {"scann": "pip install 'scann==1.4.2'"}
# Module that registers a package's operations when imported, and their shared library inside the package.
_OPERATIONS = {"scann": ("scann.scann_ops.py.scann_ops", "scann_ops/cc/_scann_ops.so")}


def require_package(package: str, what: str) -> None:
    """Raises ConfigError unless the package is installed; `what` needs it. Imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{what} needs the package {package}, which is not installed; install it: {INSTALL[package]}"
        )


def load_operations(package: str, what: str) -> ModuleType:
    """The package's module of TensorFlow operations, which importing it registers.

    Raises:
      ConfigError: it is not installed, or built for another TensorFlow; `what` needs it.
    """
    require_package(package, what)
    import tensorflow as tf

    try:
        return importlib.import_module(_OPERATIONS[package][0])
    except (ImportError, tf.errors.OpError) as error:
        line = str(error).splitlines()[0]
        raise ConfigError(
            f"{what}: the operations of {package} do not load into TensorFlow {tf.__version__} ({line}); "
            f"install the version built for it: {INSTALL[package]}"
        ) from None


def op_library(package: str) -> str:
    """Path of the shared library that servers must load; the package must be installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{package} is not installed")
    [folder] = spec.submodule_search_locations
    return os.path.join(folder, _OPERATIONS[package][1])
