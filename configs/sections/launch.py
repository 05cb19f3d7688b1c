"""The `launch` section: where `lazytower submit` runs a job. Prices may be in any currency."""

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from configs.errors import ConfigError
from configs.sections.base import KeptAt, Path, Section, of_kind
from configs.system.tpu import Slice, tpu_slice

if TYPE_CHECKING:
    from configs.schema import RunConfig

# Software of a TPU's machines by generation: bare Ubuntu, in which the pinned packages are installed.
RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
JOB_LABEL = "lazytower-job"  # on every slice that lazytower creates; its value is the job's id
_LABEL_KEY, _LABEL_VALUE = r"[a-z][a-z0-9_-]{0,62}", r"[a-z0-9_-]{0,63}"


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if not re.fullmatch(_LABEL_KEY, key) or not re.fullmatch(_LABEL_VALUE, value):
            raise ValueError(
                f"{key}: {value} is not a valid label; use at most 63 lower-case letters, digits, - and _"
            )
    if JOB_LABEL in labels:
        raise ValueError(f"{JOB_LABEL} is set by lazytower itself; remove it")
    return labels


class CommonLaunchConfig(Section):
    """What all launchers share: how a job is watched, and when it is retried."""

    kind: str = ""
    staging: KeptAt | None = None
    """Directory of jobs, local or gs://; defaults to <output.path>/jobs."""
    retries: int = Field(20, ge=0)
    """Number of retries in a row, after preemptions or refused requests, before the job fails. An attempt
    that saves a further step resets the count."""
    backoff_seconds: float = Field(30, ge=0, le=3600)
    """Pause before a retry; doubled for each attempt in a row that never began to train."""
    max_backoff_seconds: float = Field(1800, ge=0, le=86_400)
    """Longest pause before a retry."""
    poll_seconds: float = Field(15, gt=0, le=600)
    """Interval at which the supervisor checks the slice and the job's files."""
    heartbeat_seconds: float = Field(15, gt=0, le=300)
    """Interval at which the machine reports that it is alive."""
    heartbeat_timeout_seconds: float = Field(600, gt=0)
    """A machine that is up but silent for this long counts as hung: it is deleted, and the job retried."""
    log_seconds: float = Field(5, gt=0, le=300)
    """Interval at which the machine copies new lines of its log to the job's directory."""
    max_seconds: float = Field(604_800, gt=0)
    """Longest time of one attempt; after it training saves and stops, the slice is deleted, and the job
    fails."""

    @model_validator(mode="after")
    def _beats_before_the_timeout(self) -> "CommonLaunchConfig":
        if self.heartbeat_timeout_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("heartbeat_timeout_seconds is less than twice heartbeat_seconds; raise it")
        return self


class LocalLaunchConfig(CommonLaunchConfig):
    """A process on this machine, detached from the terminal, that runs this installation."""

    kind: Literal["local"] = "local"
    """Run on this machine."""


class CloudTpuLaunchConfig(CommonLaunchConfig):
    """A slice of Cloud TPU, requested as a queued resource and deleted when the job ends."""

    kind: Literal["cloud_tpu"]
    """Run on Cloud TPU."""
    project: str = Field(min_length=1)
    """Google Cloud project that is billed."""
    zone: str = Field(pattern=r"^[a-z]+-[a-z]+[0-9]+-[a-z]$")
    """Zone of the slice, such as us-east5-b."""
    slice: str | None = None
    """Type of the slice, such as v6e-4; defaults to device.slice."""
    runtime_version: str | None = Field(None, min_length=1)
    """Software of the machines; defaults to bare Ubuntu for the slice's generation."""
    spot: bool = False
    """Use cheaper capacity that may be preempted at any time; the job then resumes from its last
    checkpoint."""
    valid_until_seconds: int | None = Field(86_400, ge=60)
    """Give up on a request that Google has not granted after this time; null: wait forever."""
    service_account: str | None = Field(None, pattern=r"^[^@\s]+@[^@\s]+$")
    """Service account of the machines; defaults to the project's default Compute Engine account."""
    network: str | None = Field(None, min_length=1)
    """Network of the machines; defaults to `default`."""
    subnetwork: str | None = Field(None, min_length=1)
    """Subnetwork of the machines."""
    external_ips: bool = True
    """Whether machines have external addresses; without them installing packages needs a Cloud NAT, or set
    `python`."""
    labels: Annotated[dict[str, str], AfterValidator(_labels)] = {}
    """Labels of the slice, for billing reports."""
    price_per_chip_hour: float | None = Field(None, ge=0)
    """Price of a chip per hour; `lazytower jobs` then shows the cost of a job so far."""
    work_dir: str = Field("/var/lib/lazytower", pattern=r"^/")
    """Directory on the machines for the environment and the log."""
    python: str | None = Field(None, pattern=r"^/")
    """Interpreter on the machines whose packages are used as they are, such as one in your own image. By
    default an environment is created and the exact set of the constraint file installed."""
    wheel: Path | None = None
    """Wheel of lazytower to install; by default it is built from the checkout."""
    constraints: Path | None = None
    """File with the exact set of packages; defaults to docker/constraints-tpu.txt of the checkout, or
    constraints-cpu.txt if device.kind is cpu."""

    @model_validator(mode="after")
    def _runtime_is_known(self) -> "CloudTpuLaunchConfig":
        if self.slice is not None:
            try:
                tpu_slice(self.slice)
            except ConfigError as error:
                raise ValueError(f"slice: {error}") from None
        if self.python is not None and self.constraints is not None:
            raise ValueError(
                "python brings its own packages, so constraints would be ignored; remove one of them"
            )
        return self


LaunchConfig = Annotated[
    LocalLaunchConfig | CloudTpuLaunchConfig, Field(discriminator="kind"), of_kind("local")
]


def launch_slice(config: "RunConfig") -> Slice:
    """The slice of a run with launch.kind cloud_tpu. Raises ValueError, naming keys, when there is none."""
    named = config.device.slice if config.device.kind == "tpu" else None
    wanted = (config.launch.slice if config.launch.kind == "cloud_tpu" else None) or named
    if wanted is None:
        raise ValueError("launch.slice: missing; device.kind is cpu, so set the slice here")
    if named is not None and wanted != named:
        raise ValueError(f"launch.slice: {wanted} differs from device.slice {named}; remove launch.slice")
    return tpu_slice(wanted)


def runtime_version(config: "RunConfig") -> str:
    """Software of the slice's machines. Raises ValueError when it is made for another generation."""
    slice_ = launch_slice(config)
    given = config.launch.runtime_version if config.launch.kind == "cloud_tpu" else None
    if given is None:
        return RUNTIMES[slice_.generation]
    others = set(RUNTIMES.values()) - {RUNTIMES[slice_.generation]} | {"v2-alpha-tpuv5-lite"}
    if given in others:
        raise ValueError(
            f"launch.runtime_version: {given} is made for another generation than {slice_.generation}; use "
            f"{RUNTIMES[slice_.generation]} or remove it"
        )
    return given


def check_launch(config: "RunConfig") -> None:
    """Raises ValueError, naming keys, when the launch section does not fit the rest of the run."""
    if config.launch.kind == "cloud_tpu":
        runtime_version(config)
