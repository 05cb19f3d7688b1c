"""Trains on a slice of Cloud TPU, asked for as a queued resource of the same name as its one node."""

import json
import uuid

from configs.errors import UserError
from configs.launch import JOB_LABEL, launch_slice, runtime_version
from configs.storage import is_remote
from trainer.launchers.base import LaunchError, SliceState, Unreachable
from trainer.launchers.tpu_api import TpuApi
from trainer.startup import startup_script, vm_spec

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TAKEN_AWAY = ("PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "HIDING", "HIDDEN")
_MAX_SCRIPT_BYTES = 256 << 10  # of one metadata value


class CloudTpu:
    """See trainer.launchers.base.Launcher."""

    def __init__(self, config, job_path: str, facts: dict):
        self._config, self._launch, self._job_path = config, config.launch, job_path
        self._wheel = facts["wheel"]
        self._id = job_path.rpartition("/")[2]
        self._slice, self._runtime = launch_slice(config), runtime_version(config)
        self._api = TpuApi(self._launch.project, self._launch.zone, self._slice.name, self._runtime)

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
        from google.api_core.exceptions import AlreadyExists

        request = self._request(attempt)
        try:
            self._api.call("create_queued_resource", **_fields(request))
        except AlreadyExists:
            ours = self._is_ours(attempt)
            if ours is None:
                name = self._name(attempt)
                raise Unreachable(f"{name}: exists, says the API, and is not seen yet") from None
            if not ours:
                raise LaunchError(
                    f"{self._name(attempt)}: the name exists in {self._launch.zone}, and is not this job's; "
                    "delete it, or submit again, which makes another name"
                ) from None

    def observe(self, attempt: int) -> SliceState:
        """State of the queued resource, and of its node when that should be up."""
        resource = self._api.call("get_queued_resource", name=self._resource(attempt))
        if resource is None:
            # A node may outlive its queued resource, and is what is paid for.
            left = self._api.call("get_node", name=self._node(attempt))
            return SliceState("absent" if left is None else "lost", "the queued resource is gone")
        state = resource.state.state.name
        if state in ("DELETING", "SUSPENDING"):
            return SliceState("deleting" if state == "DELETING" else "lost", f"queued resource {state}")
        if state == "SUSPENDED":
            return SliceState("lost", "queued resource SUSPENDED")
        if state == "FAILED":
            return self._failed(resource.state.failed_data.error)
        if state == "PROVISIONING":
            return SliceState("provisioning")
        return self._node_state(attempt) if state == "ACTIVE" else SliceState("waiting")

    def delete(self, attempt: int) -> None:
        """Deletes the queued resource with its node, and a node without one."""
        if self._api.call("get_queued_resource", name=self._resource(attempt)) is not None:
            self._api.call("delete_queued_resource", name=self._resource(attempt), force=True)
        elif self._api.call("get_node", name=self._node(attempt)) is not None:
            self._api.call("delete_node", name=self._node(attempt))

    def _failed(self, error) -> SliceState:
        # RESOURCE_EXHAUSTED, ABORTED, INTERNAL, UNAVAILABLE: may be otherwise next time.
        kind = "refused" if error.code in (8, 10, 13, 14) else "failed"
        return SliceState(kind, f"queued resource FAILED: {self._api.words(error)}")

    def _node_state(self, attempt: int) -> SliceState:
        node = self._api.call("get_node", name=self._node(attempt))
        if node is None:
            return SliceState("lost", "the node is gone")
        state = node.state.name
        if state in _TAKEN_AWAY:
            return SliceState("lost", f"node {state}")
        return SliceState("ready" if state == "READY" else "provisioning", f"node {state}")

    def _is_ours(self, attempt: int) -> bool | None:
        """None: it cannot be seen, so nothing is known."""
        found = self._api.call("get_queued_resource", name=self._resource(attempt))
        if found is None:
            return None
        return any(spec.node.labels.get(JOB_LABEL) == self._id for spec in found.tpu.node_spec)

    def _name(self, attempt: int) -> str:
        return f"{self._id}-{attempt}"

    def _resource(self, attempt: int) -> str:
        return f"{self._api.parent}/queuedResources/{self._name(attempt)}"

    def _node(self, attempt: int) -> str:
        return f"{self._api.parent}/nodes/{self._name(attempt)}"

    def _script(self, attempt: int) -> str:
        launch = self._launch
        spec = vm_spec(self._config, self._job_path, attempt, f"{launch.work_dir}/{self._name(attempt)}")
        spec["python"] = launch.python
        spec["install"] = {"wheel": self._wheel, "constraints": None if launch.python else "constraints.txt"}
        spec["slice"] = {"project": launch.project, "zone": launch.zone, "id": self._name(attempt)}
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
            request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, self._resource(attempt))),
        )


def _fields(request) -> dict:
    """A request's fields, as TpuApi.call takes them."""
    names = ("parent", "queued_resource_id", "queued_resource", "request_id")
    return {name: getattr(request, name) for name in names}
