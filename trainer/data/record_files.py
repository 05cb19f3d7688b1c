"""Compares the record files of a dataset with dataset.json; without TensorFlow, as jobs need it."""

import google_crc32c
import numpy as np

from configs.dataset_parts import FileInfo
from configs.errors import DataError
from configs.manifest import Dataset
from configs.system.storage import filesystem, is_remote, read_bytes, reading

_CHUNK_BYTES = 4 << 20
PREPARE_AGAIN = "run `lazytower prepare` again"


def verify_dataset_file(dataset: Dataset, info: FileInfo) -> None:
    """Compares one record file with dataset.json, in one streaming pass.

    Raises:
      DataError: the file is missing, or its size or CRC-32C differs.
    """
    path = dataset.file_path(info)
    checksum, size = google_crc32c.Checksum(), 0
    try:
        with reading(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                checksum.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {PREPARE_AGAIN}") from None
    if size != info.bytes:
        raise DataError(f"{path}: has {size} bytes, but dataset.json says {info.bytes}; {PREPARE_AGAIN}")
    if checksum.digest().hex() != info.crc32c.lower():
        raise DataError(f"{path}: its checksum differs from dataset.json; {PREPARE_AGAIN}")


def map_dataset_file(dataset: Dataset, info: FileInfo) -> np.ndarray:
    """The bytes of a verified file, uint8 [info.bytes]: memory-mapped, or read if they are not on this
    machine."""
    path = dataset.file_path(info)
    if is_remote(path) or not info.bytes:  # an empty file cannot be mapped
        return np.frombuffer(read_bytes(path), np.uint8)
    return np.memmap(filesystem(path)[1], np.uint8, mode="r")
