"""The `launch` section: where `lazytower submit` runs a job. Prices may be in any currency."""

import posixpath
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
JOB_LABEL = "lazytower-job"  # on all that lazytower creates; its value is the job's id
_LABEL_KEY, _LABEL_VALUE = r"[a-z][a-z0-9_-]{0,62}", r"[a-z0-9_-]{0,63}"
# Names as Kubernetes checks them: of most objects (RFC 1123), and of labels with an optional prefix.
_DNS_NAME = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
_NAMESPACE = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_KUBE_VALUE = r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
_KUBE_KEY = r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if not re.fullmatch(_LABEL_KEY, key) or not re.fullmatch(_LABEL_VALUE, value):
            raise ValueError(
                f"{key}: {value} is not a valid label; use at most 63 lower-case letters, digits, - and _"
            )
    if JOB_LABEL in labels:
        raise ValueError(f"{JOB_LABEL} is set by lazytower itself; remove it")
    return labels


def _kubernetes_labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if not re.fullmatch(_KUBE_KEY, key) or not re.fullmatch(_KUBE_VALUE, value):
            raise ValueError(
                f"{key}: {value} is not a valid label of Kubernetes; use at most 63 letters, digits, -, _ "
                "and . between letters or digits, the key after an optional prefix and /"
            )
    return labels


def _own_labels(labels: dict[str, str]) -> dict[str, str]:
    if JOB_LABEL in labels:
        raise ValueError(f"{JOB_LABEL} is set by lazytower itself; remove it")
    return _kubernetes_labels(labels)


class LaunchLimits(Section):
    """What all launchers share: how often a job is looked at, and when it is retried."""

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
    max_seconds: float = Field(604_800, gt=0)
    """Longest time of one attempt; after it training saves and stops, the slice is deleted, and the job
    fails."""


class CommonLaunchConfig(LaunchLimits):
    """What launchers share whose machines report to the job's directory themselves."""

    heartbeat_seconds: float = Field(15, gt=0, le=300)
    """Interval at which the machine reports that it is alive."""
    heartbeat_timeout_seconds: float = Field(600, gt=0)
    """A machine that is up but silent for this long counts as hung: it is deleted, and the job retried."""
    log_seconds: float = Field(5, gt=0, le=300)
    """Interval at which the machine copies new lines of its log to the job's directory."""

    @model_validator(mode="after")
    def _beats_before_the_timeout(self) -> "CommonLaunchConfig":
        if self.heartbeat_timeout_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("heartbeat_timeout_seconds is less than twice heartbeat_seconds; raise it")
        return self


class LocalLaunchConfig(CommonLaunchConfig):
    """A process on this machine, detached from the terminal, that runs this installation."""

    kind: Literal["local"] = "local"
    """Run on this machine."""
    hosts: int = Field(1, ge=1, le=64)
    """Processes that rehearse a cluster (device.kind cluster) on this machine: one trains, the others are its
    workers. They are connected by TF_CONFIG over free ports of the loopback address."""


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


class VolumeConfig(Section):
    """A volume claim of the namespace that all pods mount."""

    claim: str = Field(pattern=_DNS_NAME)
    """Name of the PersistentVolumeClaim; with several hosts its access mode must be ReadWriteMany."""
    path: str = Field(pattern=r"^/[^:]*[^:/]$")
    """Where the pods mount it; dataset.path and output.path may lie below it."""


