"""The kernels as functions of tensors; `unique` to `gather_rows` fall back to TensorFlow ops."""

import ctypes
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from trainer.averages import Exponential
from trainer.kernels.build import kernels, without_tensorflow


def unique(ids):
    """As tf.unique of int64 [n]: (distinct values in order of first occurrence, their indices int32 [n])."""
    if kernels() is None:
        return tf.unique(ids)
    return tuple(kernels().lazytower_distinct(ids=ids))


def sum_rows(values, where, segments, source=None):
    """Segment sums of rows.

    Args:
      values: float32 [m, dim].
      where: int32 [n], the segment of each summand.
      segments: number of segments, int32 scalar.
      source: int32 [n], the row of `values` of each summand; None if summand i is row i.

    Returns:
      float32 [segments, dim].
    """
    if kernels() is None:
        parts = values if source is None else tf.gather(values, source)
        return tf.math.unsorted_segment_sum(parts, where, segments)
    source = tf.zeros([0], tf.int32) if source is None else source
    return kernels().lazytower_sum_rows(values=values, where=where, segments=segments, source=source)


def gather_rows(values, where):
    """tf.gather(values [u, dim], where int32 [n]) with a dense gradient, summed for each row, [u, dim]."""
    if kernels() is None:
        return tf.gather(values, where)

    @tf.custom_gradient
    def gathered(values):
        def gradient(parts):
            return sum_rows(parts, where, tf.shape(values)[0])

        return tf.gather(values, where), gradient

    return gathered(values)


def products(vectors):
    """Dot products of all pairs of a row's vectors, with their gradient; requires the kernels.

    Args:
      vectors: float32 [batch, n, dim].

    Returns:
      float32 [batch, n (n - 1) / 2]: vector 1 with 0, 2 with 0, 2 with 1, 3 with 0 ...
    """

    @tf.custom_gradient
    def multiplied(vectors):
        def gradient(above):
            return kernels().lazytower_products_gradient(vectors=vectors, above=above)

        return kernels().lazytower_products(vectors=vectors), gradient

    return multiplied(vectors)


def softmax_blocks(
    user,
    item,
    item_ids,
    log_q,
    part,
    scale: float,
    mask_hits: bool,
    first,
    group: int = 0,
    bfloat16: bool = False,
    shifts: bool = False,
):
    """The loss and its gradients, as trainer.models.losses._groups; requires the kernels."""
    *found, of_shifts = kernels().lazytower_softmax(
        user=user,
        item=item,
        item_ids=tf.cast(item_ids, tf.int64),
        log_q=log_q,
        part=part,
        first=first,
        scale=scale,
        mask_hits=mask_hits,
        group=group,
        rounded=bfloat16,
        shifts=shifts,
    )
    return *found, of_shifts if shifts else None


def allocate(records: tf.Variable, rows: int, width: int) -> None:
    """Allocates the rows of a variable of shape [None, width], as zeros on huge pages."""
    kernels().lazytower_allocate(records=records.handle, rows=rows, width=width)


def track(records: tf.Variable) -> None:
    """Lets trainer.kernels.build.release_tracked free a variable of records, in the process that has it."""
    kernels().lazytower_track(records=records.handle)


def address(records: tf.Variable) -> int:
    """Memory address of records from `allocate`; valid as long as their variable exists."""
    return int(kernels().lazytower_address(records=records.handle))


def lookup(records: tf.Variable, ids, dim: int):
    """The first `dim` values, float32 [n, dim], of the records with ids int64 [n]."""
    return kernels().lazytower_lookup(records=records.handle, ids=ids, dim=dim)


def update(records: tf.Variable, shared: list, ids, gradient, where, step, rate, optimizer, average) -> None:
    """One optimizer step on the records of distinct ids, in place, including their averages.

    Args:
      records: variable, float32 [rows, width].
      shared: variables of the state shared by all rows, in the order of RowOptimizer.shared_names.
      ids: int64 [n].
      gradient: float32 [n, dim]; with `where`, [m, dim], which are summed for each id.
      where: int32 [m], the index in `ids` of each gradient; None if gradient i is that of id i.
      step: float32 scalar, counted from 1.
      rate: float32 scalar, the learning rate at this step.
      optimizer: RowOptimizer with `native`.
      average: rule from trainer.averages, or None.
    """
    config = optimizer.config
    kernels().lazytower_update(
        records=records.handle,
        shared=[variable.handle for variable in shared],
        ids=ids,
        gradient=gradient,
        where=tf.zeros([0], tf.int32) if where is None else where,
        step=step,
        rate=rate,
        kind=config.kind,
        hyper=optimizer.native,
        clip=getattr(config, "clip_value", None) or 0.0,
        weight_decay=getattr(config, "weight_decay", 0.0),
        average=0 if average is None else 1 if isinstance(average, Exponential) else 2,
        average_decay=getattr(average, "decay", 0.0),
        average_start=float(getattr(average, "start_step", 0)),
    )


