"""At most one running job per output directory, whatever the jobs' staging directories.

  <output.path>/claims/000001.json      names a job that writes there; the last one counts

A claim gets the number after the last one, and is created only if that number is free: of two jobs submitted
at once, one learns of the other.
"""

import json
import os
import uuid

from absl import logging

from configs.errors import UserError
from configs.system import storage
from trainer.jobs.record import FINAL, JobRecord, find_jobs


def check_unclaimed(output: str, staging: str) -> None:
    """Raises UserError: a job that has not ended writes there."""
    _, holder = _last_claim(output)
    living = [JobRecord(holder)] if holder else []
    for job in living + find_jobs(staging):
        if _is_alive(job) and (job.path == holder or _writes(job, output)):
            raise _taken(job, output)


def last_job(output: str, staging: str) -> JobRecord | None:
    """The job that writes a directory; if none does, the last one that did; None: there was none.

    Args:
      output: the directory.
      staging: where its jobs are.
    """
    _, holder = _last_claim(output)
    # Processes of a local job are known by its directory, as `submit` names it.
    staging = staging if storage.is_remote(staging) else os.path.abspath(staging)
    known = {job.path: job for job in ([JobRecord(holder)] if holder else []) + find_jobs(staging)}
    jobs = [job for job in known.values() if _has_facts(job) and (job.path == holder or _writes(job, output))]
    jobs.sort(key=lambda job: (str(job.facts.get("submitted")), job.id), reverse=True)
    return next(filter(_is_alive, jobs), jobs[0] if jobs else None)


def claim_output(output: str, record: JobRecord, place: str | None = None) -> None:
    """Claims the output directory for a new job.

    Args:
      output: the directory.
      record: of the job.
      place: where to keep the claim instead, if the directory is out of reach of this machine.

    Raises:
      UserError: another job that has not ended claimed it first; this one is cancelled.
      OSError: the directory cannot be written.
    """
    while True:
        number, holder = _last_claim(place or output)
        if holder and holder != record.path and _is_alive(other := JobRecord(holder)):
            record.append("cancelled", 0, f"job {other.id} writes {output}")
            raise _taken(other, output)
        directory = storage.join(place or output, "claims")
        storage.make_directory(directory)
        content = {"job": record.path, "token": uuid.uuid4().hex}
        try:
            return storage.create_bytes(f"{directory}/{number + 1:06}.json", json.dumps(content).encode())
        except FileExistsError:
            logging.info("%s: another job was submitted at the same time", output)


def _taken(job: JobRecord, output: str) -> UserError:
    return UserError(
        f"output.path: job {job.id} writes {output}; wait for it, cancel it, or use another output.path"
    )


def _last_claim(output: str) -> tuple[int, str | None]:
    """(its number, directory of its job); (0, None) when there is none."""
    directory = storage.join(output, "claims")
    names = [name for name in storage.names(directory) if name.removesuffix(".json").isdigit()]
    if not names:
        return 0, None
    try:
        job = json.loads(storage.read_bytes(f"{directory}/{names[-1]}"))["job"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        logging.warning("%s/%s: unreadable (%s); ignored", directory, names[-1], error)
        job = None
    return int(names[-1].removesuffix(".json")), job if isinstance(job, str) else None


def _is_alive(job: JobRecord) -> bool:
    return _has_facts(job) and job.state().state not in FINAL


def _has_facts(job: JobRecord) -> bool:
    try:
        job.facts  # noqa: B018 - raises when there is no such job, or nothing of it can be read
    except UserError as error:
        logging.debug("%s", error)
        return False
    return True


def _writes(job: JobRecord, output: str) -> bool:
    """Whether a job's output is this directory; local paths are relative to where it was submitted."""
    theirs = str(job.facts.get("output", ""))
    if storage.is_remote(theirs) or storage.is_remote(output):
        return theirs.rstrip("/") == output.rstrip("/")
    directory = str(job.facts.get("directory", ""))
    return os.path.realpath(os.path.join(directory, theirs)) == os.path.realpath(output)
