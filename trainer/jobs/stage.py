"""Starts a job: writes the directory that its machine and supervisor read, requests the first slice."""

import os
import re
import subprocess
import time
import uuid
from typing import Any

from absl import logging

from configs.errors import UserError
from configs.load import dump_config
from configs.schema import RunConfig
from configs.system.processes import module_command
from configs.system.storage import is_remote, make_directory, write_bytes
from trainer.jobs.output_claim import claim_output
from trainer.jobs.record import JobRecord, JobState
from trainer.jobs.supervise import supervise
from trainer.jobs.wheel import make_wheel, read_constraints, wheel_name
from trainer.launchers import LAUNCHERS
from trainer.launchers.base import Launcher
from trainer.launchers.local_state import remember, state_directory
from trainer.vm.program import PROCESS_MARK


def dry_run(config: RunConfig) -> str:
    """What submitting the config would write and send."""
    path = new_path(config)
    launcher, facts = _launcher(config, path)
    launcher.check_files()
    files = ["config.yaml", "job.json", "events/000001.json"]
    if launcher.installs_wheel:
        files += [facts["wheel"]] + (["constraints.txt"] if launcher.installs_packages else [])
    parts = [("files", "\n".join(f"{path}/{name}" for name in files)), *launcher.describe(1)]
    return "\n\n".join(f"--- {title}\n{text}" for title, text in parts)


def new_path(config: RunConfig) -> str:
    """Directory of a new job; its name is also a valid name of a TPU."""
    name = re.sub(r"[^a-z0-9]+", "-", config.name.lower()).strip("-") or "run"
    name = name if name[0].isalpha() else f"run-{name}"
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    staging = config.jobs_path if is_remote(config.jobs_path) else os.path.abspath(config.jobs_path)
    return f"{staging}/{name[:24].rstrip('-')}-{stamp}-{uuid.uuid4().hex[:4]}"


def stage(config: RunConfig) -> str:
    """Writes all that the job's machine and supervisor read; returns the job's directory.

    Raises:
      UserError: there is no wheel, the directory cannot be written, or another job that was submitted at the
        same time writes the same output.
    """
    path = new_path(config)
    launcher, facts = _launcher(config, path)
    files = {"config.yaml": dump_config(config).encode()}
    if launcher.installs_wheel:
        facts["wheel"], files[facts["wheel"]] = make_wheel(config)
        if launcher.installs_packages:
            files["constraints.txt"] = read_constraints(config)
    try:
        make_directory(path)
        for name, content in files.items():
            write_bytes(f"{path}/{name}", content)
            logging.info("%s/%s: %.1f kB", path, name, len(content) / 1e3)
        claim_output(config.output.path, JobRecord.create(path, facts), launcher.claims)
    except OSError as error:
        raise UserError(f"launch.staging: {path} cannot be written ({error.strerror or error})") from None
    remember(path.rpartition("/")[2], path)
    return path


def _launcher(config: RunConfig, path: str) -> tuple[Launcher, dict[str, Any]]:
    """The launcher of a new job, and the facts that job.json will hold."""
    kind = LAUNCHERS[config.launch.kind]
    facts = {
        "name": config.name,
        "launcher": config.launch.kind,
        "submitted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "directory": os.getcwd(),
        "output": config.output.path,
        "wheel": wheel_name(config) if kind.installs_wheel else None,
    }
    launcher = kind(config, path, facts)
    # Also in config.yaml; the copy finds a slice even when that file is torn.
    facts |= launcher.bill
    return launcher, facts


def start_job(path: str) -> JobState:
    """Requests the first slice in this process, so that a refusal shows at once; returns the state then."""
    return supervise(path, steps=6)


def start_supervisor(path: str) -> tuple["subprocess.Popen[bytes]", str]:
    """Starts the job's supervisor, which outlives the terminal; returns it and the name of its log.

    It ends at once if the job has another one.
    """
    directory = state_directory(path.rpartition("/")[2])
    # A job submitted from inside another job's process is not a part of that job.
    environment = {name: value for name, value in os.environ.items() if name != PROCESS_MARK}
    os.makedirs(directory, exist_ok=True)
    name = os.path.join(directory, "supervisor.log")
    with open(name, "ab") as log:
        supervisor = subprocess.Popen(
            module_command("trainer.cli", "jobs", "supervise", path),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )
    return supervisor, name
