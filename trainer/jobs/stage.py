"""A new job: its directory with all that its machine and supervisor need, and its start."""

import os
import re
import subprocess
import time
import uuid

from absl import logging

from configs.errors import UserError
from configs.system.processes import module_command
from configs.system.storage import is_remote


def dry_run(config) -> str:
    """What submitting would send, of a job that will not be."""
    from trainer.jobs.wheel import wheel_name
    from trainer.launchers import LAUNCHERS

    path = new_path(config)
    launcher = LAUNCHERS[config.launch.kind](config, path, _facts(config, wheel_name))
    launcher.check_files()
    files = ["config.yaml", "job.json", "events/000001.json"]
    if launcher.needs_wheel():
        files += [wheel_name(config)] + ([] if config.launch.python else ["constraints.txt"])
    parts = [("files", "\n".join(f"{path}/{name}" for name in files)), *launcher.describe(1)]
    return "\n\n".join(f"--- {title}\n{text}" for title, text in parts)


def new_path(config) -> str:
    """Directory of a new job; its name is a valid name of a TPU too."""
    name = re.sub(r"[^a-z0-9]+", "-", config.name.lower()).strip("-") or "run"
    name = name if name[0].isalpha() else f"run-{name}"
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    staging = config.jobs_path if is_remote(config.jobs_path) else os.path.abspath(config.jobs_path)
    return f"{staging}/{name[:24].rstrip('-')}-{stamp}-{uuid.uuid4().hex[:4]}"


def stage(config) -> str:
    """Writes all that the job's machine and supervisor need; the job's directory.

    Raises:
      UserError: there is no wheel, the directory cannot be written, or another job that was submitted at the
        same time writes the same output.
    """
    from configs.load import dump_config
    from configs.system.storage import make_directory, write_bytes
    from trainer.jobs.output_claim import claim_output
    from trainer.jobs.record import JobRecord
    from trainer.jobs.wheel import make_wheel, read_constraints, wheel_name
    from trainer.launchers import LAUNCHERS
    from trainer.launchers.local_state import remember

    path = new_path(config)
    facts = _facts(config, wheel_name)
    launcher = LAUNCHERS[config.launch.kind](config, path, facts)
    files = {"config.yaml": dump_config(config).encode()}
    if launcher.needs_wheel():
        facts["wheel"], files[facts["wheel"]] = make_wheel(config)
        if config.launch.python is None:
            files["constraints.txt"] = read_constraints(config)
    facts["chips"] = launcher.chips
    try:
        make_directory(path)
        for name, content in files.items():
            write_bytes(f"{path}/{name}", content)
            logging.info("%s/%s: %.1f kB", path, name, len(content) / 1e3)
        claim_output(config.output.path, JobRecord.create(path, facts))
    except OSError as error:
        raise UserError(f"launch.staging: {path} cannot be written ({error.strerror or error})") from None
    remember(path.rpartition("/")[2], path)
    return path


def _facts(config, wheel_name) -> dict:
    """What job.json holds."""
    launch = config.launch
    remote = launch.remote
    return {
        "name": config.name,
        "launcher": launch.kind,
        # Beside the config's, so that a slice is found even when that file is torn.
        "project": launch.project if remote else None,
        "zone": launch.zone if remote else None,
        "submitted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "directory": os.getcwd(),
        "output": config.output.path,
        "wheel": wheel_name(config) if remote else None,
        "chips": 0,
        "price_per_chip_hour": launch.price_per_chip_hour if remote else None,
    }


def start_job(path: str):
    """Asks for the first slice, in this process, so that a refusal is seen at once; the JobState then."""
    from trainer.jobs.supervise import supervise

    return supervise(path, steps=6)


def start_supervisor(path: str) -> str:
    """Starts the job's supervisor, which outlives the terminal; the name of its log."""
    from trainer.launchers.local_state import state_directory
    from trainer.vm.program import PROCESS_MARK

    directory = state_directory(path.rpartition("/")[2])
    # A job that is submitted from inside another one's process is no part of that.
    environment = {name: value for name, value in os.environ.items() if name != PROCESS_MARK}
    os.makedirs(directory, exist_ok=True)
    name = os.path.join(directory, "supervisor.log")
    with open(name, "ab") as log:
        subprocess.Popen(
            module_command("trainer.cli", "jobs", "supervise", path),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )
    return name
