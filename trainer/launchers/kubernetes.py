"""Trains in pods of a Kubernetes cluster, which a JobSet starts and restarts together."""

import hashlib
import json
import os
from typing import Any, ClassVar

from configs.errors import UserError
from configs.schema import RunConfig
from configs.sections.launch import KubernetesLaunchConfig
from configs.system.storage import is_remote
from configs.text import size_text
from trainer.launchers.base import Exists, LaunchError, Slices, Unreachable
from trainer.launchers.pods.jobset import jobset, memory_for
from trainer.launchers.pods.jobset_pods import JobSetPods
from trainer.launchers.pods.kubernetes_api import KubernetesApi


class Kubernetes(JobSetPods):
    """See trainer.launchers.base.Launcher."""

    slices: ClassVar[type[Slices]] = JobSetPods
    installs_wheel: ClassVar[bool] = False  # the image has lazytower
    installs_packages = False
    is_here: ClassVar[bool] = False
    region = slice_name = None

    def __init__(self, config: RunConfig, job_path: str, facts: dict[str, Any]) -> None:
        assert isinstance(config.launch, KubernetesLaunchConfig)
        self._config, self._launch = config, config.launch
        api = KubernetesApi(config.launch.namespace, config.launch.context)
        super().__init__(job_path, config.launch.model_dump(), api)

    @property
    def bill(self) -> dict[str, Any]:
        """Where the pods are; their price is not known."""
        place = {"namespace": self._launch.namespace, "context": self._launch.context}
        return {"project": None, "zone": None, "chips": 0, "price_per_chip_hour": None, **place}

    def check_files(self) -> None:
        """Raises UserError: a path that the pods, or this machine, cannot reach."""
        config, launch = self._config, self._launch
        paths = {
            "dataset.path": config.dataset.path,
            "dataset.base": config.dataset.base,
            "output.path": config.output.path,
            "init.from": config.init and config.init.from_,
        }
        for key, path in paths.items():
            if path and not is_remote(path) and not launch.holds(path):
                raise UserError(
                    f"{key}: {path} is on this machine, which the pods cannot reach; use gs://, or a path "
                    "below launch.volumes"
                )
        if launch.staging is None and self.claims is not None:
            raise UserError(
                f"launch.staging: missing; output.path {config.output.path} is on a volume that this machine "
                "does not have; name a local directory or gs:// for the job's record"
            )

    @property
    def hidden(self) -> str | None:
        """The dataset, when it is on a volume that this machine does not have."""
        path = self._config.dataset.path
        return None if is_remote(path) or os.path.exists(path) else f"dataset.path {path}"

    @property
    def claims(self) -> str | None:
        """A directory beside the jobs, when output.path is on a volume that this machine does not have."""
        output = self._config.output.path
        if is_remote(output) or os.path.isdir(self._mount(output)):
            return None
        digest = hashlib.sha256(f"{self._launch.namespace} {output}".encode()).hexdigest()[:16]
        return f"{self._job_path.rpartition('/')[0]}/outputs/{digest}"

    def sized(self, forecast_bytes: int | None) -> RunConfig:
        """The config with launch.memory. Raises UserError: it is too small, or there is none to be had."""
        given, dataset = self._launch.memory_bytes, self._config.dataset.path
        if given is None and forecast_bytes is None:
            raise UserError(
                f"launch.memory: missing, and {dataset} cannot be read here to forecast it; set it, such as "
                "32Gi"
            )
        if given is not None and forecast_bytes is not None and given < forecast_bytes:
            raise UserError(
                f"launch.memory: {self._launch.memory} is less than the {size_text(forecast_bytes)} that the "
                f"run needs; use {memory_for(forecast_bytes)}, or remove the key"
            )
        return self._config if given is not None else self._with_memory(memory_for(forecast_bytes or 0))

    def check(self) -> list[str]:
        """Lets the server check the JobSet with all its rules, and asks for what the pods refer to."""
        try:
            self._api.create(self._document(1), dry_run=True)
        except Exists as error:
            raise LaunchError(f"{error}; submit again under a new name") from None
        launch, warnings = self._launch, []
        wanted = [("launch.volumes", "persistent_volume_claim", volume.claim) for volume in launch.volumes]
        if launch.service_account:
            wanted.append(("launch.service_account", "service_account", launch.service_account))
        for key, kind, name in wanted:
            try:
                found = self._api.has(kind, name)
            except LaunchError as error:  # looking takes a right of its own, which running does not
                warnings.append(f"{key}: {name} is not checked: {error}")
                continue
            if not found:
                raise LaunchError(f"{key}: {name} does not exist in namespace {launch.namespace}; create it")
        return warnings

    def describe(self, attempt: int) -> list[tuple[str, str]]:
        """The JobSet as JSON."""
        config = self._config if self._launch.memory else self._with_memory("(as lazytower plan forecasts)")
        text = json.dumps(jobset(config, self._id, attempt), indent=2)
        return [(f"JobSet in namespace {self._launch.namespace}", text)]

    def create(self, attempt: int) -> None:
        """Creates the JobSet; the server checks all of it."""
        name, namespace = self._name(attempt), self._launch.namespace
        try:
            self._api.create(self._document(attempt))
        except Exists:
            found = self._api.get(name)
            if found is None:
                raise Unreachable(f"{name}: the API says it exists, but does not show it") from None
            if not self._is_ours(found):
                raise LaunchError(
                    f"{name}: a JobSet of this name exists in namespace {namespace} and is not this job's; "
                    "delete it, or submit again under a new name"
                ) from None

    def _document(self, attempt: int) -> dict[str, Any]:
        return jobset(self._config, self._id, attempt)

    def _with_memory(self, memory: str) -> RunConfig:
        launch = self._launch.model_copy(update={"memory": memory})
        return self._config.model_copy(update={"launch": launch})

    def _mount(self, path: str) -> str:
        """Where the volume of a path is mounted."""
        return max((v.path for v in self._launch.volumes if path.startswith(f"{v.path}/")), key=len)
