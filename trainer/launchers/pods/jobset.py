"""The JobSet of an attempt: the one object from which Kubernetes makes its pods, service and jobs.

It has one replicated job with a pod for each host. Pod 0 trains, the others are its workers; TF_CONFIG
holds the addresses of all. The config travels as an annotation that the pods see as a file, so that nothing
else has to be created, or deleted. Exit code 75 and the loss of a node fail the job by its pod failure
policy, which makes the JobSet restart all pods; any other failure ends the JobSet.
"""

import hashlib
import json
import math
import posixpath
import shlex
from typing import Any

from configs.load import dump_config
from configs.schema import RunConfig
from configs.sections.launch import JOB_LABEL, KubernetesLaunchConfig, TolerationConfig
from trainer.vm.program import RUN_AGAIN

API_VERSION = "jobset.x-k8s.io/v1alpha2"
REPLICATED_JOB, CONTAINER = "host", "trainer"
HOST_INDEX = "batch.kubernetes.io/job-completion-index"  # annotation of a pod: which host it is
MARGIN_BYTES = 1 << 30  # beside a quarter, over the forecast of `lazytower plan`
_CONFIG_NOTE, _CONFIG_PATH = "lazytower-config", "/etc/lazytower/run.yaml"
_SECRET_PATH = "/var/run/lazytower-secret"
_USER = 1000  # of the images of docker/
# A pod's name ends in a random suffix of six characters, and all of it must be a DNS label.
_LONGEST_NAME = 63 - len(f"-{REPLICATED_JOB}-0-999-abcde")


def jobset_name(job_id: str, attempt: int) -> str:
    """Name of an attempt's JobSet; a longer id is cut, and made unique again by its hash."""
    room = _LONGEST_NAME - len(f"-{attempt}")
    if len(job_id) > room:
        digest = hashlib.sha256(job_id.encode()).hexdigest()[:8]
        job_id = f"{job_id[: room - 9].rstrip('-')}-{digest}"
    return f"{job_id}-{attempt}"


def host_address(name: str, index: int, port: int) -> str:
    """host:port of a pod of a JobSet, as the headless service publishes it."""
    return f"{name}-{REPLICATED_JOB}-0-{index}.{name}:{port}"


def memory_for(forecast_bytes: int) -> str:
    """Memory of a pod whose process is forecast to need so many bytes."""
    return f"{math.ceil((forecast_bytes * 5 / 4 + MARGIN_BYTES) / (1 << 20))}Mi"


def jobset(config: RunConfig, job_id: str, attempt: int) -> dict[str, Any]:
    """The JobSet as the API takes it; launch.memory is set."""
    launch = config.launch
    assert isinstance(launch, KubernetesLaunchConfig) and launch.memory is not None
    name = jobset_name(job_id, attempt)
    labels = {"app.kubernetes.io/name": "lazytower", **launch.labels, JOB_LABEL: job_id}
    policy = {
        "maxRestarts": launch.retries,
        "rules": [
            {"name": "restart", "action": "RestartJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
            {
                "name": "fail",
                "action": "FailJobSet",
                "onJobFailureReasons": ["BackoffLimitExceeded", "DeadlineExceeded"],
            },
        ],
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "JobSet",
        "metadata": {"name": name, "namespace": launch.namespace, "labels": labels},
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": name},
            "failurePolicy": policy,
            "ttlSecondsAfterFinished": launch.ttl_seconds,
            "replicatedJobs": [
                {
                    "name": REPLICATED_JOB,
                    "replicas": 1,
                    "template": {"metadata": {"labels": labels}, "spec": _job(config, name, labels)},
                }
            ],
        },
    }


def _job(config: RunConfig, name: str, labels: dict[str, str]) -> dict[str, Any]:
    launch = config.launch
    assert isinstance(launch, KubernetesLaunchConfig)
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": launch.hosts,
        "parallelism": launch.hosts,
        "backoffLimit": 0,
        "activeDeadlineSeconds": max(int(launch.max_seconds), 1),
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [RUN_AGAIN]},
                },
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {
            "metadata": {"labels": labels, "annotations": {_CONFIG_NOTE: _pod_config(config)}},
            "spec": _pod(launch, name),
        },
    }
    if launch.hosts > 1:  # workers never end by themselves
        spec["successPolicy"] = {"rules": [{"succeededIndexes": "0", "succeededCount": 1}]}
    return spec


