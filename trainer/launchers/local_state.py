"""What this machine remembers of the jobs it submitted: where each is, and its supervisor's log.

Only a bookmark, so that a job can be called by its id alone; the job's own directory is what counts.
"""

import os

from configs.errors import UserError
from configs.system.storage import write_bytes


def _root() -> str:
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(home, "lazytower", "jobs")


def state_directory(job_id: str) -> str:
    """This machine's own directory of a job; not made yet."""
    return os.path.join(_root(), job_id)


def remember(job_id: str, path: str) -> None:
    """Notes where a job is."""
    directory = state_directory(job_id)
    os.makedirs(directory, exist_ok=True)
    write_bytes(os.path.join(directory, "address"), path.encode())  # at once: `jobs list` may look


def remembered() -> list[str]:
    """Directories of all jobs submitted from here, oldest first by id within one run's name."""
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
            f"{job}: not submitted from this machine; give the run's --config, or the job's directory"
        )
    return path


def _address(job_id: str) -> str | None:
    try:
        with open(os.path.join(state_directory(job_id), "address"), encoding="utf-8") as file:
            return file.read().strip() or None
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):  # torn: as if it were not remembered
        return None
