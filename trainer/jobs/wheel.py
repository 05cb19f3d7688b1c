"""What a job's machine installs: the wheel of this checkout, and the exact set of packages."""

import os
import shutil
import subprocess
import sys
import tempfile

from configs.errors import UserError
from trainer.version import VERSION

_CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SOURCES = ("setup.py", "pyproject.toml", "lazytower_entry.py", "configs", "pipelines", "trainer")


def wheel_name(config) -> str:
    """Name of the wheel that `make_wheel` gives."""
    if config.launch.wheel is not None:
        return os.path.basename(config.launch.wheel)
    return f"lazytower-{VERSION}-py3-none-any.whl"


def make_wheel(config) -> tuple[str, bytes]:
    """(name, content) of the wheel: launch.wheel, or built from the checkout, which stays as it is.

    Raises:
      UserError: neither is there, or it cannot be built.
    """
    if config.launch.wheel is not None:
        return wheel_name(config), read_local_file(config.launch.wheel, "launch.wheel")
    if not os.path.exists(os.path.join(_CHECKOUT, "setup.py")):
        raise UserError(
            "launch.wheel: lazytower is installed without its checkout, so no wheel can be built; name one"
        )
    with tempfile.TemporaryDirectory(prefix="lazytower-wheel-") as directory:
        source = os.path.join(directory, "source")
        for name in _SOURCES:
            _copy(os.path.join(_CHECKOUT, name), os.path.join(source, name))
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--wheel-dir", directory, source],
            capture_output=True,
            text=True,
            cwd=directory,  # `python -m` imports from it, and the user's may hold anything
        )
        wheels = [name for name in os.listdir(directory) if name.endswith(".whl")]
        if done.returncode or len(wheels) != 1:
            last = (done.stderr.strip().splitlines() or ["pip made none"])[-1]
            raise UserError(f"the wheel cannot be built ({last}); name one in launch.wheel")
        return wheels[0], read_local_file(os.path.join(directory, wheels[0]), "wheel")


def read_constraints(config) -> bytes:
    """The exact set of packages that the job's machine installs.

    Raises:
      UserError: there is none.
    """
    path = config.launch.constraints
    if path is None:
        path = os.path.join(_CHECKOUT, "docker", f"constraints-{config.device.kind}.txt")
    return read_local_file(path, "launch.constraints")


def read_local_file(path: str, key: str) -> bytes:
    """Content of a local file; errors name the config's key."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be read ({error.strerror}); name a file that can") from None


def _copy(source: str, target: str) -> None:
    if os.path.isdir(source):
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(source, target)
