"""TensorFlow Addons on TensorFlow 2.20: the one place that imports it.

TF-Addons 0.23 (its last release) reaches into `keras.src.engine.keras_tensor`, a module of Keras 2 that the
`keras` package no longer has since version 3. tf_keras, the maintained Keras 2, has it under its own name.
Two entries in `sys.modules` are all it takes for the optimizers used here; `import_addons` sets them, only
around the import, and silences exactly the two notices that TF-Addons prints (end of life, tested versions).
It has no release for Python 3.12 and later, where lazytower does without it.
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
      UserError: TF-Addons is not installed here; or tf.keras is Keras 3 in this process, because something
        imported it before lazytower could choose Keras 2.
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
            "TF-Addons needs Keras 2, and this process loaded Keras 3: set TF_USE_LEGACY_KERAS=1 in the "
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
        # Others must not find half a Keras 2 inside Keras 3.
        del sys.modules["keras.src.engine"], sys.modules["keras.src.engine.keras_tensor"]
