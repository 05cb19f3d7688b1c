"""Files of vectors: float32, little-endian, by catalog id; zeros where there is none."""

import google_crc32c
import numpy as np
import pyarrow as pa

from pipelines.stages.files import WrittenFile, close_durably, open_staged
from pipelines.stages.ids import CATALOG_FILE_ROWS
from pipelines.stages.spool import Ref, array, column, read_table

_STEP_BYTES = 4 << 20


def write_vectors(
    staging: str, directory: str, name: str, number: int, refs: list[Ref], rows: int, dim: int
) -> WrittenFile:
    """Writes the file of a feature's vectors for one range of catalog ids.

    Args:
      refs: tables of id and the vector, each id once.
      rows: of the file.
    """
    whole = np.zeros((rows, dim), "<f4")
    for ref in refs:  # one at a time: together they would double the memory
        table = read_table(ref).combine_chunks()
        whole[column(table, "id") - number * CATALOG_FILE_ROWS] = as_matrix(array(table[name]))
    written = WrittenFile(directory, number, {}, table=name, suffix="f32")
    checksum = google_crc32c.Checksum()
    file = open_staged(staging, written.directory, written.name)
    step = max(1, _STEP_BYTES // whole.itemsize // dim)
    for start in range(0, rows, step):
        piece = whole[start : start + step].tobytes()
        checksum.update(piece)
        file.write(piece)
    close_durably(file)
    crc32c = checksum.hexdigest().decode()
    return written._replace(info={"rows": rows, "bytes": whole.nbytes, "crc32c": crc32c})


def as_matrix(vectors: pa.FixedSizeListArray) -> np.ndarray:
    """float32 [n, dim] of fixed-size lists."""
    return vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), vectors.type.list_size)
