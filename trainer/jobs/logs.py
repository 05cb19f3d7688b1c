"""Reads the log of a job from the pieces that its machines copied."""

from collections.abc import Iterator

from configs.system import storage
from trainer.jobs.record import JobRecord
from trainer.vm.log import CHUNK_BYTES


class LogReader:
    """Continues where the last call stopped: pieces only grow, the last one by being replaced."""

    def __init__(self, record: JobRecord) -> None:
        self._record = record
        self._read: dict[str, int] = {}  # bytes already read of each piece

    def new(self) -> Iterator[str]:
        """New text of all attempts and workers, with a heading where the attempt or worker changes."""
        for attempt in range(1, self._record.state().attempt + 1):
            directory = f"{self._record.attempt_path(attempt)}/log"
            before = None
            for name in storage.names(directory):
                if name.endswith(".txt"):
                    yield from self._piece(f"{directory}/{name}", attempt, name, before)
                    before = name

    def _piece(self, path: str, attempt: int, name: str, before: str | None) -> Iterator[str]:
        seen = self._read.get(path, 0)
        if seen >= CHUNK_BYTES:  # full
            return
        try:
            content = storage.read_bytes(path)
        except FileNotFoundError:  # from the middle of a long log, and deleted since it was listed
            return
        if len(content) > seen:
            if not seen:
                yield from _head(attempt, name, before)
            self._read[path] = len(content)
            yield content[seen:].decode(errors="replace")


def _head(attempt: int, name: str, before: str | None) -> Iterator[str]:
    """Heading of a piece: whose log begins, or how much is missing before it."""
    worker, number = _place(name)
    if number == 0:
        yield f"--- attempt {attempt}, worker {worker}\n"
    elif before is not None and _place(before)[0] == worker:
        missing = number - _place(before)[1] - 1
        if missing > 0:
            size = missing * CHUNK_BYTES / 2**20
            yield f"--- {missing} pieces of the log, {size:.1f} MB, were not kept\n"


def _place(name: str) -> tuple[str, int]:
    """(worker, number) of a piece."""
    worker, _, number = name.removeprefix("worker-").removesuffix(".txt").partition("-")
    return worker, int(number) if number.isdigit() else 0