def _pod_config(config: RunConfig) -> str:
    """The config with which the pods train: TensorFlow would start a thread for each core of the node, and
    pods start minutes apart."""
    launch, device = config.launch, config.device
    assert isinstance(launch, KubernetesLaunchConfig)
    changed: dict[str, Any] = {"threads": device.threads or math.ceil(launch.cpu)}
    if device.kind == "cluster":
        changed["connect_seconds"] = max(device.connect_seconds, launch.start_seconds)
    return dump_config(config.model_copy(update={"device": device.model_copy(update=changed)}))


def _pod(launch: KubernetesLaunchConfig, name: str) -> dict[str, Any]:
    volumes, mounts = _volumes(launch)
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": launch.grace_seconds,
        "automountServiceAccountToken": False,  # the trainer does not call the API
        "securityContext": {
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "runAsNonRoot": True,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(launch, name, mounts)],
        "volumes": volumes,
    }
    optional: dict[str, Any] = {
        "serviceAccountName": launch.service_account,
        "imagePullSecrets": [{"name": launch.pull_secret}] if launch.pull_secret else None,
        "nodeSelector": launch.node_selector,
        "tolerations": [_toleration(each) for each in launch.tolerations],
        "priorityClassName": launch.priority_class,
    }
    return spec | {key: value for key, value in optional.items() if value}


def _container(launch: KubernetesLaunchConfig, name: str, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    resources = {"cpu": f"{launch.cpu:g}", "memory": launch.memory}
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": launch.image,
        "command": _command(launch.hosts),
        "env": _environment(launch, name),
        "resources": {"requests": resources, "limits": resources},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }
    if launch.hosts > 1:
        container["ports"] = [{"name": "cluster", "containerPort": launch.port}]
        container["lifecycle"] = {"preStop": {"exec": {"command": ["sh", "-c", _wait(launch, name)]}}}
    return container


def _command(hosts: int) -> list[str]:
    train = ["lazytower", "train", "--config", _CONFIG_PATH]
    if hosts == 1:
        return train
    work = ["lazytower", "worker", "--config", _CONFIG_PATH]
    words = f'[ "$JOB_COMPLETION_INDEX" = 0 ] && exec {shlex.join(train)}; exec {shlex.join(work)}'
    return ["sh", "-c", words]


def _wait(launch: KubernetesLaunchConfig, name: str) -> str:
    """Script that keeps a worker alive, when all pods are stopped at once, until the first has saved."""
    host, _, port = host_address(name, 0, launch.port).partition(":")
    look = f"import socket; socket.create_connection(({host!r}, {port}), 2).close()"
    loop = f"while python3 -c {shlex.quote(look)} 2>/dev/null; do sleep 0.5; done"
    return f'[ "$JOB_COMPLETION_INDEX" = 0 ] || {loop}'


def _environment(launch: KubernetesLaunchConfig, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if launch.hosts > 1:
        field = {"fieldPath": f"metadata.annotations['{HOST_INDEX}']"}
        workers = [host_address(name, index, launch.port) for index in range(launch.hosts)]
        task = json.dumps({"type": "worker", "index": "INDEX"}).replace('"INDEX"', "$(JOB_COMPLETION_INDEX)")
        text = f'{{"cluster": {json.dumps({"worker": workers})}, "task": {task}}}'
        # A variable may use those before it; Kubernetes itself would add the index after all others.
        found += [{"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": field}}]
        found += [{"name": "TF_CONFIG", "value": text}]
    if launch.credentials_secret:
        found.append({"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": f"{_SECRET_PATH}/key.json"})
    return found


def _volumes(launch: KubernetesLaunchConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes of a pod, and where its container mounts them."""
    field = {"fieldPath": f"metadata.annotations['{_CONFIG_NOTE}']"}
    directory, name = posixpath.split(_CONFIG_PATH)
    volumes: list[dict[str, Any]] = [
        {"name": "config", "downwardAPI": {"items": [{"path": name, "fieldRef": field}]}}
    ]
    mounts: list[dict[str, Any]] = [{"name": "config", "mountPath": directory, "readOnly": True}]
    for number, volume in enumerate(launch.volumes):
        volumes.append({"name": f"data-{number}", "persistentVolumeClaim": {"claimName": volume.claim}})
        mounts.append({"name": f"data-{number}", "mountPath": volume.path})
    if launch.credentials_secret:
        volumes.append({"name": "credentials", "secret": {"secretName": launch.credentials_secret}})
        mounts.append({"name": "credentials", "mountPath": _SECRET_PATH, "readOnly": True})
    return volumes, mounts


def _toleration(given: TolerationConfig) -> dict[str, Any]:
    found = given.model_dump(exclude_none=True)
    if "toleration_seconds" in found:
        found["tolerationSeconds"] = found.pop("toleration_seconds")
    return found
