"""Pieces of checkpoints, written and read by the hosts of a cluster: rows never pass through the driver.

A piece of the format holds consecutive rows, and neighbouring rows are on different hosts. So each piece is
given to one host, which gets its rows from their owners and writes the file, or reads the file and sends
the rows to them.
"""

import functools
import json
import os
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from configs.system import storage
from trainer.checkpoints.files import DamagedCheckpoint, RecordPiece, write_piece
from trainer.checkpoints.manifest import CheckpointFile
from trainer.checkpoints.reader import Checkpoint, open_checkpoint, read_array
from trainer.cluster.services import Service, answered


def _write(request: dict, ids: np.ndarray, records: np.ndarray) -> tuple[dict]:
    own = ids if request["has_ids"] else None
    files = write_piece(request["path"], RecordPiece(request["table"], request["number"], own, records))
    return ({name: file.model_dump() for name, file in files.items()},)


def _read(request: dict) -> tuple[dict, np.ndarray, np.ndarray]:
    checkpoint = _opened(request["path"], request["id"])
    records = read_array(checkpoint, request["records"])
    if request["ids"] is None:
        start = request["start"]
        return {}, np.arange(start, start + len(records), dtype=np.int64), records
    return {}, read_array(checkpoint, request["ids"]), records


@functools.lru_cache(8)
def _opened(path: str, id_: str) -> Checkpoint:
    checkpoint = open_checkpoint(path)
    if checkpoint.manifest.id != id_:
        raise DamagedCheckpoint(f"{path}: is another checkpoint on this host")
    return checkpoint


WRITE = Service("write_piece", _write)
READ = Service("read_piece", _read, [(tf.int64, 1), (tf.float32, 2)])


def register_pieces() -> None:
    """Makes this process able to write and read pieces for a driver."""
    WRITE.register()
    READ.register()


class HostPiece(NamedTuple):
    """A piece that a host will write; see trainer.checkpoints.files.Piece."""

    pieces: "HostPieces"
    number: int
    """Index of the file among those of its table."""
    ids: np.ndarray | None
    """int64 [n] ascending; None: rows start .. start + n."""
    start: int
    stop: int

    def write(self, path: str) -> dict[str, CheckpointFile]:
        """As trainer.checkpoints.files.Piece.write."""
        return self.pieces.write(path, self)


class HostPieces:
    """As trainer.embeddings.base.RowsElsewhere, for a table of a cluster.

    Args:
      table: trainer.cluster.tables.ClusterTable.
      cluster: trainer.cluster.connect.Cluster.
    """

    def __init__(self, table, cluster):
        self._table, self._cluster = table, cluster
        self.hosts = cluster.count

    def piece(self, number: int, start: int, stop: int, ids: np.ndarray | None) -> HostPiece:
        """A piece to be written: of rows start .. stop, or of `ids`."""
        return HostPiece(self, number, ids, start, stop)

    def write(self, path: str, piece: HostPiece) -> dict[str, CheckpointFile]:
        """Has a host write a piece into a checkpoint's directory; sizes and checksums of its files by
        name."""
        host, table = piece.number % self.hosts, self._table
        device = self._cluster.devices[host]

        def write(request, ids):
            records = table.gathered(ids, device, lambda shard, local: shard.read_records(local))
            with tf.device(device):
                return WRITE.called(tf.identity(request), tf.identity(ids), records)[0]

        compiled = table.compiled(("write_piece", host), write, _TEXT, tf.TensorSpec([None], tf.int64))
        ids = np.arange(piece.start, piece.stop, dtype=np.int64) if piece.ids is None else piece.ids
        request = {"path": _anywhere(path), "table": table.label, "number": piece.number}
        found = answered(
            compiled(_json({**request, "has_ids": piece.ids is not None}), tf.constant(ids)),
            self._cluster.addresses[host],
        )
        return {name: CheckpointFile(**facts) for name, facts in found.items()}

    def load(self, checkpoint: Checkpoint, number: int, start: int, records: str, ids: str | None) -> None:
        """Has a host read a piece of a checkpoint and send its rows to their owners.

        Args:
          checkpoint: whose piece.
          number: index of the piece among those of the table.
          start: first row, if the piece has no ids.
          records, ids: names of its files; without ids None.

        Raises:
          DamagedCheckpoint: as trainer.checkpoints.reader.read_array.
        """
        host, table = number % self.hosts, self._table
        device = self._cluster.devices[host]

        def read(request):
            with tf.device(device):
                answer, ids, rows = READ.called(tf.identity(request))
                rows = tf.reshape(rows, [-1, table.width])
            table.scattered(ids, rows, device)
            return answer

        compiled = table.compiled(("read_piece", host), read, _TEXT)
        facts = {"path": _anywhere(checkpoint.path), "id": checkpoint.manifest.id, "start": start}
        request = _json({**facts, "records": records, "ids": ids})
        answered(compiled(request), self._cluster.addresses[host])


def _anywhere(path: str) -> str:
    """A path for processes that run in other directories."""
    return path if storage.is_remote(path) else os.path.abspath(path)


_TEXT = tf.TensorSpec([], tf.string)


def _json(request: dict[str, Any]) -> tf.Tensor:
    return tf.constant(json.dumps(request))
