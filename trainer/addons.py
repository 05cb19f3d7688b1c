"""Imports TensorFlow Addons on TensorFlow 2.20; nothing else imports it directly.

TF-Addons 0.23, its last release, imports `keras.src.engine.keras_tensor`, a module of Keras 2 that the
`keras` package lacks since version 3. tf_keras, the maintained Keras 2, has it under its own name. For the
optimizers used here, two entries in `sys.modules` suffice. `import_addons` sets them during the import only,
and silences the two warnings that TF-Addons prints (end of life, tested versions). TF-Addons has no release
for Python 3.12 and later; there, `engine: tfa` is not available.
"""

import importlib
import importlib.util
import os
import sys
import types
import warnings

from configs.errors import UserError
from configs.system.pythons import missing_addons


def import_addons():
    """Returns the module tensorflow_addons.

    Raises:
      UserError: TF-Addons is not installed; or tf.keras is Keras 3, because it was imported before lazytower
        selected Keras 2.
    """
    if "tensorflow_addons" in sys.modules:
        return sys.modules["tensorflow_addons"]
    if reason := missing_addons():
        raise UserError(f"{reason}: use Python 3.10 or 3.11, or engine: rows")
    if importlib.util.find_spec("tensorflow_addons") is None:
        raise UserError("TF-Addons is not installed: pip install tensorflow-addons, or use engine: rows")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    import tensorflow as tf

    if not tf.keras.layers.Layer.__module__.startswith("tf_keras."):
        raise UserError(
            "TF-Addons requires Keras 2, but this process loaded Keras 3: set TF_USE_LEGACY_KERAS=1 in the "
            "environment before Python starts, or use engine: rows"
        )
    keras_tensor = importlib.import_module("tf_keras.src.engine.keras_tensor")
    engine = types.ModuleType("keras.src.engine")
    engine.keras_tensor = keras_tensor
    sys.modules["keras.src.engine"] = engine
    sys.modules["keras.src.engine.keras_tensor"] = keras_tensor
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"(?s).*TensorFlow Addons \(TFA\) has ended")
            warnings.filterwarnings("ignore", message=r"(?s).*Tensorflow Addons supports using Python ops")
            return importlib.import_module("tensorflow_addons")
    finally:
        # Other code must not find modules of Keras 2 in Keras 3.
        del sys.modules["keras.src.engine"], sys.modules["keras.src.engine.keras_tensor"]
