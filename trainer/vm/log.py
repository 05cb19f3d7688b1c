"""The log of a job's machine: bounded, in memory first, and never raising an error of its disk.

It is written to a file of the machine, for people, and in pieces to the job's files. The first and the latest
pieces stay there; those between are deleted as the log grows. Standard library only.
"""

import collections
import contextlib
import os
import re
import threading
from typing import Any, BinaryIO, Protocol

CHUNK_BYTES = 256 << 10  # of a piece; the last one is replaced as it grows
HEAD_PIECES, TAIL_PIECES = 64, 192  # that stay in the job's files: 64 MB in all
WAITING_PIECES = 64  # full ones in memory, not copied yet; of more the oldest are dropped
FILE_BYTES = 32 << 20  # of the machine's own file, of which the first and the last two are kept
LAST_LINES = 40
_LAST_BYTES = 64 << 10  # of the log, for its last lines
_COUNT = r"[0-9][0-9,]{0,25}"
_NUMBER = r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?(?:e[-+]?[0-9]{1,4})?|nan|inf)"
_PROGRESS = re.compile(
    rf"step ({_COUNT})/({_COUNT})(?: \([0-9]+%\))?(?:\s+loss ({_NUMBER})(?!\S))?(?:\s+({_COUNT}) examples/s)?"
)
_SAVED = re.compile(r"checkpoint of step ([0-9]{1,18}): ")


class JobFiles(Protocol):
    """The job's files; see trainer/vm/files.py."""

    def get(self, name: str) -> bytes: ...

    def put(self, name: str, content: bytes) -> None: ...

    def remove(self, name: str) -> None: ...

    def names(self, prefix: str) -> list[str]: ...


def progress(line: str) -> dict[str, Any]:
    """Step, total, loss and examples_per_second in a line of the trainer's log, as far as it has them."""
    match = _PROGRESS.search(line)
    if not match:
        return {}
    step, total, loss, rate = match.groups()
    found: dict[str, Any] = {"step": int(step.replace(",", "")), "total": int(total.replace(",", ""))}
    if loss is not None:
        found["loss"] = float(loss)
    if rate is not None:
        found["examples_per_second"] = float(rate.replace(",", ""))
    return found


class Log:
    """Collects bytes and copies them to the job's files; also the text stream of this process's output.

    Args:
      path: the machine's own file.
      files: the job's files; None: set later, before `ship`.
      prefix: of the names of pieces there.
    """

    encoding, errors = "utf-8", "backslashreplace"

    def __init__(self, path: str, files: JobFiles | None = None, prefix: str = "") -> None:
        self._path, self.files, self.prefix = path, files, prefix
        self._file: int | None = None
        self._file_bytes = 0
        self._first: int | None = None  # a machine that is started again appends
        self._kept_from = HEAD_PIECES
        self._number, self._piece, self._copied = 0, bytearray(), 0  # the piece that grows
        self._waiting: collections.deque[tuple[int, bytes]] = collections.deque()  # full pieces
        self._last = bytearray()
        self._progress: dict[str, Any] = {}
        self._saved: int | None = None
        self._mutex, self._shipping = threading.Lock(), threading.Lock()

    def add(self, content: bytes) -> None:
        """Adds to the log. Never raises: a failing log must not end its writer."""
        with self._mutex:
            self._last = (self._last + content)[-_LAST_BYTES:]
            self._find_progress(content)
            for start in range(0, len(content), CHUNK_BYTES):
                self._grow(content[start : start + CHUNK_BYTES])
            self._write_file(content)

    def write(self, text: str) -> int:
        """As a stream's."""
        self.add(text.encode(self.encoding, self.errors))
        return len(text)

    def flush(self) -> None:
        """As a stream's; nothing is buffered."""

    def pump(self, stream: BinaryIO) -> None:
        """Adds all output of a child, to its end."""
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            while content := stream.read1(64 << 10):  # type: ignore[attr-defined]  # of a buffered pipe
                self.add(content)

    def ship(self) -> None:
        """Copies new content to the job's files. Raises OSError; then the next call copies it."""
        files = self.files
        assert files is not None
        with self._shipping:
            if self._first is None:
                self._first = self._next_number(files)
            first = self._first
            while True:
                with self._mutex:
                    full = self._waiting[0] if self._waiting else None
                    number, content = full or (self._number, bytes(self._piece))
                    if full is None and len(content) == self._copied:
                        return
                files.put(f"{self.prefix}{first + number:06}.txt", content)
                with self._mutex:
                    if full is not None and self._waiting and self._waiting[0][0] == number:
                        self._waiting.popleft()
                    elif full is None and number == self._number:
                        self._copied = len(content)
                self._forget(files, first + number)

    def last_lines(self) -> list[str]:
        """The last LAST_LINES lines."""
        with self._mutex:
            text = self._last.decode(errors="replace")
        return text.splitlines()[-LAST_LINES:]

    def latest_progress(self) -> dict[str, Any]:
        """Progress of the last line that has any; also `saved`, the newest checkpoint's step."""
        with self._mutex:
            return dict(self._progress) | ({} if self._saved is None else {"saved": self._saved})

    def _grow(self, content: bytes) -> None:
        room = CHUNK_BYTES - len(self._piece)
        self._piece += content[:room]
        if len(self._piece) == CHUNK_BYTES:
            self._waiting.append((self._number, bytes(self._piece)))
            if len(self._waiting) > WAITING_PIECES:
                self._waiting.popleft()
            self._number, self._piece, self._copied = self._number + 1, bytearray(content[room:]), 0

    def _find_progress(self, content: bytes) -> None:
        """Searches the lines of new content, of which the first may have begun earlier."""
        text = self._last[-len(content) - 1000 :].decode(errors="replace")
        for line in reversed(text.splitlines()):
            if found := progress(line):
                self._progress = found
                break
        for step in _SAVED.findall(text):
            self._saved = max(int(step), self._saved or 0)

    def _forget(self, files: JobFiles, newest: int) -> None:
        """Deletes pieces that are neither among the first nor among the latest."""
        while self._kept_from <= newest - TAIL_PIECES:
            # Missing, or not allowed: then the log is merely longer.
            with contextlib.suppress(OSError):
                files.remove(f"{self.prefix}{self._kept_from:06}.txt")
            self._kept_from += 1

    def _next_number(self, files: JobFiles) -> int:
        """The number after the pieces that the machine copied before it was started again."""
        numbers = [name.removeprefix(self.prefix).removesuffix(".txt") for name in files.names(self.prefix)]
        return 1 + max([int(number) for number in numbers if number.isdigit()] + [-1])

    def _write_file(self, content: bytes) -> None:
        with contextlib.suppress(OSError):
            file = self._file
            if file is None or self._file_bytes >= FILE_BYTES:
                file = self._open_file()
            self._file_bytes += os.write(file, content[:FILE_BYTES])

    def _open_file(self) -> int:
        """Opens the file and returns its descriptor; a full file becomes the first or the last but one."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            first = os.path.exists(f"{self._path}.first")
            os.replace(self._path, f"{self._path}.before" if first else f"{self._path}.first")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = file = os.open(self._path, flags, 0o644)
        self._file_bytes = os.fstat(file).st_size
        return file
