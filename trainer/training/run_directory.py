"""The directory of a run: held by one trainer at a time, with the config that reproduces the run."""

from configs.errors import UserError
from configs.load import dump_config
from configs.schema import RunConfig
from configs.system.lease import LeaseHeld
from configs.system.storage import join, make_directory, write_bytes
from trainer.run_lock import Lock, lock_directory


def lock_run(path: str) -> Lock:
    """Holds the run directory against other trainers until it is closed, or the process ends.

    Raises:
      UserError: another trainer holds it, or the directory cannot be made.
    """
    try:
        return lock_directory(path)
    except LeaseHeld as holder:
        raise UserError(
            f"{path}: another trainer is at work here ({holder}); wait for it, or use another output.path"
        ) from None
    except OSError as error:
        raise UserError(f"output.path: {path} cannot be written ({error.strerror or error})") from None


def save_config(config: RunConfig) -> None:
    """Writes the resolved config into the run directory; it reproduces the run.

    Raises:
      UserError: the directory cannot be made or written.
    """
    path = config.output.path
    try:
        make_directory(path)
        write_bytes(join(path, "config.yaml"), dump_config(config).encode())
    except OSError as error:
        raise UserError(f"output.path: {path} cannot be written ({error.strerror or error})") from None
