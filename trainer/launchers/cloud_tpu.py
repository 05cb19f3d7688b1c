"""Asks for slices of Cloud TPU, each a queued resource of the same name as its one node."""

import json
import uuid

from configs.errors import UserError
from configs.sections.launch import JOB_LABEL, launch_slice, runtime_version
from configs.system.storage import is_remote
from trainer.launchers.base import Exists, LaunchError, SliceState, Unreachable
from trainer.launchers.startup import startup_script, vm_spec
from trainer.launchers.tpu_api import TpuApi
from trainer.launchers.tpu_slices import TpuSlices, slice_name

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_MAX_SCRIPT_BYTES = 256 << 10  # of one metadata value


class CloudTpu:
    """See trainer.launchers.base.Launcher."""

    slices, machine, settle_seconds = TpuSlices, "slice", TpuSlices.settle_seconds

    def __init__(self, config, job_path: str, facts: dict):
        self._config, self._launch, self._job_path = config, config.launch, job_path
        self._wheel = facts["wheel"]
        self._id = job_path.rpartition("/")[2]
        self._slice, self._runtime = launch_slice(config), runtime_version(config)
        self._api = TpuApi(self._launch.project, self._launch.zone, self._slice.name, self._runtime)
        self._slices = TpuSlices(job_path, self._launch.model_dump(), self._api)

    @property
    def chips(self) -> int:
        """Of the slice."""
        return self._slice.chips

    def needs_wheel(self) -> bool:
        """Its machines are bare."""
        return True

    def check_files(self) -> None:
        """Raises UserError: a path that the slice's machines cannot reach, or the name of another TPU."""
        config = self._config
        if config.device.kind == "tpu" and config.device.name is not None:
            raise UserError("device.name: the job trains on the slice that it is given; leave it out")
        paths = {"dataset.path": config.dataset.path, "output.path": config.output.path}
        if config.launch.staging:
            paths["launch.staging"] = config.launch.staging
        for key, path in paths.items():
            if not is_remote(path):
                raise UserError(f"{key}: {path} is on this machine, which the slice cannot reach; use gs://")

    def check(self) -> list[str]:
        """Asks the API whether the zone has the slice and the software."""
        slice_, warnings = self._slice, []
        kind = self._api.call(
            "get_accelerator_type", name=f"{self._api.parent}/acceleratorTypes/{slice_.name}"
        )
        if kind is None:
            raise LaunchError(self._api.no_type("the API knows none"))
        name = f"{self._api.parent}/runtimeVersions/{self._runtime}"
        if self._api.call("get_runtime_version", name=name) is None:
            raise LaunchError(self._api.no_runtime("the API knows none"))
        if self._config.device.kind == "cpu":
            warnings.append(f"device.kind is cpu: the chips of {slice_.name} will be idle, and be paid for")
        if slice_.hosts > 1:
            warnings.append(
                f"{slice_.name} has {slice_.hosts} machines: lazytower has never run on more than one; the "
                "runtime version must start TensorFlow's worker service on them (tpu-vm-tf-...-pod)"
            )
        if self._launch.price_per_chip_hour is None:
            warnings.append("launch.price_per_chip_hour is not given, so no cost will be shown")
        return warnings

    def describe(self, attempt: int) -> list[tuple[str, str]]:
        """The request as JSON, and the script apart from it."""
        from google.protobuf.json_format import MessageToDict

        request = self._request(attempt)
        document = MessageToDict(type(request).pb(request))
        metadata = document["queuedResource"]["tpu"]["nodeSpec"][0]["node"]["metadata"]
        script = metadata["startup-script"]
        metadata["startup-script"] = "(the script below)"
        method = "google.cloud.tpu.v2.Tpu.CreateQueuedResource"
        return [(method, json.dumps(document, indent=2)), ("startup-script", script)]

    def create(self, attempt: int) -> None:
        """Sends the request; its id makes it the same request when it is sent twice."""
        request = self._request(attempt)
        try:
            self._api.call("create_queued_resource", **_fields(request))
        except Exists:
            name, ours = self._name(attempt), self._slices.is_ours(attempt)
            if ours is None:
                raise Unreachable(f"{name}: exists, says the API, and is not seen yet") from None
            if not ours:
                raise LaunchError(
                    f"{name}: the name exists in {self._launch.zone}, and is not this job's; "
                    "delete it, or submit again, which makes another name"
                ) from None

    def observe(self, attempt: int) -> SliceState:
        """See TpuSlices."""
        return self._slices.observe(attempt)

    def delete(self, attempt: int) -> None:
        """See TpuSlices."""
        self._slices.delete(attempt)

    def left(self, attempt: int) -> str:
        """See TpuSlices."""
        return self._slices.left(attempt)

    def _name(self, attempt: int) -> str:
        return slice_name(self._job_path, attempt)

    def _script(self, attempt: int) -> str:
        launch = self._launch
        spec = vm_spec(self._config, self._job_path, attempt, f"{launch.work_dir}/{self._name(attempt)}")
        spec["python"] = launch.python
        spec["install"] = {"wheel": self._wheel, "constraints": None if launch.python else "constraints.txt"}
        name, labels = self._name(attempt), {JOB_LABEL: self._id}
        spec["slice"] = {"project": launch.project, "zone": launch.zone, "id": name, "labels": labels}
        spec["slice"]["hosts"] = self._slice.hosts
        spec["train"] += self._name_of_slice(attempt)
        script = startup_script(spec)
        assert len(script.encode()) < _MAX_SCRIPT_BYTES
        return script

    def _name_of_slice(self, attempt: int) -> list[str]:
        """Flags that tell worker 0 how the slice is called, whose other machines it must find."""
        if self._config.device.kind == "cpu" or self._slice.hosts == 1:
            return []
        names = {"name": self._name(attempt), "zone": self._launch.zone, "project": self._launch.project}
        return [word for key, name in names.items() for word in ("--set", f"device.{key}={name}")]

    def _request(self, attempt: int):
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
            request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, self._slices.resource(attempt))),
        )


def _fields(request) -> dict:
    """A request's fields, as TpuApi.call takes them."""
    names = ("parent", "queued_resource_id", "queued_resource", "request_id")
    return {name: getattr(request, name) for name in names}
