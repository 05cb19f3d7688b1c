"""Slices of Cloud TPU that a job has: found and deleted by name, and only those that carry its label."""

from typing import Any, ClassVar, NamedTuple

from configs.sections.launch import JOB_LABEL
from trainer.launchers.base import LaunchError, SliceState
from trainer.launchers.tpu_api import CALL_SECONDS, TpuApi
from trainer.vm.log import JobFiles

_TAKEN_AWAY = ("PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "HIDING", "HIDDEN")

# CANCELLED, UNKNOWN, RESOURCE_EXHAUSTED, ABORTED, INTERNAL, UNAVAILABLE, DATA_LOSS. DEADLINE_EXCEEDED is not
# among them: it means that launch.valid_until_seconds is over.
_MAY_SUCCEED_LATER = (1, 2, 8, 10, 13, 14, 15)


def slice_name(job_path: str, attempt: int) -> str:
    """Name of the queued resource, and of its node, of one attempt."""
    return f"{job_path.rpartition('/')[2]}-{attempt}"


class _Found(NamedTuple):
    """What the API has under the name of an attempt."""

    message: Any
    """A QueuedResource or Node; None: there is none."""
    is_ours: bool
    """Whether it carries the job's label."""


class TpuSlices:
    """See trainer.launchers.base.Slices.

    Args:
      job_path: the job's directory.
      launch: the launch section; `project` and `zone` are needed.
      api: a client to share; None: its own.

    Raises:
      LaunchError: the section does not say where the slices are.
    """

    noun: ClassVar[str] = "slice"
    list_command: ClassVar[str] = "gcloud compute tpus queued-resources list"
    # A request may arrive at the last retry of its call, and become visible a moment later.
    settle_seconds = CALL_SECONDS + 30.0

    def __init__(self, job_path: str, launch: dict[str, Any], api: TpuApi | None = None) -> None:
        self._job_path, self._id = job_path, job_path.rpartition("/")[2]
        self._project, self._zone = launch.get("project"), launch.get("zone")
        if not (isinstance(self._project, str) and isinstance(self._zone, str)):
            raise LaunchError(
                f"{job_path}/config.yaml: launch.project and launch.zone are missing, so the job's slices "
                f"cannot be found; search your projects for the label {JOB_LABEL}={self._id}"
            )
        self._api = api or TpuApi(self._project, self._zone, launch.get("slice") or "slice", "")

    def observe(self, attempt: int) -> SliceState:
        """State of the queued resource, and of its node once that should be up."""
        resource, ours = self._look("queued_resource", attempt)
        if resource is None:
            # A node may outlive its queued resource, and is what is billed.
            return self._node_alone(attempt)
        if not ours:
            return SliceState("absent", f"queued resource {self._name(attempt)} is not this job's")
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
        """Deletes the queued resource with its node, or a node without one."""
        resource, ours = self._look("queued_resource", attempt)
        if resource is not None:
            if ours:
                self._api.call("delete_queued_resource", name=self.resource(attempt), force=True)
            return
        _, ours = self._look("node", attempt)
        if ours:
            self._api.call("delete_node", name=self.node(attempt))

    def left(self, attempt: int) -> str:
        """The queued resource and its node, with gcloud's command."""
        name = self._name(attempt)
        where = f"--project {self._project} --zone {self._zone}"
        return (
            f"queued resource {name} and its node in {self._zone} of project {self._project} may be left and "
            f"billed; `gcloud compute tpus queued-resources delete {name} {where} --force` deletes both (a "
            f"node without a queued resource: `gcloud compute tpus tpu-vm delete {name} {where}`)"
        )

    def report(self, attempt: int, files: JobFiles) -> None:
        """Nothing: the machine writes the job's files."""

    def is_ours(self, attempt: int) -> bool | None:
        """Whether the queued resource carries the job's label; None: it is not visible."""
        resource, ours = self._look("queued_resource", attempt)
        return None if resource is None else ours

    def resource(self, attempt: int) -> str:
        """Full name of the queued resource."""
        return f"{self._api.parent}/queuedResources/{self._name(attempt)}"

    def node(self, attempt: int) -> str:
        """Full name of the node."""
        return f"{self._api.parent}/nodes/{self._name(attempt)}"

    def _name(self, attempt: int) -> str:
        return slice_name(self._job_path, attempt)

    def _look(self, kind: str, attempt: int) -> _Found:
        """The queued_resource or node of an attempt's name."""
        name = self.resource(attempt) if kind == "queued_resource" else self.node(attempt)
        message = self._api.call(f"get_{kind}", name=name)
        if message is None:
            return _Found(None, False)
        nodes = [spec.node for spec in message.tpu.node_spec] if kind == "queued_resource" else [message]
        return _Found(message, any(node.labels.get(JOB_LABEL) == self._id for node in nodes))

    def _node_alone(self, attempt: int) -> SliceState:
        node, ours = self._look("node", attempt)
        if node is None:
            return SliceState("absent", "the queued resource is gone")
        if not ours:
            return SliceState("absent", f"node {self._name(attempt)} is not this job's")
        if node.state.name == "DELETING":
            return SliceState("deleting", "node DELETING")
        return SliceState("lost", "the queued resource is gone")

    def _failed(self, error: Any) -> SliceState:
        kind = "refused" if error.code in _MAY_SUCCEED_LATER else "failed"
        return SliceState(kind, f"queued resource FAILED: {self._api.words(error)}")

    def _node_state(self, attempt: int) -> SliceState:
        node, ours = self._look("node", attempt)
        if node is None:
            return SliceState("lost", "the node is gone")
        if not ours:
            return SliceState("lost", f"node {self._name(attempt)} is not this job's")
        state = node.state.name
        if state in _TAKEN_AWAY:
            return SliceState("lost", f"node {state}")
        return SliceState("ready" if state == "READY" else "provisioning", f"node {state}")
