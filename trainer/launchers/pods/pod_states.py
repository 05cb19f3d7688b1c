"""What Kubernetes says of a JobSet and its pods, in the terms of a job."""

import signal
from typing import Any

from trainer.launchers.base import SliceState
from trainer.launchers.pods.jobset import HOST_INDEX
from trainer.vm.program import RUN_AGAIN

# Why a container does not start, in the words of the kubelet: what only the user can fix, and what may pass.
_LASTING = ("InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "RunContainerError")
_PASSING = ("ImagePullBackOff",)
_OUT_OF_MEMORY = "OOMKilled"
_STOPPED = (RUN_AGAIN, 128 + signal.SIGTERM)


def condition(found: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """A condition of an object that is true."""
    conditions = (found.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind and c.get("status") == "True"), None)


def host_index(pod: dict[str, Any]) -> int:
    """Which host a pod is; 0 where its annotation is missing."""
    text = str((pod["metadata"].get("annotations") or {}).get(HOST_INDEX, "0"))
    return int(text) if text.isdigit() else 0


def container_state(pod: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Details of the trainer's container where it is in a state: waiting, running or terminated."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    found = (statuses[0].get("state") or {}).get(name) if statuses else None
    return found if isinstance(found, dict) else None


def pods_state(pods: list[dict[str, Any]]) -> SliceState:
    """State of the pods of a JobSet that has not ended."""
    for pod in pods:
        waiting = container_state(pod, "waiting") or {}
        reason, message = waiting.get("reason", ""), " ".join(str(waiting.get("message", "")).split())
        if reason in _LASTING + _PASSING:
            text = (
                f"host {host_index(pod)} does not start: {reason} ({message}); check launch.image and secrets"
            )
            return SliceState("failed" if reason in _LASTING else "refused", text)
    if any(host_index(pod) == 0 and container_state(pod, "running") is not None for pod in pods):
        return SliceState("ready")
    if any((pod.get("spec") or {}).get("nodeName") for pod in pods):
        return SliceState("provisioning")
    return SliceState("waiting", waiting_for(pods))


def waiting_for(pods: list[dict[str, Any]]) -> str:
    """Why pods do not run yet, in words."""
    for pod in pods:
        for each in (pod.get("status") or {}).get("conditions") or []:
            if each.get("type") == "PodScheduled" and each.get("status") == "False":
                return f"host {host_index(pod)}: {' '.join(str(each.get('message', '')).split())}"
    return "pods are not running yet" if pods else "there are no pods yet"


def failure(pods: list[dict[str, Any]], restarts: int, jobs: list[dict[str, Any]]) -> tuple[int, str, int]:
    """(exit code, reason, host) of a JobSet that has failed.

    Args:
      pods: the last one of each host.
      restarts: of the JobSet.
      jobs: of the JobSet.
    """
    reasons = [found.get("reason", "") for job in jobs if (found := condition(job, "Failed"))]
    ended = [(pod, done) for pod in pods if (done := container_state(pod, "terminated")) is not None]
    # The other pods are stopped because of the first that fails, often within the same second.
    ended.sort(key=lambda each: (each[1].get("exitCode") in _STOPPED, str(each[1].get("finishedAt", ""))))
    if "DeadlineExceeded" in reasons:
        return 1, "not done within launch.max_seconds", 0
    if "PodFailurePolicy" in reasons:
        return RUN_AGAIN, f"stopped again after {restarts} restarts of all pods (launch.retries)", 0
    for pod, done in ended:
        code, host = done.get("exitCode", 1), host_index(pod)
        if code and done.get("reason") == _OUT_OF_MEMORY:
            return code, f"host {host} was killed for lack of memory; raise launch.memory", host
        if code:
            return code, f"host {host} ended with exit code {code}", host
    return 1, "the JobSet has failed", 0
