"""Several tensors as one: whatever one host sends another at one point of a step is one message.

Each message of TensorFlow's runtime costs a fixed time, whatever its size. Values travel as int32, bit by
bit.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

_WORDS = {tf.float32: 1, tf.int32: 1, tf.bool: 1, tf.int64: 2}
"""Values of int32 that hold one value."""


class Packing:
    """The layout of tensors of static shapes in a flat one.

    Args:
      tensors: examples, by name, of dtypes float32, int32, int64 or bool.

    Raises:
      TypeError: another dtype.
    """

    def __init__(self, tensors: dict[str, tf.Tensor]):
        self._specs = {name: (value.shape, value.dtype) for name, value in tensors.items()}
        for name, (_, dtype) in self._specs.items():
            if dtype not in _WORDS:
                raise TypeError(f"{name}: {dtype.name} cannot be sent to other hosts")
        self._sizes = [shape.num_elements() * _WORDS[dtype] for shape, dtype in self._specs.values()]

    def packed(self, tensors: dict[str, tf.Tensor]):
        """int32 [n] of tensors with the names, shapes and dtypes of the layout."""
        flat = [tf.zeros([0], tf.int32)]
        for name, (_, dtype) in self._specs.items():
            value = tensors[name]
            value = tf.cast(value, tf.int32) if dtype == tf.bool else tf.bitcast(value, tf.int32)
            flat.append(tf.reshape(value, [-1]))
        return tf.concat(flat, axis=0)

    def unpacked(self, flat) -> dict[str, tf.Tensor]:
        """The tensors of `packed`."""
        found = {}
        parts = tf.split(flat, self._sizes) if self._sizes else []
        for (name, (shape, dtype)), part in zip(self._specs.items(), parts, strict=True):
            words = [] if _WORDS[dtype] == 1 else [_WORDS[dtype]]
            value = tf.reshape(part, [*shape, *words])
            found[name] = tf.cast(value, tf.bool) if dtype == tf.bool else tf.bitcast(value, dtype)
        return found


class Received(NamedTuple):
    """What a host has of a batch at the beginning of a step; on the host."""

    rows: dict
    """Its rows of each column, by name."""
    whole: dict
    """All rows of the shared columns, by name."""
    values: list
    """What every host gets."""


def send_batch(
    columns: dict, shared: Sequence[str], values: Sequence[tf.Tensor], devices: Sequence[str]
) -> list[Received]:
    """Sends each host its rows of a batch, all rows of some columns, and some values; in one message.

    Args:
      columns: by name, [rows, ...], where the number of rows is divisible by that of hosts.
      shared: names of the columns that every host gets whole too.
      values: tensors of any shape that every host gets.
      devices: of the hosts; columns and values are on the first.

    Returns:
      What each host has then.
    """
    n, found = len(devices), []
    with tf.device(devices[0]):
        cut = {name: tf.split(value, n) for name, value in columns.items()}
        own = {name: parts for name, parts in cut.items() if name not in shared}
        whole = {name: columns[name] for name in shared if name in columns}
        named = {f"value/{i}": value for i, value in enumerate(values)}
    for h, device in enumerate(devices):
        if h == 0:
            found.append(Received({name: parts[0] for name, parts in cut.items()}, whole, list(values)))
            continue
        message = {f"own/{name}": parts[h] for name, parts in own.items()}
        message |= {f"whole/{name}": value for name, value in whole.items()} | named
        packing = Packing(message)
        with tf.device(devices[0]):
            flat = packing.packed(message)
        with tf.device(device):
            there = packing.unpacked(tf.identity(flat))
            all_rows = {name: there[f"whole/{name}"] for name in whole}
            rows = {name: there[f"own/{name}"] for name in own}
            rows |= {name: tf.split(value, n)[h] for name, value in all_rows.items()}
        found.append(Received(rows, all_rows, [there[name] for name in named]))
    return found


def exchange(strategy: tf.distribute.Strategy, devices: Sequence[str]) -> Callable:
    """A function, for use in strategy.run, from a host's rows [n, ...] to those of all hosts in order.

    Its gradient is that of the host's own rows, summed over all hosts in their order.
    """

    def joined(strategy, per):
        values, found = strategy.experimental_local_results(per), []
        for device in devices:
            with tf.device(device):
                found.append(tf.concat(values, axis=0))
        return per_host(strategy, found)

    def summed(strategy, per):
        values, n = strategy.experimental_local_results(per), len(devices)
        pieces = []
        for value, device in zip(values, devices, strict=True):
            with tf.device(device):
                pieces.append(tf.split(value, n))
        found = []
        for g, device in enumerate(devices):
            with tf.device(device):
                found.append(tf.add_n([tf.identity(piece[g]) for piece in pieces]))
        return per_host(strategy, found)

    def gather(value):
        context = tf.distribute.get_replica_context()
        if not value.dtype.is_floating:
            return context.merge_call(joined, args=(value,))

        @tf.custom_gradient
        def gathered(value):
            whole = context.merge_call(joined, args=(value,))
            return whole, lambda above: context.merge_call(summed, args=(above,))

        return gathered(value)

    return gather


def per_host(strategy: tf.distribute.Strategy, values: Sequence):
    """The distributed value that is values[h] on host h."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: values[context.replica_id_in_sync_group]
    )
