"""Checks of `lazytower doctor` that may crash or hang, so they run in processes of their own.

A process runs the steps of one group and prints a JSON line after each: {"step": name, "status": ...,
"found": text, "fix": text}. A step without a line was not reached.
"""

import json
import logging
import os
import sys
import uuid
from collections.abc import Callable
from typing import NamedTuple

from configs.system.garbage import collect_rarely
from trainer.preflight.checks import INSTALL_LAZYTOWER

_ROLE = "roles/storage.objectUser on the bucket"


class ProbeStep(NamedTuple):
    """One check."""

    name: str
    work: Callable[[str], str]
    """Takes the group's argument, returns what it found, and raises on failure."""
    fix: str


class Broken(Exception):
    """Something does not work for a known reason.

    Args:
      found: what was found.
      fix: what to do.
      status: fail, or warn when a run works without it.
    """

    def __init__(self, found: str, fix: str, status: str = "fail") -> None:
        super().__init__(found)
        self.fix, self.status = fix, status


def _tensorflow(_: str) -> str:
    from configs.sections.devices import CpuDeviceConfig
    from trainer.runtime import start_tensorflow

    return start_tensorflow(CpuDeviceConfig()).__version__


def _keras(_: str) -> str:
    import tensorflow as tf
    import tf_keras

    module = tf.keras.layers.Layer.__module__
    if not module.startswith("tf_keras."):
        raise Broken(f"tf.keras is Keras 3 ({module})", "unset TF_USE_LEGACY_KERAS, or set it to 1")
    return f"tf_keras {tf_keras.__version__}"


def _addons(_: str) -> str:
    from configs.system.pythons import missing_addons
    from trainer.addons import import_addons

    if reason := missing_addons():
        return f"none: {reason}; only engine: tfa needs it"
    addons = import_addons()
    addons.optimizers.LazyAdam(0.1)
    return addons.__version__


def _recommenders(_: str) -> str:
    import tensorflow_recommenders

    return tensorflow_recommenders.__version__


def _xla(needed: str) -> str:
    """Compiles and runs with XLA; `needed` is empty when no table of the run uses it."""
    import tensorflow as tf

    from trainer.embeddings.blocks import gather_blocks

    try:
        found = gather_blocks(tf.range(8.0), tf.constant([2]), 4).numpy().tolist()
    except tf.errors.OpError as error:
        fix = "tables of kind robe_z need the plain tensorflow wheel; other tables do not"
        reason = error.message.partition(" [Op:")[0]
        raise Broken(reason, fix, "fail" if needed else "warn") from None
    if found != [[2, 3, 4, 5]]:
        raise Broken(f"wrong result: {found}", INSTALL_LAZYTOWER)
    return "compiles"


def _beam(_: str) -> str:
    logging.disable(logging.WARNING)  # it warns of missing Google packages that are not needed
    import apache_beam

    return apache_beam.__version__


def _dataset(path: str) -> str:
    from configs.chain import load_chain
    from configs.manifest import MANIFEST_FILE, load_dataset
    from configs.system.storage import exists, join

    if not exists(join(path, MANIFEST_FILE)):
        raise Broken(f"{path}: not prepared yet", "run `lazytower prepare` with this config", "warn")
    first, *below = load_chain(load_dataset(path))
    below_it = f", and {len(below):,} datasets below it" if below else ""
    return f"{path}: {first.splits['train'].rows:,} rows in train{below_it}"


def _init(run: str) -> str:
    """The run that a run starts from; `run` is the config as JSON."""
    from configs.errors import UserError
    from configs.manifest import MANIFEST_FILE, load_dataset
    from configs.sections.devices import CpuDeviceConfig
    from configs.system.storage import exists, join
    from trainer.runtime import start_tensorflow

    config = _config(run)
    start_tensorflow(CpuDeviceConfig())
    from trainer.warm_start.start import checked_source

    try:
        prepared = exists(join(config.dataset.path, MANIFEST_FILE))
        found = checked_source(config, load_dataset(config.dataset.path) if prepared else None)
    except UserError as error:
        raise _broken(error) from None
    return found or f"not read: {config.output.path} has checkpoints to resume from"


def _named_tpu(device: str) -> str:
    """Looks up the address of the TPU without connecting to it; `device` is the config's section as JSON."""
    from configs.errors import UserError
    from configs.sections.devices import TpuDeviceConfig
    from trainer.tpu.address import tpu_address

    named = TpuDeviceConfig.model_validate_json(device)
    # Does not wait for a TPU that is still starting.
    try:
        return f"{named.name}: {tpu_address(named, wait_seconds=0)}"
    except UserError as error:
        raise Broken(str(error), "see docs/tpu.md") from None


