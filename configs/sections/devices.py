"""The `device` section: where a run trains."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from configs.errors import ConfigError
from configs.sections.base import Section, of_kind
from configs.system.tf_config import VARIABLE, HostAddress, task_of_environment
from configs.system.tpu import Slice, tpu_slice

_ADDRESS = r"grpc://[^\s,:/]+(:\d+)?"  # as TensorFlow splits them; its own port is 8470
_ADDRESSES = f"{_ADDRESS}(,{_ADDRESS})*"


def _distinct(hosts: list[str]) -> list[str]:
    if twice := next((host for host in hosts if hosts.count(host) > 1), None):
        raise ValueError(f"{twice} is there twice; give each host an address of its own")
    return hosts


class _Device(Section):
    """What all devices share: the host's processor."""

    kind: str = ""
    requirements: ClassVar[str] = "cpu"
    """Which docker/constraints-*.txt has the versions of the packages that this device needs."""
    threads: int = Field(0, ge=0)
    """Threads of TensorFlow's kernels; 0: one per core. Bit-for-bit reproducible runs need the same
    number."""

    @property
    def needs_local_chip(self) -> bool:
        """Whether this machine must have a TPU."""
        return False

    @property
    def is_named_tpu(self) -> bool:
        """Whether training connects to a TPU of other machines."""
        return False


class CpuDeviceConfig(_Device):
    """This machine's processor."""

    kind: Literal["cpu"] = "cpu"
    """Train on the CPU."""
    replicas: int = Field(1, ge=1, le=64)
    """Logical devices that share each batch, to rehearse a run on several devices. Negatives are global, so
    results equal those of one device up to rounding. train.batch_size must be divisible by it."""


class TpuDeviceConfig(_Device):
    """A slice of a Cloud TPU. Only training needs it: evaluate, export and plan run without a TPU."""

    requirements: ClassVar[str] = "tpu"
    kind: Literal["tpu"]
    """Train on a TPU: tables in its embedding engine or SparseCores, towers on its TensorCores."""
    slice: str
    """Type of the slice, such as v4-8, v5p-8 or v6e-4."""
    name: str | None = Field(None, min_length=1)
    """Name of the TPU in its zone, or the addresses of its hosts as grpc://ip:port, separated by commas.
    Defaults to the TPU of this machine."""
    zone: str | None = Field(None, min_length=1)
    """Zone of the named TPU."""
    project: str | None = Field(None, min_length=1)
    """Project of the named TPU; defaults to that of the default credentials."""
    connect_seconds: float = Field(300, gt=0)
    """Give up if the TPU does not answer within this time."""

    @model_validator(mode="after")
    def _place_of_a_name(self) -> "TpuDeviceConfig":
        if self.name is None and (self.zone or self.project):
            raise ValueError("zone and project require name; set name or remove them")
        if self.name is not None and self.has_address:
            if self.zone or self.project:
                raise ValueError(f"name: {self.name} is an address; remove zone and project")
            if not re.fullmatch(_ADDRESSES, self.name):
                raise ValueError(
                    f"name: {self.name} is not a valid address; write grpc://ip:port, separated by commas"
                )
        elif self.name is not None and self.zone is None:
            raise ValueError(f"zone: missing; set the zone of {self.name}, such as us-east5-b")
        return self

    @property
    def slice_type(self) -> Slice:
        """What the name of the slice stands for. Raises ConfigError: there is no such slice."""
        return tpu_slice(self.slice)

    @property
    def needs_local_chip(self) -> bool:
        return self.name is None

    @property
    def is_named_tpu(self) -> bool:
        return self.name is not None

    @property
    def has_address(self) -> bool:
        """Whether `name` is an address, which needs no lookup."""
        return self.name is not None and self.name.startswith("grpc://")


class ClusterDeviceConfig(_Device):
    """Several hosts with CPUs that train one run together. Host 0 runs `lazytower train`, all others
    `lazytower worker`. Evaluate, export and plan run on one machine, without the others."""

    kind: Literal["cluster"]
    """Train on the processors of several hosts: each holds a part of every table's rows and computes a
    share of every batch. Negatives are global, so results equal those of one machine up to rounding."""
    hosts: Annotated[list[HostAddress], AfterValidator(_distinct)] | None = None
    """Addresses as host:port, host 0 first; all hosts must reach each other there. TensorFlow's runtime
    does not authenticate anyone: use a private network. train.batch_size must be divisible by their
    number."""
    from_: Literal["TF_CONFIG"] | None = Field(None, alias="from")
    """TF_CONFIG: read the addresses from the environment variable of this name, as Kubernetes operators set
    it, instead of `hosts`."""
    connect_seconds: float = Field(120, gt=0)
    """Give up if a host does not answer within this time after the start."""
    keepalive_seconds: int = Field(10, ge=1, le=600)
    """How often connections are checked: a host that is cut off or hangs is noticed after two to nine times
    this."""

    @model_validator(mode="after")
    def _hosts_are_known(self) -> "ClusterDeviceConfig":
        if (self.hosts is None) == (self.from_ is None):
            raise ValueError(f"hosts and from: set exactly one of them; {_TWO_WAYS}")
        if self.hosts is not None and len(self.hosts) < 2:
            raise ValueError("hosts: a cluster has at least 2; use device.kind: cpu for one machine")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = dump(self)  # `from` is a word of Python's own
        return {"from" if name == "from_" else name: value for name, value in values.items()}

    def addresses(self) -> list[str]:
        """Of all hosts, in order. Raises ConfigError: they should be in TF_CONFIG, and are not."""
        return list(self.hosts) if self.hosts is not None else list(task_of_environment().addresses)

    @property
    def known_count(self) -> int | None:
        """Number of hosts; None: only the hosts' own TF_CONFIG says it."""
        try:
            return len(self.addresses())
        except ConfigError:
            return None


_TWO_WAYS = f"write hosts: [host:port, ...], host 0 first, or from: {VARIABLE}"

DeviceConfig = Annotated[
    CpuDeviceConfig | TpuDeviceConfig | ClusterDeviceConfig, Field(discriminator="kind"), of_kind("cpu")
]
