"""Functions that the driver calls on the hosts of its cluster, through TensorFlow's runtime.

The op PyFunc calls a Python function by its name. TensorFlow knows only functions of the process that
traced the op, so every host registers its own under the same names; `called` is the op. What fails in a
function is returned as text and not raised, because an exception would reach the driver as one of
TensorFlow's, without its type.
"""

import json
import traceback
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import script_ops

from configs.errors import CheckpointError, UserError
from trainer.checkpoints.files import DamagedCheckpoint

_PREFIX = "lazytower/"
_registered: dict[str, Callable] = {}  # TensorFlow keeps weak references only
# The first that an error is an instance of is raised on the driver.
_ERRORS: dict[str, type[UserError]] = {
    "DamagedCheckpoint": DamagedCheckpoint,
    "CheckpointError": CheckpointError,
    "UserError": UserError,
}


class Service:
    """A function of JSON and arrays that every host has.

    Args:
      name: under which hosts know it.
      function: (request, a JSON object; arrays ...) -> (answer, a JSON object; arrays ...), run where the
        op is placed.
      outputs: dtypes and ranks of the arrays that it returns.
    """

    def __init__(self, name: str, function: Callable, outputs: Sequence[tuple[tf.DType, int]] = ()):
        self._token, self._function, self._outputs = _PREFIX + name, function, list(outputs)

    def register(self) -> None:
        """Makes the function callable in this process."""
        function = _registered[self._token] = self._run
        script_ops._py_funcs._funcs[self._token] = function

    def called(self, request: tf.Tensor, *arrays) -> list[tf.Tensor]:
        """The op that calls the function on the current device: (answer, a string scalar; arrays ...).

        Args:
          request: a JSON object, string scalar.
          *arrays: further arguments.
        """
        dtypes = [dtype for dtype, _ in self._outputs]
        answer, *found = tf.raw_ops.PyFunc(
            input=[request, *arrays], token=self._token, Tout=[tf.string, *dtypes]
        )
        answer.set_shape([])
        for value, (_, rank) in zip(found, self._outputs, strict=True):
            value.set_shape([None] * rank)
        return [answer, *found]

    def _run(self, request: bytes, *arrays: np.ndarray) -> list:
        try:
            answer, *found = self._function(json.loads(request), *arrays)
            return [json.dumps({"answer": answer}).encode(), *found]
        except Exception as error:  # answered() raises it on the driver
            expected = isinstance(error, UserError | OSError)
            failed = {
                "error": str(error) if expected else traceback.format_exc(),
                "kind": next(
                    (name for name, kind in _ERRORS.items() if isinstance(error, kind)), "UserError"
                ),
                "bug": not expected,
            }
            empty = [np.zeros([0] * rank, dtype.as_numpy_dtype) for dtype, rank in self._outputs]
            return [json.dumps(failed).encode(), *empty]


def answered(answer, host: str) -> dict:
    """The JSON object that a service returned, from its op's first output.

    Args:
      answer: of the op, evaluated.
      host: that ran it, for errors.

    Raises:
      DamagedCheckpoint, CheckpointError, UserError: as the service raised it, with the host's name.
      RuntimeError: the service has a bug; with its traceback.
    """
    document = json.loads(answer.numpy())
    if "error" not in document:
        return document["answer"]
    text = f"{document['error']} (on host {host})"
    if document["bug"]:
        raise RuntimeError(text)
    raise _ERRORS[document["kind"]](text)