def _hosts(run: str) -> str:
    """Tries the ports of a cluster's workers, with plain sockets; `run` is the config as JSON."""
    from configs.errors import UserError
    from trainer.cluster.connect import addresses_of_driver
    from trainer.cluster.sockets import refusals

    try:
        addresses = addresses_of_driver(_config(run).device)
    except UserError as error:
        raise _broken(error) from None
    if closed := refusals(addresses[1:]):
        names = ", ".join(f"host {addresses.index(each)} at {each} ({why})" for each, why in closed.items())
        fix = "start `lazytower worker` there, and open its port to the other hosts"
        raise Broken(f"no connection to {names}", fix)
    return f"{len(addresses) - 1} workers accept connections"


def _cluster(run: str) -> str:
    """Connects to a cluster as `lazytower train` does, unless a run uses it: a worker has one driver."""
    from configs.errors import UserError
    from trainer.cluster.connect import addresses_of_driver, connect_cluster
    from trainer.cluster.sockets import refusal
    from trainer.runtime import start_tensorflow

    config = _config(run)
    driver = addresses_of_driver(config.device)[0]
    if refusal(driver) is None:
        raise Broken(f"not asked, because {driver} is open: a run is using them", "ask when it ends", "warn")
    start_tensorflow(config.device)
    try:
        hosts = connect_cluster(config.device, config.output.path).count
    except UserError as error:
        raise _broken(error) from None
    return f"{hosts} hosts of one version, with kernels; all reach each other and {config.output.path}"


def _config(run: str):
    from configs.schema import RunConfig

    return RunConfig.model_validate_json(run)


def _broken(error: Exception) -> Broken:
    """A user's error, whose last part says what to do."""
    what, _, fix = str(error).rpartition("; ")
    return Broken(what or fix, fix)


def _bucket(url: str) -> str:
    # First, because it sets what gcsfs reads when it is imported.
    from configs.system.storage import join, read_bytes, remove, write_bytes  # isort: skip

    from gcsfs.retry import HttpError
    from google.auth.exceptions import GoogleAuthError

    name, content = join(url, f".lazytower-doctor-{uuid.uuid4().hex}"), os.urandom(1000)
    try:
        write_bytes(name, content)
        found = read_bytes(name)
        remove(name)
    except FileNotFoundError as error:
        raise Broken(f"{url}: {_line(error)}", "create the bucket, or correct its name") from None
    except (HttpError, GoogleAuthError, PermissionError) as error:
        raise Broken(f"{url}: {_line(error)}", _credentials(getattr(error, "code", None))) from None
    if found != content:
        raise Broken(f"{url}: read other bytes than were written", "report it to the store's provider")
    return f"{url}: written, read, deleted"


def _credentials(code: int | None) -> str:
    """What to do about a denied request, by its HTTP code."""
    if code == 403:
        return f"give this account {_ROLE}"
    return (
        "no valid credentials: run `gcloud auth application-default login`, set "
        "GOOGLE_APPLICATION_CREDENTIALS, or use a machine with a service account; the account needs "
        f"{_ROLE}"
    )


GROUPS = {
    "tensorflow": (
        ProbeStep("TensorFlow", _tensorflow, INSTALL_LAZYTOWER),
        ProbeStep("Keras 2", _keras, INSTALL_LAZYTOWER),
        ProbeStep("TF-Addons", _addons, INSTALL_LAZYTOWER),
        ProbeStep("TFRS", _recommenders, INSTALL_LAZYTOWER),
        ProbeStep("XLA on the CPU", _xla, INSTALL_LAZYTOWER),
    ),
    "beam": (ProbeStep("Apache Beam", _beam, INSTALL_LAZYTOWER),),
    "dataset": (
        ProbeStep("dataset", _dataset, "prepare it again with --overwrite, or correct dataset.path"),
    ),
    "init": (ProbeStep("warm start", _init, "correct init.from, or remove init"),),
    "cluster": (
        ProbeStep("workers", _hosts, "see docs/cluster.md"),
        ProbeStep("cluster", _cluster, "see docs/cluster.md"),
    ),
    "named_tpu": (ProbeStep("named TPU", _named_tpu, "see docs/tpu.md"),),
    "bucket": (ProbeStep("bucket", _bucket, "check the network, the bucket's name and the credentials"),),
}


def main(group: str, argument: str) -> None:
    """Runs the steps of a group up to the first failure: each step builds on those before."""
    collect_rarely()
    for step in GROUPS[group]:
        try:
            result = {"status": "ok", "found": step.work(argument), "fix": ""}
        except Broken as broken:
            result = {"status": broken.status, "found": str(broken), "fix": broken.fix}
        except Exception as error:  # any error is what the report is about
            result = {"status": "fail", "found": f"{type(error).__name__}: {_line(error)}", "fix": step.fix}
        print(json.dumps({"step": step.name} | result), flush=True)
        if result["status"] == "fail":
            return


def _line(error: Exception) -> str:
    """The text of an error on one line."""
    return " ".join(str(error).split())


if __name__ == "__main__":
    main(*sys.argv[1:])
