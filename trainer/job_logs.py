"""The log of a job, put together from the pieces that its machines copied."""

from collections.abc import Iterator

from configs import storage
from trainer.job_record import JobRecord


class LogReader:
    """Reads on where it stopped: pieces are only ever appended to, the last one by being replaced."""

    def __init__(self, record: JobRecord):
        self._record = record
        self._read: dict[str, int] = {}  # bytes that were read of each piece

    def new(self) -> Iterator[str]:
        """What came since the last call, of all attempts and workers, a head before each change of those."""
        for attempt in range(1, self._record.state().attempt + 1):
            directory = f"{self._record.attempt_path(attempt)}/log"
            for name in storage.names(directory):
                yield from self._piece(f"{directory}/{name}", attempt, name)

    def _piece(self, path: str, attempt: int, name: str) -> Iterator[str]:
        if not name.endswith(".txt"):
            return
        seen = self._read.get(path, 0)
        if self._is_sealed(path):
            return
        content = storage.read_bytes(path)
        if len(content) > seen:
            if not seen and name.endswith("-000000.txt"):
                worker = name.removeprefix("worker-").partition("-")[0]
                yield f"--- attempt {attempt}, worker {worker}\n"
            self._read[path] = len(content)
            yield content[seen:].decode(errors="replace")

    def _is_sealed(self, path: str) -> bool:
        """Whether the piece can grow no more."""
        from trainer.vm_files import CHUNK_BYTES

        return self._read.get(path, 0) >= CHUNK_BYTES
