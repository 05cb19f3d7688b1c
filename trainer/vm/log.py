"""The log of a job's machine: bounded, kept in memory first, and no error of its disk ever reaches a caller.

What is written goes to a file of the machine, for people, and in pieces to the job's files. The first pieces
and the latest stay there; those between are deleted as the log grows. Standard library only.
"""

import collections
import contextlib
import os
import re
import threading

CHUNK_BYTES = 256 << 10  # of a piece; the last one is replaced as it grows
HEAD_PIECES, TAIL_PIECES = 64, 192  # that stay in the job's files: 64 MB in all
WAITING_PIECES = 64  # full ones in memory that could not be copied yet; more are given up, the oldest first
FILE_BYTES = 32 << 20  # of the machine's own file, of which the first and the last two are kept
LAST_LINES = 40
_LAST_BYTES = 64 << 10  # of the log, for its last lines
_COUNT = r"[0-9][0-9,]{0,25}"
_NUMBER = r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?(?:e[-+]?[0-9]{1,4})?|nan|inf)"
_PROGRESS = re.compile(
    rf"step ({_COUNT})/({_COUNT})(?: \([0-9]+%\))?(?:\s+loss ({_NUMBER})(?!\S))?(?:\s+({_COUNT}) examples/s)?"
)
_SAVED = re.compile(r"checkpoint of step ([0-9]{1,18}): ")


def progress(line: str) -> dict:
    """Step, total, loss and examples_per_second of a line of the trainer's log, as far as it has them."""
    match = _PROGRESS.search(line)
    if not match:
        return {}
    step, total, loss, rate = match.groups()
    found = {"step": int(step.replace(",", "")), "total": int(total.replace(",", ""))}
    if loss is not None:
        found["loss"] = float(loss)
    if rate is not None:
        found["examples_per_second"] = float(rate.replace(",", ""))
    return found


class Log:
    """Takes bytes, and copies them to the job's files. Also a stream of text, for this process's own output.

    Args:
      path: the machine's own file.
      files: the job's files; None: not known yet.
      prefix: of the names of pieces there.
    """

    encoding, errors = "utf-8", "backslashreplace"

    def __init__(self, path: str, files=None, prefix: str = ""):
        self._path, self.files, self.prefix = path, files, prefix
        self._file, self._file_bytes = None, 0
        self._first, self._kept_from = None, HEAD_PIECES  # a machine that was started again appends
        self._number, self._piece, self._copied = 0, bytearray(), 0  # the piece that grows
        self._waiting = collections.deque()  # (number, content) of full pieces
        self._last = bytearray()
        self._progress, self._saved = {}, None
        self._mutex, self._shipping = threading.Lock(), threading.Lock()

    def add(self, content: bytes) -> None:
        """Takes more of the log. Never raises: what writes here must not end for want of a log."""
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
        """As a stream's; nothing waits."""

    def pump(self, stream) -> None:
        """Takes all that a child writes, to the end of its output."""
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            while content := stream.read1(64 << 10):
                self.add(content)

    def ship(self) -> None:
        """Copies what is new to the job's files. Raises OSError; the next call copies it then."""
        with self._shipping:
            if self._first is None:
                self._first = self._next_number()
            while True:
                with self._mutex:
                    full = self._waiting[0] if self._waiting else None
                    number, content = full or (self._number, bytes(self._piece))
                    if full is None and len(content) == self._copied:
                        return
                self.files.put(self._name(number), content)
                with self._mutex:
                    if full is not None and self._waiting and self._waiting[0][0] == number:
                        self._waiting.popleft()
                    elif full is None and number == self._number:
                        self._copied = len(content)
                self._forget(number)

    def last_lines(self) -> list:
        """The end of the log."""
        with self._mutex:
            text = self._last.decode(errors="replace")
        return text.splitlines()[-LAST_LINES:]

    def latest_progress(self) -> dict:
        """Of the last line that has any; also `saved`, the newest checkpoint's step."""
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
        """In the lines of new content, of which the first may have begun before."""
        text = self._last[-len(content) - 1000 :].decode(errors="replace")
        for line in reversed(text.splitlines()):
            if found := progress(line):
                self._progress = found
                break
        for step in _SAVED.findall(text):
            self._saved = max(int(step), self._saved or 0)

    def _forget(self, number: int) -> None:
        """Deletes pieces that are neither of the first nor of the latest any more."""
        while self._kept_from <= self._first + number - TAIL_PIECES:
            # Not there, or not allowed: then only the log is longer.
            with contextlib.suppress(OSError):
                self.files.remove(f"{self.prefix}{self._kept_from:06}.txt")
            self._kept_from += 1

    def _next_number(self) -> int:
        """After the pieces that the machine has copied before it was started again."""
        numbers = [
            name.removeprefix(self.prefix).removesuffix(".txt") for name in self.files.names(self.prefix)
        ]
        return 1 + max([int(number) for number in numbers if number.isdigit()] + [-1])

    def _name(self, number: int) -> str:
        return f"{self.prefix}{self._first + number:06}.txt"

    def _write_file(self, content: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._file is None or self._file_bytes >= FILE_BYTES:
                self._open_file()
            self._file_bytes += os.write(self._file, content[:FILE_BYTES])

    def _open_file(self) -> None:
        """Opens the file; a full one becomes the first or the last but one."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            first = os.path.exists(f"{self._path}.first")
            os.replace(self._path, f"{self._path}.before" if first else f"{self._path}.first")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o644)
        self._file_bytes = os.fstat(self._file).st_size