def in_place(records: tf.Variable) -> np.ndarray:
    """The records of a variable from `allocate`, float32 [rows, width], in place, to be written while no step
    runs; valid as long as the variable exists."""
    rows, width = tf.raw_ops.VariableShape(input=records.handle, out_type=tf.int64).numpy().tolist()
    values = (ctypes.c_float * (rows * width)).from_address(address(records))
    return np.frombuffer(values, np.float32).reshape(rows, width)


def start_rows(
    table: np.ndarray,
    rows: np.ndarray,
    records: np.ndarray,
    dim: int,
    slots: int,
    *,
    step: int,
    clocks: Sequence[int] = (),
    average: tuple[int, np.ndarray, bool] | None = None,
) -> None:
    """Writes records of another run into a table, bit for bit as trainer.warm_start.records.RecordRule makes
    them if slots are kept; requires the kernels. Several threads may write different rows at the same time.

    Args:
      table: from `in_place`.
      rows: int64 [n], distinct rows of the table, in its range; -1: the record goes nowhere.
      records: float32 [n, width] that begin with `dim` weights and `slots` slots.
      dim, slots: numbers of values.
      step: last step of the other run.
      clocks: which slots hold a step, from which `step` is subtracted.
      average: (first value of the average in `records`, factor of the difference float32 [n], whether the
        difference is added to the average instead of to the weight); None: weights are taken as they are.

    Raises:
      ValueError: shapes or types do not fit.
    """
    at, factor, onto_average = average or (0, np.zeros(len(records), np.float32), False)
    rows, factor, steps = np.ascontiguousarray(rows), np.ascontiguousarray(factor), np.array(clocks, np.int64)
    for array, kind in ((table, np.float32), (records, np.float32), (factor, np.float32), (rows, np.int64)):
        if array.dtype != kind or not array.flags.c_contiguous:
            raise ValueError(
                f"an array of {array.dtype} with strides {array.strides}, not of {kind.__name__}"
            )
    width, number = records.shape[1], len(records)
    if rows.shape != (number,) or factor.shape != (number,) or (number and rows.max() >= len(table)):
        raise ValueError(f"{number} records, rows {rows.shape} of {len(table)}, factors {factor.shape}")
    if dim + slots > width or at + dim > width or table.shape[1] - dim - slots not in (1, dim + 1):
        raise ValueError(f"records of {width} values do not fit a table of {table.shape[1]}")
    without_tensorflow().lazytower_start_rows(
        *(ctypes.c_int64(number), ctypes.c_int64(dim), ctypes.c_int64(slots)),
        *(ctypes.c_void_p(records.ctypes.data), ctypes.c_int64(width)),
        ctypes.c_void_p(records.ctypes.data + 4 * at if average else None),
        *(ctypes.c_void_p(factor.ctypes.data), ctypes.c_int32(onto_average)),
        *(ctypes.c_void_p(steps.ctypes.data), ctypes.c_int64(len(steps)), ctypes.c_float(step)),
        *(ctypes.c_void_p(rows.ctypes.data), ctypes.c_void_p(table.ctypes.data)),
        ctypes.c_int64(table.shape[1]),
    )


PANEL = 32  # as kPanel in topk.cc


def panels(vectors: np.ndarray) -> np.ndarray:
    """Vectors [n, dim] as `best_rows` reads them: float32 [ceil(n / PANEL), dim, PANEL], filled up with 0."""
    number, dim = vectors.shape
    padded = np.zeros([-(-number // PANEL) * PANEL, dim], np.float32)
    padded[:number] = vectors
    return np.ascontiguousarray(padded.reshape(-1, PANEL, dim).transpose(0, 2, 1))


def best_rows(users, panels, rows, banned, k):
    """The k largest dot products of each user, by score, then by the lower row; requires the kernels.

    A product is the sum over dimensions in their order, so the answer depends neither on the other users nor
    on the number of threads.

    Args:
      users: float32 [n, dim].
      panels: of the m items, from `panels`.
      rows: int32 [m], what they are called; rising.
      banned: (position in the batch, row), int64 each: pairs that must not be returned.
      k: int32 scalar, at least 1.

    Returns:
      (scores float32 [n, k], rows int32 [n, k]), best first; if fewer than k are left, the lowest float32 and
      -1.
    """
    owners, forbidden = banned
    return kernels().lazytower_top_k(
        users=users, panels=panels, rows=rows, owners=owners, banned=forbidden, k=k
    )
