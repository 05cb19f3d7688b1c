"""The job's files, on a disk or in a bucket, as trainer.vm.log.JobFiles describes them."""

from configs.system import storage


class StoredFiles:
    """Files of one job, read and written with this machine's own access.

    Args:
      path: the job's directory.

    Raises (all methods):
      OSError: the place cannot be read or written.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def get(self, name: str) -> bytes:
        """Content of a file."""
        return storage.read_bytes(f"{self._path}/{name}")

    def put(self, name: str, content: bytes) -> None:
        """Replaces a file atomically."""
        path = f"{self._path}/{name}"
        storage.make_directory(path.rpartition("/")[0])
        storage.write_bytes(path, content)

    def remove(self, name: str) -> None:
        """Deletes a file."""
        storage.remove(f"{self._path}/{name}")

    def names(self, prefix: str) -> list[str]:
        """Names of files with this prefix."""
        directory = prefix.rpartition("/")[0]
        found = (f"{directory}/{name}" for name in storage.names(f"{self._path}/{directory}"))
        return [name for name in found if name.startswith(prefix)]
