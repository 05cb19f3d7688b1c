"""Maps files into memory with their descriptors closed: a table of hundreds of files keeps none open.

Python's own mmap keeps a descriptor for each map (before 3.13), so reading a large checkpoint would exceed a
hard limit on open files.
"""

import ctypes
import mmap
import os
import weakref
from typing import BinaryIO

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_FAILED = ctypes.c_void_p(-1).value


def map_file(file: BinaryIO) -> "ctypes.Array[ctypes.c_char]":
    """The bytes of an open file as a read-only buffer, which stays valid after the file is closed.

    Raises:
      OSError: it is empty, or the address space or the number of maps is exhausted.
    """
    size = os.fstat(file.fileno()).st_size
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    buffer = (ctypes.c_char * size).from_address(address)
    # Arrays that view the buffer hold it, so this runs after the last of them is gone. Not at the exit of the
    # interpreter, when they may still be in use; the process takes them along.
    weakref.finalize(buffer, _libc.munmap, address, size).atexit = False
    return buffer


def forget(buffer: "ctypes.Array[ctypes.c_char]") -> None:
    """Frees a map's memory; later reads come from the file, or the page cache."""
    _libc.madvise(ctypes.addressof(buffer), ctypes.sizeof(buffer), mmap.MADV_DONTNEED)
