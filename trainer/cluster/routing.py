"""Rows of all tables for one step: from their owners to the hosts that asked for them, and gradients back.

One message goes from each host to each owner with the ids of all tables, one comes back with their rows,
and one follows with their gradients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from trainer.cluster.tables import ClusterTable
from trainer.embeddings.base import Lookup
from trainer.kernels import ops
from trainer.optimizers.clipping import half_square


class _Asked(NamedTuple):
    """What one owner was asked for of one table."""

    lookup: Lookup
    where: tf.Tensor | None
    """int32 [asked], the place of each id in the lookup; None: the lookup has a row for each id."""
    counts: list
    """Numbers of ids that each host asked for, int32 scalars."""


class Routing:
    """One step's rows.

    Args:
      tables: those that the step reads.
      ids: for each host, int64 [n] for each table, may repeat; on the host.
      devices: of the hosts.
      distinct: look up each row once, as clipping by norm needs.

    Attributes:
      rows: for each host, float32 [n, dim] for each table; on the host.
    """

    def __init__(
        self, tables: Sequence[ClusterTable], ids: Sequence[list], devices: Sequence[str], distinct: bool
    ):
        self._tables, self._devices, self._distinct = tables, devices, distinct
        self._places: list[list] = []  # by host and table, those of each owner's ids
        self._asked: list[list[_Asked]] = []  # by owner and table
        wanted = [self._request(h, own) for h, own in enumerate(ids)]
        answers = [self._answer(k, [messages[k] for messages in wanted]) for k in range(len(devices))]
        self.rows = [self._receive(h, [messages[h] for messages in answers]) for h in range(len(devices))]

    def _request(self, h: int, ids: list) -> list:
        """A host's message to each owner: how many ids of each table, then the ids, as rows there.

        Here and below, a host needs no message to itself: in its place is what the message would hold, a list
        by table.
        """
        with tf.device(self._devices[h]):
            split = [table.split(own) for table, own in zip(self._tables, ids, strict=True)]
            self._places.append([[places for places, _ in parts] for parts in split])
            messages = []
            for k in range(len(self._devices)):
                local = [parts[k][1] for parts in split]
                if k != h:
                    counts = tf.stack([tf.size(part, tf.int64) for part in local])
                    local = tf.concat([counts, *local], axis=0)
                messages.append(local)
        return messages

    def _answer(self, k: int, messages: list) -> list:
        """An owner's message to each host: the rows of all tables, one after the other."""
        number = len(self._tables)
        with tf.device(self._devices[k]):
            counts, ids = [], []
            for h, message in enumerate(messages):
                if h == k:
                    counts.append([tf.size(part) for part in message])
                    ids.append(message)
                    continue
                there = tf.identity(message)
                sizes = tf.cast(there[:number], tf.int32)
                counts.append(tf.unstack(sizes, num=number))
                ids.append(tf.split(there[number:], sizes, num=number))
            asked, found = [], []
            for t, table in enumerate(self._tables):
                joined = tf.concat([parts[t] for parts in ids], axis=0)
                of_hosts = [count[t] for count in counts]
                lookup, where, rows = self._looked_up(table.shards[k], joined)
                asked.append(_Asked(lookup, where, of_hosts))
                found.append(tf.split(rows, of_hosts, num=len(of_hosts)))
            self._asked.append(asked)
            rows = [[parts[h] for parts in found] for h in range(len(messages))]
            return [own if h == k else _flat(own) for h, own in enumerate(rows)]

    def _looked_up(self, shard, ids):
        """(lookup, places of ids in it or None, rows float32 [n, dim] of ids) of one owner."""
        if shard.takes_repeats and not self._distinct:
            lookup = shard.lookup_each(ids)
            return lookup, None, lookup.weight
        distinct, where = ops.unique(ids)
        lookup = shard.lookup(distinct)
        return lookup, where, tf.gather(lookup.weight, where)

    def _receive(self, h: int, messages: list) -> list:
        """A host's rows of each table, in the order of its ids."""
        with tf.device(self._devices[h]):
            parts = [
                message
                if k == h
                else _unflat(tf.identity(message), [tf.size(p[k]) for p in self._places[h]], self._dims)
                for k, message in enumerate(messages)
            ]
            return [
                tf.reshape(tf.dynamic_stitch(places, [part[t] for part in parts]), [-1, self._dims[t]])
                for t, places in enumerate(self._places[h])
            ]

    @property
    def _dims(self) -> list[int]:
        return [table.dim for table in self._tables]

    def gradients(self, above: Sequence[list], results: Sequence[tf.Tensor]) -> tuple[list[list], list]:
        """Sends gradients to the owners, and results to host 0.

        Args:
          above: for each host, float32 [n, dim] for each table, of its `rows`.
          results: of each host, float32 [values] of the same static shape.

        Returns:
          (For each owner, the gradient of each table's lookup, to be passed to `update`; the results, on
          host 0.)
        """
        hosts = range(len(self._devices))
        sent = []
        for h, own in enumerate(above):
            with tf.device(self._devices[h]):
                parts = [
                    [tf.gather(g, p[k]) for g, p in zip(own, self._places[h], strict=True)] for k in hosts
                ]
                sent.append([parts[k] if k == h else _flat(parts[k]) for k in hosts])
                if h:
                    sent[h][0] = tf.concat([results[h], sent[h][0]], axis=0)
        arrived = [results[0]]
        with tf.device(self._devices[0]):
            for own, result in zip(sent[1:], results[1:], strict=True):
                size = result.shape.num_elements()
                message = tf.identity(own[0])
                arrived.append(message[:size])
                own[0] = message[size:]
        return [self._summed(k, [messages[k] for messages in sent]) for k in hosts], arrived

    def _summed(self, k: int, messages: list) -> list:
        with tf.device(self._devices[k]):
            asked = self._asked[k]
            parts = [
                message if h == k else _unflat(tf.identity(message), [a.counts[h] for a in asked], self._dims)
                for h, message in enumerate(messages)
            ]
            found = []
            for t, one in enumerate(asked):
                gradient = tf.concat([part[t] for part in parts], axis=0)
                if one.where is not None:
                    gradient = ops.sum_rows(gradient, one.where, tf.shape(one.lookup.ids)[0])
                found.append(gradient)
            return found

    def half_squares(self, gradients: Sequence[list]) -> list:
        """For each owner, half the sum of squares of its gradients by table, float32 [tables]; on the
        owner."""
        found = []
        for own, device in zip(gradients, self._devices, strict=True):
            with tf.device(device):
                found.append(tf.stack([half_square([gradient]) for gradient in own]))
        return found

    def update(self, k: int, gradients: list, step, multiplier) -> None:
        """One optimizer step on an owner's rows; to be called on its device.

        Args:
          k: the owner.
          gradients: its own of `gradients`.
          step, multiplier: as Table.update.
        """
        for table, asked, gradient in zip(self._tables, self._asked[k], gradients, strict=True):
            table.shards[k].update(asked.lookup, gradient, step, multiplier)


def _flat(parts: list):
    """Rows of several tables as float32 [values]."""
    return tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0)


def _unflat(flat, rows: list, dims: list[int]) -> list:
    """The parts of _flat: float32 [rows[t], dims[t]] for each table."""
    sizes = [number * dim for number, dim in zip(rows, dims, strict=True)]
    parts = tf.split(flat, tf.stack(sizes), num=len(sizes))
    return [tf.reshape(part, [-1, dim]) for part, dim in zip(parts, dims, strict=True)]
