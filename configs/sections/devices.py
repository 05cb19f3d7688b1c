"""The `device` section: where a run trains."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.sections.base import Section, of_kind
from configs.system.tpu import Slice, tpu_slice

_ADDRESS = r"grpc://[^\s,:/]+(:\d+)?"  # as TensorFlow splits them; its own port is 8470
_ADDRESSES = f"{_ADDRESS}(,{_ADDRESS})*"


class _Device(Section):
    """What all devices share: the host's processor."""

    kind: str = ""
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


DeviceConfig = Annotated[CpuDeviceConfig | TpuDeviceConfig, Field(discriminator="kind"), of_kind("cpu")]
