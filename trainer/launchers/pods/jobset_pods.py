"""Pods of a job on Kubernetes: found through their JobSet, and only if that carries the job's label."""

from typing import Any, ClassVar

from configs.sections.launch import JOB_LABEL
from trainer.launchers.base import SliceState
from trainer.launchers.pods.jobset import jobset_name
from trainer.launchers.pods.kubernetes_api import KUBERNETES_SECONDS, KubernetesApi
from trainer.launchers.pods.pod_report import AttemptReport
from trainer.launchers.pods.pod_states import condition, host_index, pods_state
from trainer.vm.log import JobFiles

NAME_LABEL = "jobset.sigs.k8s.io/jobset-name"  # of all jobs and pods of a JobSet


class JobSetPods:
    """See trainer.launchers.base.Slices.

    Args:
      job_path: the job's directory.
      launch: the launch section; `namespace` and `context` are needed.
      api: a client to share; None: its own.
    """

    noun: ClassVar[str] = "JobSet"
    list_command: ClassVar[str] = f"kubectl get jobsets,pods --all-namespaces --selector {JOB_LABEL}"
    # A request may arrive at the last retry of its call.
    settle_seconds = KUBERNETES_SECONDS + 30.0

    def __init__(self, job_path: str, launch: dict[str, Any], api: KubernetesApi | None = None) -> None:
        self._job_path, self._id = job_path, job_path.rpartition("/")[2]
        self._namespace, self._context = launch.get("namespace") or "default", launch.get("context")
        self._api = api or KubernetesApi(self._namespace, self._context)
        self._reports: dict[int, AttemptReport] = {}

    def observe(self, attempt: int) -> SliceState:
        """State of the JobSet, and of its pods while it runs."""
        found = self._api.get(self._name(attempt))
        if found is None:
            return SliceState("absent", "the JobSet is gone")
        if not self._is_ours(found):
            return SliceState("absent", f"JobSet {self._name(attempt)} is not this job's")
        if found["metadata"].get("deletionTimestamp"):
            return SliceState("deleting", "the JobSet is being deleted")
        if failed := condition(found, "Failed"):
            return SliceState("failed", f"the JobSet has failed: {failed.get('message', '')}")
        if condition(found, "Completed"):
            return SliceState("ready")
        return pods_state(self._pods(attempt))

    def delete(self, attempt: int) -> None:
        """Deletes the JobSet; its jobs, pods and service go first."""
        found = self._api.get(self._name(attempt))
        if found is None or not self._is_ours(found) or found["metadata"].get("deletionTimestamp"):
            return
        self._api.delete(self._name(attempt), found["metadata"]["uid"])

    def left(self, attempt: int) -> str:
        """The JobSet, with kubectl's command."""
        name, context = self._name(attempt), f" --context {self._context}" if self._context else ""
        return (
            f"JobSet {name} of namespace {self._namespace} and its pods may be left; `kubectl delete jobset "
            f"{name} --namespace {self._namespace}{context} --cascade=foreground` deletes them"
        )

    def report(self, attempt: int, files: JobFiles) -> None:
        """Copies logs and outcome of the pods, which cannot write the job's files."""
        found = self._api.get(self._name(attempt))
        if found is None or not self._is_ours(found):
            return
        if attempt not in self._reports:
            self._reports[attempt] = AttemptReport(self._api, files, self._job_path, attempt)
        selector = f"{NAME_LABEL}={self._name(attempt)}"
        self._reports[attempt].write(found, self._pods(attempt), lambda: self._api.jobs(selector))

    def _name(self, attempt: int) -> str:
        return jobset_name(self._id, attempt)

    def _pods(self, attempt: int) -> list[dict[str, Any]]:
        """One pod of each host: the newest."""
        newest: dict[int, dict[str, Any]] = {}
        found = self._api.pods(f"{NAME_LABEL}={self._name(attempt)}")
        for pod in sorted(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp", ""))):
            newest[host_index(pod)] = pod
        return [newest[index] for index in sorted(newest)]

    def _is_ours(self, found: dict[str, Any]) -> bool:
        return bool((found["metadata"].get("labels") or {}).get(JOB_LABEL) == self._id)
