"""Bookmarks of the jobs submitted from this machine: the directory of each, and its supervisor's log.

With it a job can be named by its id alone. The job's own directory is what counts.
"""

import os

from configs.errors import UserError
from configs.system.storage import write_bytes


def _root() -> str:
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(home, "lazytower", "jobs")


def state_directory(job_id: str) -> str:
    """This machine's directory of a job; it may not exist yet."""
    return os.path.join(_root(), job_id)


def remember(job_id: str, path: str) -> None:
    """Stores the directory of a job."""
    directory = state_directory(job_id)
    os.makedirs(directory, exist_ok=True)
    write_bytes(os.path.join(directory, "address"), path.encode())  # atomic: `jobs list` may read it


def remembered() -> list[str]:
    """Directories of all jobs submitted from here, sorted by id, so oldest first within one run's name."""
    names = sorted(os.listdir(_root())) if os.path.isdir(_root()) else []
    return [path for path in map(_address, names) if path is not None]


def job_path(job: str, staging: str | None) -> str:
    """Directory of a job.

    Args:
      job: its directory, or its id.
      staging: where to look for an id; None: among the jobs submitted from here.

    Raises:
      UserError: an id that this machine does not know.
    """
    if "/" in job:
        return job if "://" in job else os.path.abspath(job)
    if staging is not None:
        return f"{staging}/{job}"
    path = _address(job)
    if path is None:
        raise UserError(
            f"{job}: not submitted from this machine; add the run's --config, or name the job's directory"
        )
    return path


def _address(job_id: str) -> str | None:
    try:
        with open(os.path.join(state_directory(job_id), "address"), encoding="utf-8") as file:
            return file.read().strip() or None
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):  # torn: as if absent
        return None
