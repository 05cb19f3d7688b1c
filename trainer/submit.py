"""`lazytower submit`: runs a config as a job that nobody has to sit beside, here or on Cloud TPU."""

import os
import re
import subprocess
import time
import uuid

from absl import logging

from configs.arguments import add_config_arguments
from configs.errors import UserError
from configs.processes import module_command
from configs.storage import is_remote


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    add_config_arguments(parser)
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print the exact requests and the start-up script; ask nobody, write nothing",
    )


def run(args) -> int:
    """Checks, stages and starts the job; prints its directory."""
    from configs.load import load_config

    config = load_config(args.config, args.overrides)
    if args.dry_run:
        print(dry_run(config))
        return 0
    from trainer.job_record import FINAL
    from trainer.submit_checks import check_all

    for warning in check_all(config):
        logging.warning("%s", warning)
    path = stage(config)
    state = None
    try:
        state = start(path)
    finally:
        # Also when this is interrupted: a slice may have been asked for, and somebody must see to it.
        if state is None or state.state not in FINAL:
            _hand_over(path, "not known" if state is None else state.state)
    if "failed" in (state.state, state.outcome):
        raise UserError(f"{state.reason} (job {path})")
    return 0


def _hand_over(path: str, state: str) -> None:
    log = start_supervisor(path)
    logging.info("job %s is %s; supervised by a process of this machine, log: %s", path, state, log)
    logging.info("lazytower jobs watch %s", path.rpartition("/")[2])
    print(path, flush=True)


def dry_run(config) -> str:
    """What submitting would send, of a job that will not be."""
    from trainer.launchers import LAUNCHERS
    from trainer.wheel import wheel_name

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
    from configs.storage import make_directory, write_bytes
    from trainer.job_record import JobRecord
    from trainer.launchers import LAUNCHERS
    from trainer.local_state import remember
    from trainer.output_claim import claim_output
    from trainer.wheel import make_wheel, read_constraints, wheel_name

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
    remote = launch.kind == "cloud_tpu"
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


def start(path: str):
    """Asks for the first slice, in this process, so that a refusal is seen at once; the JobState then."""
    from trainer.supervise import supervise

    return supervise(path, steps=6)


def start_supervisor(path: str) -> str:
    """Starts the job's supervisor, which outlives the terminal; the name of its log."""
    from trainer.local_state import state_directory
    from trainer.vm import PROCESS_MARK

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
