"""What a job's machine installs: the wheel of this checkout, and the exact packages."""

import os
import shutil
import subprocess
import sys
import tempfile

from configs.errors import UserError
from configs.schema import RunConfig
from configs.sections.launch import CloudTpuLaunchConfig
from trainer.version import VERSION

_CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SOURCES = ("setup.py", "pyproject.toml", "lazytower_entry.py", "configs", "pipelines", "trainer")


def wheel_name(config: RunConfig) -> str:
    """Name of the wheel that `make_wheel` returns."""
    if (wheel := _launch(config).wheel) is not None:
        return os.path.basename(wheel)
    return f"lazytower-{VERSION}-py3-none-any.whl"


def make_wheel(config: RunConfig) -> tuple[str, bytes]:
    """(name, content) of the wheel: launch.wheel, or built from the checkout, which stays as it is.

    Raises:
      UserError: there is neither, or the wheel cannot be built.
    """
    if (wheel := _launch(config).wheel) is not None:
        return wheel_name(config), read_local_file(wheel, "launch.wheel")
    if not os.path.exists(os.path.join(_CHECKOUT, "setup.py")):
        raise UserError(
            "launch.wheel: missing, and lazytower is installed without the checkout to build one from; set it"
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
            cwd=directory,  # `python -m` imports from it, and the user's directory may hold anything
        )
        wheels = [name for name in os.listdir(directory) if name.endswith(".whl")]
        if done.returncode or len(wheels) != 1:
            last = (done.stderr.strip().splitlines() or ["pip wrote no wheel"])[-1]
            raise UserError(f"the wheel cannot be built ({last}); set launch.wheel to a built one")
        return wheels[0], read_local_file(os.path.join(directory, wheels[0]), "wheel")


def read_constraints(config: RunConfig) -> bytes:
    """The exact packages that the job's machine installs.

    Raises:
      UserError: the file cannot be read.
    """
    path = _launch(config).constraints
    if path is None:
        path = os.path.join(_CHECKOUT, "docker", f"constraints-{config.device.requirements}.txt")
    return read_local_file(path, "launch.constraints")


def read_local_file(path: str, key: str) -> bytes:
    """Content of a local file; errors name the config's key."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be read ({error.strerror}); name a readable file") from None


def _launch(config: RunConfig) -> CloudTpuLaunchConfig:
    assert isinstance(config.launch, CloudTpuLaunchConfig), "no other launcher installs a wheel"
    return config.launch


def _copy(source: str, target: str) -> None:
    if os.path.isdir(source):
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(source, target)
