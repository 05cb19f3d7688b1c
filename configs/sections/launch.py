"""The launch section: where `lazytower submit` runs a job. Times are in seconds, prices in any currency."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from configs.errors import ConfigError
from configs.sections.base import KeptAt, Path, Section, of_kind
from configs.system.tpu import Slice, tpu_slice

# Software of the TPU's machines by generation: bare Ubuntu, into which the pinned packages are installed.
RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
JOB_LABEL = "lazytower-job"  # of every slice that is ours; its value is the job's id
_LABEL_KEY, _LABEL_VALUE = r"[a-z][a-z0-9_-]{0,62}", r"[a-z0-9_-]{0,63}"


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if not re.fullmatch(_LABEL_KEY, key) or not re.fullmatch(_LABEL_VALUE, value):
            raise ValueError(f"{key}: {value} is no label: lower-case letters, digits, - and _, at most 63")
    if JOB_LABEL in labels:
        raise ValueError(f"{JOB_LABEL} is set by lazytower itself")
    return labels


class CommonLaunchConfig(Section):
    """What all launchers have in common: how a job is watched, and when it is run again."""

    kind: str = ""
    staging: KeptAt | None = None
    """Directory of jobs, local or gs://; <output.path>/jobs when not given."""
    retries: int = Field(20, ge=0)
    """How often in a row a job may be queued again, after a preemption or a refusal, without an attempt that
    saved a further step, before it has failed."""
    backoff_seconds: float = Field(30, ge=0, le=3600)
    """Pause before a job is queued again; doubled for each attempt in a row that never began to train."""
    max_backoff_seconds: float = Field(1800, ge=0, le=86_400)
    """Longest such pause."""
    poll_seconds: float = Field(15, gt=0, le=600)
    """How often the supervisor looks at the slice and at the job's files."""
    heartbeat_seconds: float = Field(15, gt=0, le=300)
    """How often the machine says that it is alive."""
    heartbeat_timeout_seconds: float = Field(600, gt=0)
    """A machine that is up but silent for so long is hung: it is deleted, and the job queued again."""
    log_seconds: float = Field(5, gt=0, le=300)
    """How often the machine copies new lines of its log to the job's directory."""
    max_seconds: float = Field(604_800, gt=0)
    """One attempt may take so long; then training is saved and stopped, the slice deleted, the job failed."""

    @model_validator(mode="after")
    def _beats_before_the_timeout(self):
        if self.heartbeat_timeout_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("heartbeat_timeout_seconds must be at least twice heartbeat_seconds")
        return self


class LocalLaunchConfig(CommonLaunchConfig):
    """A process of this machine, apart from the terminal, from the installation that submits it."""

    remote: ClassVar[bool] = False
    """Whether jobs run on other machines."""
    kind: Literal["local"] = "local"
    """On this machine."""


class CloudTpuLaunchConfig(CommonLaunchConfig):
    """A slice of Cloud TPU, asked for as a queued resource, deleted when the job ends."""

    remote: ClassVar[bool] = True
    kind: Literal["cloud_tpu"]
    """On Cloud TPU."""
    project: str = Field(min_length=1)
    """Project that pays."""
    zone: str = Field(pattern=r"^[a-z]+-[a-z]+[0-9]+-[a-z]$")
    """Zone, such as us-east5-b."""
    slice: str | None = None
    """Type of the slice, such as v6e-4; device.slice when not given."""
    runtime_version: str | None = Field(None, min_length=1)
    """Software of the machines; when not given, the bare Ubuntu of the slice's generation."""
    spot: bool = False
    """Cheaper, and may be taken away at any time; the job then goes on from its last checkpoint."""
    valid_until_seconds: int | None = Field(86_400, ge=60)
    """A request that Google has not met after so long ends the job; null: it waits for ever."""
    service_account: str | None = Field(None, pattern=r"^[^@\s]+@[^@\s]+$")
    """Whom the machines act as; when not given, the project's default Compute Engine account."""
    network: str | None = Field(None, min_length=1)
    """Network of the machines; when not given, `default`."""
    subnetwork: str | None = Field(None, min_length=1)
    """Subnetwork of the machines."""
    external_ips: bool = True
    """Whether machines have addresses of their own; without, packages need a Cloud NAT or `python`."""
    labels: Annotated[dict[str, str], AfterValidator(_labels)] = {}
    """Labels of the slice, for the bill."""
    price_per_chip_hour: float | None = Field(None, ge=0)
    """What a chip costs in an hour; `lazytower jobs` then shows what a job has cost so far."""
    work_dir: str = Field("/var/lib/lazytower", pattern=r"^/")
    """Directory of the machines that environment and log are in."""
    python: str | None = Field(None, pattern=r"^/")
    """Interpreter on the machines whose packages are used as they are, such as that of an image of your
    own; when not given, an environment is made and the constraint file's exact set installed."""
    wheel: Path | None = None
    """Wheel of lazytower to install; when not given, it is built from the checkout."""
    constraints: Path | None = None
    """File with the exact set of packages; when not given, docker/constraints-tpu.txt of the checkout, or
    constraints-cpu.txt when device.kind is cpu."""

    @model_validator(mode="after")
    def _runtime_is_known(self):
        if self.slice is not None:
            try:
                tpu_slice(self.slice)
            except ConfigError as error:
                raise ValueError(f"slice: {error}") from None
        if self.python is not None and self.constraints is not None:
            raise ValueError("python brings its packages, so no constraints are installed; leave one out")
        return self


LaunchConfig = Annotated[
    LocalLaunchConfig | CloudTpuLaunchConfig, Field(discriminator="kind"), of_kind("local")
]


def launch_slice(config) -> Slice:
    """The slice of a run with launch.kind cloud_tpu. Raises ValueError, naming keys, when there is none."""
    named = config.device.slice if config.device.kind == "tpu" else None
    wanted = config.launch.slice or named
    if wanted is None:
        raise ValueError("launch.slice: device.kind is cpu, so the slice must be named here")
    if named is not None and wanted != named:
        raise ValueError(f"launch.slice {wanted}: device.slice is {named}; leave launch.slice out")
    return tpu_slice(wanted)


def runtime_version(config) -> str:
    """Software of the slice's machines. Raises ValueError when it is made for another generation."""
    slice_, given = launch_slice(config), config.launch.runtime_version
    if given is None:
        return RUNTIMES[slice_.generation]
    others = set(RUNTIMES.values()) - {RUNTIMES[slice_.generation]} | {"v2-alpha-tpuv5-lite"}
    if given in others:
        raise ValueError(
            f"launch.runtime_version {given}: made for another generation than {slice_.generation}, which "
            f"has {RUNTIMES[slice_.generation]}"
        )
    return given


def check_launch(config) -> None:
    """Raises ValueError, naming keys, when the launch section does not fit the rest of the run."""
    if config.launch.kind == "cloud_tpu":
        runtime_version(config)
