"""Requests slices of Cloud TPU, each a queued resource of the same name as its one node."""

import json
import uuid
from typing import Any, ClassVar

from configs.errors import UserError
from configs.schema import RunConfig
from configs.sections.launch import JOB_LABEL, CloudTpuLaunchConfig, launch_slice, runtime_version
from configs.system.storage import is_remote
from trainer.launchers.base import Exists, LaunchError, Slices, Unreachable
from trainer.launchers.startup import startup_script, vm_spec
from trainer.launchers.tpu_api import TpuApi
from trainer.launchers.tpu_slices import TpuSlices

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_MAX_SCRIPT_BYTES = 256 << 10  # of one metadata value


class CloudTpu(TpuSlices):
    """See trainer.launchers.base.Launcher."""

    slices: ClassVar[type[Slices]] = TpuSlices
    installs_wheel: ClassVar[bool] = True  # its machines are bare
    is_here: ClassVar[bool] = False
    hidden = claims = None

    def __init__(self, config: RunConfig, job_path: str, facts: dict[str, Any]) -> None:
        assert isinstance(config.launch, CloudTpuLaunchConfig)
        self._config, self._launch, self._wheel = config, config.launch, facts["wheel"]
        self._slice, self._runtime = launch_slice(config), runtime_version(config)
        api = TpuApi(self._launch.project, self._launch.zone, self._slice.name, self._runtime)
        super().__init__(job_path, self._launch.model_dump(), api)

    @property
    def installs_packages(self) -> bool:
        """Unless launch.python names an interpreter that has them."""
        return self._launch.python is None

    @property
    def bill(self) -> dict[str, Any]:
        """See trainer.launchers.base.Launcher."""
        launch = self._launch
        place = {"project": launch.project, "zone": launch.zone}
        return place | {"chips": self._slice.chips, "price_per_chip_hour": launch.price_per_chip_hour}

    @property
    def region(self) -> str:
        """Of the zone."""
        return self._launch.zone.rpartition("-")[0]

    @property
    def slice_name(self) -> str:
        """As launch.slice or device.slice names it."""
        return self._slice.name

    def check_files(self) -> None:
        """Raises UserError: a path that the slice's machines cannot reach, or the name of another TPU."""
        config = self._config
        if config.device.kind == "tpu" and config.device.name is not None:
            raise UserError("device.name: the job trains on the slice that it requests; remove this key")
        paths = {
            "dataset.path": config.dataset.path,
            "dataset.base": config.dataset.base,
            "output.path": config.output.path,
            "init.from": config.init and config.init.from_,
            "launch.staging": config.launch.staging,
        }
        for key, path in paths.items():
            if path and not is_remote(path):
                raise UserError(f"{key}: {path} is on this machine, which the slice cannot reach; use gs://")

    def sized(self, forecast_bytes: int | None) -> RunConfig:
        """The config: a slice's memory is what it is."""
        return self._config

    def check(self) -> list[str]:
        """Asks the API whether the zone has the slice type and the runtime version."""
        slice_, warnings = self._slice, []
        kind = self._api.call(
            "get_accelerator_type", name=f"{self._api.parent}/acceleratorTypes/{slice_.name}"
        )
        if kind is None:
            raise LaunchError(self._api.no_type("the API lists none"))
        name = f"{self._api.parent}/runtimeVersions/{self._runtime}"
        if self._api.call("get_runtime_version", name=name) is None:
            raise LaunchError(self._api.no_runtime("the API lists none"))
        if self._config.device.kind == "cpu":
            warnings.append(f"device.kind is cpu: the chips of {slice_.name} are billed but stay idle")
        if slice_.hosts > 1:
            warnings.append(
                f"{slice_.name} has {slice_.hosts} hosts, and lazytower has never been run on more than one; "
                "the runtime version must start TensorFlow's worker service on each (tpu-vm-tf-...-pod)"
            )
        if self._launch.price_per_chip_hour is None:
            warnings.append("launch.price_per_chip_hour is not set, so `lazytower jobs` shows no cost")
        return warnings

    def describe(self, attempt: int) -> list[tuple[str, str]]:
        """The request as JSON, and its start-up script as a part of its own."""
        from google.protobuf.json_format import MessageToDict

        request = self._request(attempt)
        document = MessageToDict(type(request).pb(request))
        metadata = document["queuedResource"]["tpu"]["nodeSpec"][0]["node"]["metadata"]
        script = metadata["startup-script"]
        metadata["startup-script"] = "(the script below)"
        method = "google.cloud.tpu.v2.Tpu.CreateQueuedResource"
        return [(method, json.dumps(document, indent=2)), ("startup-script", script)]

    def create(self, attempt: int) -> None:
        """Sends the request; its id makes a repeated request the same one."""
        request = self._request(attempt)
        try:
            self._api.call("create_queued_resource", **_fields(request))
        except Exists:
            name, ours = self._name(attempt), self.is_ours(attempt)
            if ours is None:
                raise Unreachable(f"{name}: the API says it exists, but does not show it yet") from None
            if not ours:
                raise LaunchError(
                    f"{name}: a resource of this name exists in {self._launch.zone} and is not this job's; "
                    "delete it, or submit again under a new name"
                ) from None

    def _script(self, attempt: int) -> str:
        launch = self._launch
        spec = vm_spec(self._config, self._job_path, attempt, f"{launch.work_dir}/{self._name(attempt)}")
        spec["python"] = launch.python
        spec["install"] = {
            "wheel": self._wheel,
            "constraints": "constraints.txt" if self.installs_packages else None,
        }
        name, labels = self._name(attempt), {JOB_LABEL: self._id}
        spec["slice"] = {"project": launch.project, "zone": launch.zone, "id": name, "labels": labels}
        spec["slice"]["hosts"] = self._slice.hosts
        spec["train"] += self._name_of_slice(attempt)
        script = startup_script(spec)
        assert len(script.encode()) < _MAX_SCRIPT_BYTES
        return script

    def _name_of_slice(self, attempt: int) -> list[str]:
        """Flags that give worker 0 the name of the slice, so that it finds the other hosts."""
        if self._config.device.kind == "cpu" or self._slice.hosts == 1:
            return []
        names = {"name": self._name(attempt), "zone": self._launch.zone, "project": self._launch.project}
        return [word for key, name in names.items() for word in ("--set", f"device.{key}={name}")]

    def _request(self, attempt: int) -> Any:
        """The request, field by field as docs/jobs.md lists it."""
        from google.cloud import tpu_v2 as tpu
        from google.protobuf.duration_pb2 import Duration

        launch = self._launch
        network = tpu.NetworkConfig(
            network=launch.network or "",
            subnetwork=launch.subnetwork or "",
            enable_external_ips=launch.external_ips,
        )
        node = tpu.Node(
            accelerator_type=self._slice.name,
            runtime_version=self._runtime,
            description=f"lazytower job {self._id}, attempt {attempt}",
            network_config=network,
            service_account=tpu.ServiceAccount(email=launch.service_account or "", scope=[_SCOPE]),
            labels={**launch.labels, JOB_LABEL: self._id},
            metadata={"startup-script": self._script(attempt)},
        )
        spec = tpu.QueuedResource.Tpu.NodeSpec(
            parent=self._api.parent, node_id=self._name(attempt), node=node
        )
        resource = tpu.QueuedResource(tpu=tpu.QueuedResource.Tpu(node_spec=[spec]))
        if launch.spot:
            resource.spot = tpu.QueuedResource.Spot()
        if launch.valid_until_seconds is not None:
            until = Duration(seconds=launch.valid_until_seconds)
            resource.queueing_policy = tpu.QueuedResource.QueueingPolicy(valid_until_duration=until)
        return tpu.CreateQueuedResourceRequest(
            parent=self._api.parent,
            queued_resource_id=self._name(attempt),
            queued_resource=resource,
            request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, self.resource(attempt))),
        )


def _fields(request: Any) -> dict[str, Any]:
    """Fields of a request, as TpuApi.call takes them."""
    names = ("parent", "queued_resource_id", "queued_resource", "request_id")
    return {name: getattr(request, name) for name in names}
