"""`lazytower jobs`: lists, shows, follows, supervises and cancels jobs, from what their directories hold."""

import argparse
import contextlib
import sys
import time

from absl import logging

from configs.arguments import add_override_argument
from configs.errors import UserError
from configs.system.terminal import unescaped

_POLL_SECONDS = 2.0
_CANCELLED = 130  # as an interrupted process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each thing to do with jobs."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (_, help_line) in _ACTIONS.items():
        child = actions.add_parser(
            name, help=help_line, description=f"{help_line[0].upper()}{help_line[1:]}."
        )
        if name != "list":
            child.add_argument("job", metavar="ID", help="the job's id, or its directory")
        child.add_argument(
            "--config",
            metavar="RUN.yaml",
            help="the run whose job it is; default: jobs submitted from this machine",
        )
        add_override_argument(child)
        if name == "logs":
            child.add_argument("--follow", action="store_true", help="continue until the job ends")
        if name == "watch":
            child.add_argument(
                "--resume", action="store_true", help="also supervise: queue the job again after preemptions"
            )


def run(args) -> int:
    """Runs the chosen action."""
    return _ACTIONS[args.action][0](args)


def _list(args) -> int:
    from trainer.jobs.record import JobRecord, find_jobs
    from trainer.jobs.text import format_list
    from trainer.launchers.local_state import remembered

    staging = _staging(args)
    records = find_jobs(staging) if staging else [JobRecord(path) for path in remembered()]
    print(format_list(records))
    return 0


def _show(args) -> int:
    from trainer.jobs.text import format_job

    print(format_job(_record(args)))
    return 0


def _logs(args) -> int:
    from trainer.jobs.logs import LogReader

    record = _record(args)
    reader = LogReader(record)
    while True:
        over = _is_over(record)  # before reading, or the last lines could be missed
        for text in reader.new():
            sys.stdout.write(text)
        sys.stdout.flush()
        if over or not args.follow:
            return 0
        time.sleep(_POLL_SECONDS)


def _cancel(args) -> int:
    from trainer.jobs.config import JobConfig
    from trainer.jobs.supervise import cancel

    record = _record(args)
    machines = JobConfig(record).slices
    try:
        state = cancel(record.path)
    except KeyboardInterrupt:
        logging.warning("interrupted: job %s may still run; rerun the same command", record.id)
        raise
    noun, command = machines.noun, machines.list_command
    left = f"no {noun} is left"
    if state.unseen:
        left = f"whether a {noun} is left cannot be seen from here; `{command}` shows it"
    print(f"{record.id}: {state.state}; {left}")
    return 0


def _watch(args) -> int:
    record = _record(args)
    view = _View(record)
    if args.resume:
        _supervised(record.path, view.show)
    while not _is_over(record):
        view.show()
        time.sleep(_POLL_SECONDS)
    view.show()
    return _exit_code(record)


class _View:
    """Shows a job: redrawn on a terminal; elsewhere, a line for each event."""

    def __init__(self, record):
        self._record, self._shown = record, 0

    def show(self) -> None:
        from trainer.jobs.text import format_event, format_job

        if sys.stdout.isatty():
            unescaped(sys.stdout).write("\x1b[H\x1b[2J")
            print(format_job(self._record), flush=True)
            return
        events = self._record.events()
        for event in events[self._shown :]:
            print(format_event(event), flush=True)
        self._shown = len(events)


def _wait(args) -> int:
    record = _record(args)
    while not _is_over(record):
        time.sleep(_POLL_SECONDS)
    return _exit_code(record)


def _supervise(args) -> int:
    record = _record(args)
    _supervised(record.path, lambda: None)
    return _exit_code(record)


def _supervised(path: str, tick) -> None:
    from configs.system.lease import LeaseHeld
    from trainer.jobs.supervise import supervise

    try:
        supervise(path, tick=tick)
    except LeaseHeld as holder:
        raise UserError(
            f"{path}: already supervised ({holder}); show it with `lazytower jobs watch`"
        ) from None


def _record(args):
    """The job that the arguments name. Raises UserError: there is none."""
    from trainer.jobs.record import JobRecord, UnreadableFacts
    from trainer.launchers.local_state import job_path

    record = JobRecord(job_path(args.job, _staging(args)))
    with contextlib.suppress(UnreadableFacts):
        record.facts  # noqa: B018 - raises when there is no such job
    return record


def _staging(args) -> str | None:
    if not args.config:
        if args.overrides:
            raise UserError(f"--set {args.overrides[0]}: changes a config; name the config with --config")
        return None
    from configs.load import load_config

    return load_config(args.config, args.overrides).jobs_path


def _is_over(record) -> bool:
    from trainer.jobs.record import FINAL
    from trainer.jobs.supervise import is_passing

    try:
        return record.state().state in FINAL
    except Exception as error:
        if not is_passing(error):
            raise
        logging.warning("%s: %s; retrying", record.id, " ".join(str(error).split()))
        return False


def _exit_code(record) -> int:
    """0: succeeded; 130: cancelled; else the trainer's own code, or 1 when there is none."""
    job = record.state()
    if job.state == "succeeded":
        return 0
    return _CANCELLED if job.state == "cancelled" else job.exit_code or 1


_ACTIONS = {
    "list": (_list, "list jobs, a line each"),
    "show": (_show, "show state, progress, cost and history of a job"),
    "logs": (_logs, "print the log of a job"),
    "cancel": (_cancel, "end a job and delete its slice"),
    "watch": (_watch, "show a job until it ends"),
    "wait": (_wait, "wait until a job ends; exit with its code"),
    "supervise": (_supervise, "bring a job to its end: queue it again after preemptions, delete its slices"),
}