class TolerationConfig(Section):
    """A taint of nodes that the pods tolerate, with the names and meanings of Kubernetes."""

    key: str | None = Field(None, pattern=f"^{_KUBE_KEY}$")
    """Key of the taint; null: every key, which needs operator Exists."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Whether the value must be equal, or any will do."""
    value: str | None = Field(None, pattern=f"^{_KUBE_VALUE}$")
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; null: every effect."""
    toleration_seconds: int | None = Field(None, ge=0)
    """How long a NoExecute taint is tolerated; null: forever."""

    @model_validator(mode="after")
    def _as_the_server_checks(self) -> "TolerationConfig":
        if self.key is None and self.operator != "Exists":
            raise ValueError("key: missing; set it, or set operator to Exists to tolerate every taint")
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator Exists ignores the value; remove value, or use operator Equal")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("toleration_seconds requires effect NoExecute; set it, or remove the seconds")
        return self


class KubernetesLaunchConfig(LaunchLimits):
    """Pods of a Kubernetes cluster: a JobSet with a pod for each host, all of which restart together."""

    kind: Literal["kubernetes"]
    """Run on Kubernetes."""
    image: str = Field(pattern=r"^\S+$")
    """Image with lazytower, as docker/ builds it; the cluster must be able to pull it."""
    context: str | None = Field(None, min_length=1)
    """Context of the kubeconfig; defaults to its current one, or, without a kubeconfig, to the service
    account of the pod that lazytower runs in."""
    namespace: str = Field("default", pattern=_NAMESPACE)
    """Namespace of the job."""
    hosts: int = Field(1, ge=1, le=1000)
    """Number of pods. More than one needs device.kind cluster: the first trains, the others are its
    workers."""
    cpu: float = Field(4, ge=0.1, le=1024)
    """Cores of each pod, requested and at most; also device.threads where that is 0."""
    memory: str | None = Field(None, pattern=r"^[1-9][0-9]*(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$")
    """Memory of each pod, such as 32Gi, requested and at most; defaults to what `lazytower plan` forecasts,
    with a margin of a quarter and 1 GiB."""
    volumes: list[VolumeConfig] = []
    """Volume claims with the dataset and the output; not needed when both are in gs://."""
    service_account: str | None = Field(None, pattern=_DNS_NAME)
    """Service account of the pods, such as one that may read and write the bucket; defaults to the
    namespace's."""
    credentials_secret: str | None = Field(None, pattern=_DNS_NAME)
    """Secret with a Google service account's key as key.json, where the service account alone gives no access
    to gs://."""
    pull_secret: str | None = Field(None, pattern=_DNS_NAME)
    """Secret with which the image is pulled."""
    node_selector: Annotated[dict[str, str], AfterValidator(_kubernetes_labels)] = {}
    """Labels that a node must have."""
    tolerations: list[TolerationConfig] = []
    """Taints of nodes that the pods tolerate."""
    priority_class: str | None = Field(None, pattern=_DNS_NAME)
    """Priority class of the pods."""
    labels: Annotated[dict[str, str], AfterValidator(_own_labels)] = {}
    """Labels of the JobSet and its pods, for a queue or bills."""
    port: int = Field(7777, ge=1024, le=65_535)
    """Port on which the hosts of a cluster reach each other."""
    start_seconds: float = Field(1800, gt=0)
    """How long the first pod of a cluster waits until the others are scheduled, have pulled the image and
    answer, if device.connect_seconds is shorter."""
    retries: int = Field(20, ge=0)
    """How often the JobSet restarts all pods, after exit code 75 or the loss of a node; also the number of
    JobSets in a row that may vanish without a further step saved, before the job fails."""
    grace_seconds: int = Field(120, ge=1, le=86_400)
    """Time to save and stop that pods have after SIGTERM."""
    ttl_seconds: int = Field(604_800, ge=0, le=2**31 - 1)
    """Kubernetes deletes a JobSet this long after its end, should no supervisor have done so."""

    @model_validator(mode="after")
    def _mounts_are_apart(self) -> "KubernetesLaunchConfig":
        paths = [posixpath.normpath(volume.path) for volume in self.volumes]
        if twice := next((path for path in paths if paths.count(path) > 1), None):
            raise ValueError(f"volumes: two claims are mounted at {twice}; use different paths")
        return self

    @property
    def memory_bytes(self) -> int | None:
        """`memory` as a number."""
        if self.memory is None:
            return None
        number = self.memory.rstrip("KMGTik")
        return int(float(number) * _UNITS[self.memory.removeprefix(number)])

    def holds(self, path: str) -> bool:
        """Whether a path lies on one of the volumes."""
        roots = [posixpath.normpath(volume.path) for volume in self.volumes]
        return any(posixpath.normpath(path).startswith(f"{root}/") for root in roots)


LaunchConfig = Annotated[
    LocalLaunchConfig | CloudTpuLaunchConfig | KubernetesLaunchConfig,
    Field(discriminator="kind"),
    of_kind("local"),
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
        return
    if config.launch.kind == "kubernetes" and config.device.kind == "tpu":
        raise ValueError(
            "launch.kind: kubernetes trains on CPUs, but device.kind is tpu; use launch.kind cloud_tpu"
        )
    _check_hosts(config)


def _check_hosts(config: "RunConfig") -> None:
    """Raises ValueError: the launcher starts several hosts, and the run does not find them in TF_CONFIG."""
    hosts = config.launch.hosts if config.launch.kind in ("local", "kubernetes") else 1
    device = config.device
    if hosts > 1 and (device.kind != "cluster" or device.from_ is None):
        given = "device.hosts names others" if device.kind == "cluster" else f"device.kind is {device.kind}"
        raise ValueError(
            f"launch.hosts: {hosts} hosts are found by TF_CONFIG, but {given}; set device: {{kind: cluster, "
            "from: TF_CONFIG}, or remove launch.hosts"
        )
    if config.launch.kind == "kubernetes" and hosts == 1 and device.kind == "cluster":
        raise ValueError("launch.hosts: 1 host is no cluster; raise it, or set device.kind: cpu")
    if config.train.batch_size % hosts:
        raise ValueError(
            f"train.batch_size: {config.train.batch_size} is not divisible by launch.hosts {hosts}; use a "
            f"multiple of {hosts}"
        )
