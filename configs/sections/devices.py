"""The `device` section: where a run trains."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.sections.base import Section, of_kind

_ADDRESS = r"grpc://[^\s,:/]+(:\d+)?"  # as TensorFlow splits them; its own port is 8470
_ADDRESSES = f"{_ADDRESS}(,{_ADDRESS})*"


class _Device(Section):
    """What every device has: a processor in front of it."""

    kind: str = ""
    threads: int = Field(0, ge=0)
    """Threads of TensorFlow's kernels; 0: one per core. Bit-for-bit repeats need the same number."""

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
    """Logical devices that share each batch, to rehearse a run of many; global negatives, so the numbers are
    those of one up to rounding. train.batch_size must be a multiple."""


class TpuDeviceConfig(_Device):
    """A slice of a Cloud TPU. Evaluation, export and plan of such a run need no TPU."""

    kind: Literal["tpu"]
    """Train on a TPU: tables in its embedding engine or SparseCores, towers on its TensorCores."""
    slice: str
    """Type of the slice, such as v4-8, v5p-8 or v6e-4."""
    name: str | None = Field(None, min_length=1)
    """Name of the TPU in its zone, or its hosts' addresses, grpc://ip:port with commas between; when not
    given, the TPU of the machine that this runs on."""
    zone: str | None = Field(None, min_length=1)
    """Zone of the named TPU."""
    project: str | None = Field(None, min_length=1)
    """Project of the named TPU; when not given, that of the default credentials."""
    connect_seconds: float = Field(300, gt=0)
    """Give up when the TPU does not answer for so long."""

    @model_validator(mode="after")
    def _place_of_a_name(self):
        if self.name is None and (self.zone or self.project):
            raise ValueError("zone and project belong to device.name, which is missing")
        if self.has_address:
            if self.zone or self.project:
                raise ValueError(
                    f"zone and project belong to a name, {self.name} is an address; leave them out"
                )
            if not re.fullmatch(_ADDRESSES, self.name):
                raise ValueError(
                    f"name: {self.name} is no address; write grpc://ip:port, with commas between"
                )
        elif self.name is not None and self.zone is None:
            raise ValueError(f"zone: missing, {self.name} is looked up in a zone such as us-east5-b; give it")
        return self

    @property
    def needs_local_chip(self) -> bool:
        return self.name is None

    @property
    def is_named_tpu(self) -> bool:
        return self.name is not None

    @property
    def has_address(self) -> bool:
        """Whether `name` is an address, which nobody need be asked for."""
        return self.name is not None and self.name.startswith("grpc://")


DeviceConfig = Annotated[CpuDeviceConfig | TpuDeviceConfig, Field(discriminator="kind"), of_kind("cpu")]
