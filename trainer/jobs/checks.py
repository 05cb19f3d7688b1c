"""Checks before a job costs anything: dataset, memory, output directory, buckets, service."""

import concurrent.futures
import json
import os
import subprocess
import tempfile

from configs.chain import load_chain
from configs.errors import UserError
from configs.load import dump_config
from configs.manifest import Dataset, load_dataset
from configs.schema import RunConfig
from configs.system import storage
from configs.system.processes import module_command
from trainer.checkpoints.chain import CheckpointDirectory
from trainer.checkpoints.files import DamagedCheckpoint
from trainer.checkpoints.identity import checkpoint_identity, first_difference
from trainer.data.record_files import verify_dataset_file
from trainer.jobs.output_claim import check_unclaimed
from trainer.launchers import LAUNCHERS
from trainer.launchers.base import Launcher

_THREADS = 8


def check_all(config: RunConfig, is_verified: bool = False) -> tuple[RunConfig, list[str]]:
    """Runs all checks; returns the config, with what its launch section left open, and warnings, a line each.

    Args:
      config: the run.
      is_verified: whether the dataset's files are known to be those of its manifest.

    Raises:
      UserError: the job could not run; nothing has been spent or written.
    """
    launcher = planned_launcher(config)
    launcher.check_files()
    if launcher.hidden is not None:
        check_unclaimed(config.output.path, config.jobs_path)
        config = launcher.sized(None)
        unseen = f"{launcher.hidden} cannot be read here, so neither it nor launch.memory is checked"
        return config, [unseen, *planned_launcher(config).check()]
    dataset = load_dataset(config.dataset.path)
    if launcher.region is not None:
        check_reachable(dataset)
    if not is_verified:
        check_files(dataset)
    check_output(config, dataset)
    config = launcher.sized(check_plan(config, launcher))
    warnings = planned_launcher(config).check()
    if launcher.region is not None:
        warnings += region_warnings(config, launcher.region)
    return config, warnings


def planned_launcher(config: RunConfig) -> Launcher:
    """The launcher of a job that has no directory yet."""
    return LAUNCHERS[config.launch.kind](config, f"{config.jobs_path}/new", {"directory": "", "wheel": None})


def check_files(dataset: Dataset) -> None:
    """Compares every file of the dataset, and of those below it, with its manifest.

    Raises:
      DataError: one is missing or damaged, or a dataset below was prepared again.
    """
    files = [(each, info) for each in load_chain(dataset) for info in each.record_files]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda file: verify_dataset_file(*file), files):
            pass


def check_reachable(dataset: Dataset) -> None:
    """Raises UserError: a dataset below this one is on a disk of this machine, which others lack."""
    for below in load_chain(dataset)[1:]:
        if not storage.is_remote(below.path):
            raise UserError(
                f"{dataset.path}: stands on {below.path}, which is on this machine; copy it to a bucket and "
                "prepare the dataset on it there (dataset.base)"
            )


def check_output(config: RunConfig, dataset: Dataset) -> None:
    """Raises UserError: another job writes there, or it holds checkpoints of another run.

    The newest checkpoint whose manifest verifies decides, as it does when training resumes.
    """
    check_unclaimed(config.output.path, config.jobs_path)
    found = CheckpointDirectory(storage.join(config.output.path, "checkpoints"))
    newest_first = (name for step in reversed(found.names) for name in found.names[step])
    for name in filter(found.is_complete, newest_first):
        try:
            saved = found.open(name).manifest.identity
        except DamagedCheckpoint:
            continue  # the trainer does not use it either
        steps = saved.get("number of steps")  # of epochs: only training counts them
        different = first_difference(saved, checkpoint_identity(config, dataset.fingerprint, steps))
        if different:
            raise UserError(
                f"output.path: {config.output.path} holds checkpoints of a run with another {different[0]}; "
                "use another output.path"
            )
        return


def check_plan(config: RunConfig, launcher: Launcher) -> int:
    """Runs `lazytower plan`, in a process of its own because it needs TensorFlow; returns the bytes of memory
    that it forecasts.

    Raises:
      UserError: it does not fit the slice, or this machine; or the dataset is not what the config asks for.
    """
    name = launcher.slice_name
    slices = ["--tpu", name] if name is not None and config.device.kind == "tpu" else []
    with tempfile.TemporaryDirectory(prefix="lazytower-plan-") as directory:
        path = os.path.join(directory, "run.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(dump_config(config))
        command = module_command("trainer.cli", "plan", "--config", path, "--probe_steps", "0")
        done = subprocess.run([*command, "--json", *slices], capture_output=True, text=True)
    try:
        plan = json.loads(done.stdout)
        problems, forecast = plan["problems"], int(plan["memory"]["peak_bytes"])
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"plan: {last.removeprefix('lazytower plan: error: ')}") from None
    # Of another machine's memory and disk, `plan` knows nothing.
    if problems and (slices or launcher.is_here):
        raise UserError("; ".join(problems))
    return forecast


def region_warnings(config: RunConfig, region: str) -> list[str]:
    """A line for each bucket outside the slice's region: traffic across regions costs money and time."""
    paths = {"dataset.path": config.dataset.path, "output.path": config.output.path}
    if config.init is not None:
        paths["init.from"] = config.init.from_
    warnings = []
    for key, path in paths.items():
        place = bucket_location(path)
        if place is None:
            warnings.append(
                f"{key}: the location of the bucket of {path} is unknown; make sure that it is in {region}"
            )
        elif place != region and place != region.partition("-")[0] and not _dual(place, region):
            warnings.append(
                f"{key}: the bucket is in {place}, the slice in {region}: reading and writing across regions "
                "costs money and time"
            )
    return warnings


def _dual(place: str, region: str) -> bool:
    """Whether a multi-region (us, eu, asia) or a predefined pair holds the region."""
    pairs = {"nam4": ("us-central1", "us-east1"), "eur4": ("europe-north1", "europe-west4")}
    return place == "eu" and region.startswith("europe-") or region in pairs.get(place, ())


def bucket_location(path: str) -> str | None:
    """Location of the bucket of a gs:// path, in lower case; None when this account may not read it."""
    fs, place = storage.filesystem(path)
    try:
        found = fs.call("GET", "b/{}", place.partition("/")[0], json_out=True)
    except Exception as error:  # gcsfs has no errors of Python's own
        if not isinstance(error, OSError) and not type(error).__module__.startswith("gcsfs"):
            raise
        return None
    location = found.get("location")
    return location.lower() if location else None
