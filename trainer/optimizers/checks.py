"""What every optimizer asks of gradients and variables, before anything moves."""

import tensorflow as tf


@tf.autograph.experimental.do_not_convert
def checked(grads_and_vars) -> list[tuple]:
    """Pairs (gradient, variable) that can be applied; pairs without a gradient are left out.

    Args:
      grads_and_vars: pairs (gradient, tf.Variable); gradients are dense, tf.IndexedSlices or None.

    Returns:
      Pairs; gradients are float tensors of the variable's shape, or tf.IndexedSlices of integer indices [n]
      and float values [n, ...]. Shapes known only at run time are looked at then.

    Raises:
      TypeError: a variable is not floating, or a gradient is neither dense, slices nor None.
      ValueError: shapes do not fit, a variable occurs twice, or there is no gradient at all.
    """
    pairs, seen = [], set()
    for gradient, variable in grads_and_vars:
        check_variable(variable)
        if variable.ref() in seen:
            raise ValueError(f"{_name(variable)} occurs twice; sum its gradients and give it once")
        seen.add(variable.ref())
        if gradient is not None:
            pairs.append((checked_gradient(gradient, variable), variable))
    if not pairs:
        raise ValueError("No gradients provided for any variable: the list is empty or each is None")
    return pairs


def check_variable(variable) -> None:
    """Raises TypeError or ValueError unless a variable is real, floating and of a known shape."""
    if not isinstance(variable, tf.Variable):
        raise TypeError(f"pairs must be (gradient, tf.Variable); found {type(variable).__name__}")
    if not stored_dtype(variable).is_floating:
        kind = stored_dtype(variable).name
        raise TypeError(f"{_name(variable)} is {kind}; only floating variables can be trained")
    if not variable.shape.is_fully_defined():
        raise ValueError(f"{_name(variable)} has the shape {variable.shape}; it must be known in full")


def check_one_copy(variable) -> None:
    """Raises ValueError where a variable has copies on several replicas, which would drift apart."""
    strategies = (tf.distribute.get_strategy(), getattr(variable, "_distribute_strategy", None))
    replicas = max(s.num_replicas_in_sync for s in strategies if s is not None)
    if replicas > 1:
        raise ValueError(
            f"{_name(variable)}: apply_gradients does not sum the gradients of {replicas} replicas; "
            "use the optimizer that .keras() returns"
        )


@tf.autograph.experimental.do_not_convert
def checked_gradient(gradient, variable):
    """A gradient as `checked` returns it; raises as `checked`."""
    if isinstance(gradient, tf.IndexedSlices):
        return _checked_slices(gradient, variable)
    if isinstance(gradient, (tf.SparseTensor, tf.RaggedTensor)):
        raise TypeError(
            f"{_name(variable)}: its gradient is a {type(gradient).__name__}; use tf.IndexedSlices"
        )
    gradient = tf.convert_to_tensor(gradient, dtype_hint=stored_dtype(variable))
    _check_floating(gradient, variable)
    if not gradient.shape.is_compatible_with(variable.shape):
        raise ValueError(
            f"{_name(variable)} has the shape {variable.shape}, its gradient {gradient.shape}; "
            "they must be equal"
        )
    return gradient if gradient.shape.is_fully_defined() else tf.ensure_shape(gradient, variable.shape)


def _checked_slices(gradient, variable):
    values, indices = tf.convert_to_tensor(gradient.values), tf.convert_to_tensor(gradient.indices)
    _check_floating(values, variable)
    if not indices.dtype.is_integer:
        raise TypeError(f"{_name(variable)}: the indices of its gradient are {indices.dtype.name}")
    given = gradient.dense_shape
    if given is not None and not isinstance(given, tf.TensorShape):
        given = tf.get_static_value(given)
    rows = tf.TensorShape(given)
    wanted = tf.TensorShape([indices.shape[0] if indices.shape.rank == 1 else None, *variable.shape[1:]])
    fits = variable.shape.rank > 0 and indices.shape.is_compatible_with([None])
    if not (fits and values.shape.is_compatible_with(wanted) and rows.is_compatible_with(variable.shape)):
        raise ValueError(
            f"{_name(variable)} has the shape {variable.shape}; its gradient has indices {indices.shape}, "
            f"values {values.shape}" + ("" if given is None else f" and is of a variable {rows}")
        )
    if not values.shape.is_fully_defined():
        values = tf.ensure_shape(values, wanted)
    return tf.IndexedSlices(values, indices, gradient.dense_shape)


@tf.autograph.experimental.do_not_convert
def range_checks(pairs) -> list:
    """Looks at the indices of all slices; raises eagerly, else returns ops that updates must wait for.

    Raises:
      tf.errors.InvalidArgumentError: an index is not a row of its variable.
    """
    checks = []
    for gradient, variable in pairs:
        if not isinstance(gradient, tf.IndexedSlices):
            continue
        rows = variable.shape[0]
        least, most = tf.reduce_min(gradient.indices), tf.reduce_max(gradient.indices)
        fine = tf.logical_and(least >= 0, most < tf.cast(rows, most.dtype))
        if not tf.executing_eagerly():
            text = f"{_name(variable)}: an index of its gradient is not in [0, {rows}); least and greatest:"
            checks.append(tf.debugging.Assert(fine, [text, least, most]))
        elif not fine:
            wrong = int(least) if least < 0 else int(most)
            text = f"{_name(variable)}: index {wrong} of its gradient is not in [0, {rows})"
            raise tf.errors.InvalidArgumentError(None, None, text)
    return checks


@tf.autograph.experimental.do_not_convert
def range_checked(pairs) -> list[tuple]:
    """`pairs` with gradients that wait for `range_checks`."""
    with tf.control_dependencies(range_checks(pairs)):
        return [(None if g is None else _waiting(g), v) for g, v in pairs]


def stored_dtype(variable) -> tf.DType:
    """The type a variable is stored in; under a mixed-precision policy `dtype` may be what it is read as."""
    return getattr(variable, "true_dtype", variable.dtype)


def _waiting(gradient):
    if isinstance(gradient, tf.IndexedSlices):
        values, indices = tf.identity(gradient.values), tf.identity(gradient.indices)
        return tf.IndexedSlices(values, indices, gradient.dense_shape)
    return tf.identity(gradient)


def _check_floating(values, variable) -> None:
    if not values.dtype.is_floating:
        raise TypeError(f"{_name(variable)}: its gradient is {values.dtype.name}; it must be floating")


def _name(variable) -> str:
    return f"variable {variable.name.partition(':')[0]}"
