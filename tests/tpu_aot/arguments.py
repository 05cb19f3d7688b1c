"""Variables as arguments and results of a function: what is compiled offline has no variables."""

import contextlib
from unittest import mock

import tensorflow as tf
from tensorflow.python.eager import record, tape
from tensorflow.python.ops.resource_variable_ops import ResourceVariable


class Arguments:
    """Stands in for some variables while a function is traced.

    Args:
      variables: tf.Variable, distinct; no others may be read or written in the function.
    """

    def __init__(self, variables):
        self._variables = list(variables)
        self._places = {id(variable): i for i, variable in enumerate(self._variables)}
        self._values: list = []

    @property
    def specs(self) -> list[tf.TensorSpec]:
        """Of the variables' values, in order."""
        return [tf.TensorSpec(variable.shape, variable.dtype) for variable in self._variables]

    @property
    def results(self) -> list:
        """The variables' values after all that has been traced, in order."""
        return list(self._values)

    @contextlib.contextmanager
    def given(self, values):
        """Inside, the variables have these values, and are written as they would be; tapes see them."""
        self._values = list(values)
        methods = {
            "_read_variable_op": self._read,
            "assign": lambda variable, value: value,
            "assign_add": lambda variable, value: self._get(variable) + value,
            "assign_sub": lambda variable, value: self._get(variable) - value,
        }
        with contextlib.ExitStack() as stack:
            for name, after in methods.items():
                method = after if name == "_read_variable_op" else self._writing(after)
                stack.enter_context(mock.patch.object(ResourceVariable, name, _method(method)))
            yield

    def _get(self, variable):
        return self._values[self._places[id(variable)]]

    def _read(self, variable, no_copy=False):
        value = tf.identity(self._get(variable))
        # As the real one does: tapes know a variable by its handle.
        if variable.trainable:
            tape.variable_accessed(variable)
        record.record_operation("ReadVariableOp", [value], [variable.handle], lambda gradient: [gradient])
        return value

    def _writing(self, after):
        def write(variable, value, use_locking=None, name=None, read_value=True):
            value = tf.ensure_shape(
                tf.convert_to_tensor(after(variable, value), variable.dtype), variable.shape
            )
            self._values[self._places[id(variable)]] = value
            return value

        return write


def _method(function):
    """A bound method as a plain function, which becomes a method of the class that it is put into."""
    return lambda variable, *args, **kwargs: function(variable, *args, **kwargs)
