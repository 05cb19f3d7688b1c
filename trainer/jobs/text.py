"""Jobs as text for people."""

import time
from typing import Any

from absl import logging

from configs.errors import UserError
from configs.text import aligned
from trainer.jobs.record import Event, JobRecord, JobState, UnreadableFacts


def cost(facts: dict[str, Any], job: JobState, now: float) -> float | None:
    """What the job's slices have cost so far: chips, hours up and the price of the config; None: no price."""
    price, chips = facts.get("price_per_chip_hour"), facts.get("chips")
    if not isinstance(price, int | float) or not isinstance(chips, int):
        return None
    return price * chips * job.up_seconds(now) / 3600


def format_list(records: list[JobRecord]) -> str:
    """A line for each job."""
    rows = [["job", "state", "attempt", "step", "loss", "cost"]]
    for record in records:
        try:
            job = record.state()
            record.facts  # noqa: B018 - raises when there is no such job
            figures = [*_figures(_progress(record, job))[:2], _cost(record, job)]
            rows.append([record.id, job.state, str(job.attempt), *figures])
        except UnreadableFacts as error:
            logging.warning("%s", error)
            rows.append([record.id, "unreadable", "-", "-", "-", "-"])
        except UserError:  # submitted from here, and its directory deleted since
            rows.append([record.id, "gone", "-", "-", "-", "-"])
        except Exception as error:  # such as a bucket without access: the others are still shown
            logging.warning("%s: %s: %s", record.path, type(error).__name__, " ".join(str(error).split()))
            rows.append([record.id, "unknown", "-", "-", "-", "-"])
    return aligned(rows, left=range(len(rows[0])))


def format_job(record: JobRecord) -> str:
    """State, progress, cost and history of a job, and the end of its log when it failed."""
    job, facts = record.state(), _facts(record)
    beat = record.heartbeat(job.attempt) if job.attempt else None
    step, loss, rate = _figures(_progress(record, job))
    lines = [("job", record.path), ("state", f"{job.state}, {_ago(time.time() - job.since)} ago")]
    if job.reason:
        lines.append(("reason", job.reason))
    lines.append(("attempt", f"{job.attempt}, {job.preemptions} preempted"))
    lines.append(("step", step))
    lines += [("loss", loss), ("examples/s", rate)]
    if beat is not None:
        lines.append(("heartbeat", f"{beat['time']}, {beat['stage']}, {beat['restarts']} restarts"))
    lines += [("cost so far", _cost(record, job)), ("output", facts.get("output", "-"))]
    text = aligned(lines, left=(0, 1))
    text += "\n\n" + "\n".join(map(format_event, record.events()))
    final = record.final(job.attempt) if job.attempt else None
    if final is not None and final["state"] == "failed":
        text += "\n\nend of the log:\n" + "\n".join(final["log"])
    return text


def format_event(event: Event) -> str:
    """A line of a job's history."""
    attempt = f" {event.attempt}" if event.attempt else ""
    name = event.type + (f" -> {event.outcome}" if event.outcome else "")
    return f"{event.time}  {name}{attempt}  {event.reason}".rstrip()


def _facts(record: JobRecord) -> dict[str, Any]:
    """What was submitted; {} when the file is torn."""
    try:
        return record.facts
    except UnreadableFacts as error:
        logging.warning("%s", error)
        return {}


def _progress(record: JobRecord, job: JobState) -> dict[str, Any]:
    """Progress of the last attempt that reported any."""
    for attempt in range(job.attempt, 0, -1):
        found = record.final(attempt) or record.heartbeat(attempt)
        if found and (progress := dict(found["progress"])):
            return progress
    return {}


def _figures(progress: dict[str, Any]) -> list[str]:
    """Step, loss and examples per second; "-" where unknown."""
    step = f"{progress['step']:,}/{progress['total']:,}" if "step" in progress else "-"
    loss = f"{progress['loss']:.4g}" if "loss" in progress else "-"
    rate = f"{progress['examples_per_second']:,.0f}" if "examples_per_second" in progress else "-"
    return [step, loss, rate]


def _cost(record: JobRecord, job: JobState) -> str:
    found = cost(_facts(record), job, time.time())
    return "-" if found is None else f"{found:,.2f}"


def _ago(seconds: float) -> str:
    hours, seconds = divmod(max(int(seconds), 0), 3600)
    return f"{hours}:{seconds // 60:02}:{seconds % 60:02}"
