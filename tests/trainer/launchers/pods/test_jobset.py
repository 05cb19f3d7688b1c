"""The JobSet: what every pod runs, knows and mounts, and what follows from each exit code."""

import json
import pathlib
import re
import subprocess

import pytest
import yaml

from configs.load import parse_config
from tests.support.fake_kubernetes import check
from tests.support.kubernetes_jobs import JOB, kubernetes_config
from trainer.launchers.pods.jobset import host_address, jobset, jobset_name, memory_for

SCHEMA = yaml.safe_load(pathlib.Path("tests/support/jobset_crd.yaml").read_text())
SCHEMA = SCHEMA["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
EVERYTHING = {
    "volumes": [{"claim": "shared", "path": "/data"}, {"claim": "out", "path": "/out"}],
    "service_account": "trainer",
    "credentials_secret": "key",
    "pull_secret": "registry",
    "node_selector": {"pool": "memory"},
    "tolerations": [{"key": "spot", "value": "yes", "effect": "NoExecute", "toleration_seconds": 30}],
    "priority_class": "low",
    "labels": {"kueue.x-k8s.io/queue-name": "team"},
}


def made(hosts: int = 1, **keys) -> dict:
    return jobset(kubernetes_config(hosts, **keys), JOB, 1)


def pod(document: dict) -> dict:
    return document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("hosts", [1, 3])
@pytest.mark.parametrize("keys", [{}, EVERYTHING], ids=["least", "everything"])
def test_it_is_what_the_schema_allows(hosts, keys):
    assert check(made(hosts, **keys), SCHEMA, "") == ([], [])


def test_the_schema_would_find_mistakes():
    wrong = made()
    wrong["spec"]["replicas"] = 1
    pod(wrong)["containers"][0]["resources"]["limits"]["memory"] = "4 GB"
    wrong["spec"]["failurePolicy"]["maxRestarts"] = "20"
    del wrong["spec"]["replicatedJobs"][0]["name"]
    unknown, found = check(wrong, SCHEMA, "")
    assert unknown == ["spec.replicas"] and len(found) == 4  # limits are requests


def test_names_and_addresses_are_labels_of_dns_however_long_the_job_s_name():
    for name in ("a", "x" * 24, "y" * 60):
        for attempt in (1, 12345):
            found = jobset_name(f"{name}-20261126-120000-abcd", attempt)
            pod_name = f"{found}-host-0-999-abcde"
            assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])", pod_name) and len(pod_name) <= 63
    assert jobset_name(JOB, 2) == f"{JOB}-2"
    long = {jobset_name(f"{'x' * 24}-20261126-120000-{tail}", 1) for tail in ("abcd", "abce")}
    assert len(long) == 2
    assert host_address("run-1", 3, 7777) == "run-1-host-0-3.run-1:7777"


def container(document: dict) -> dict:
    [found] = pod(document)["containers"]
    return found


def test_every_host_of_a_cluster_finds_itself_and_the_others():
    document = made(3, port=8000)
    index, config = container(document)["env"]
    assert index["valueFrom"]["fieldRef"]["fieldPath"] == (
        "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    )
    for number in range(3):
        found = json.loads(config["value"].replace("$(JOB_COMPLETION_INDEX)", str(number)))
        hosts = [f"{JOB}-1-host-0-{each}.{JOB}-1:8000" for each in range(3)]
        assert found == {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": number}}
    assert document["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": f"{JOB}-1"}


def shell(words: list[str], tmp_path, **variables: str) -> str:
    """Output of a container's command, where lazytower only says how it was called."""
    (tmp_path / "lazytower").write_text('#!/bin/sh\necho lazytower "$@"\n')
    (tmp_path / "lazytower").chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/local/bin:/usr/bin:/bin", **variables}
    return subprocess.run(words, env=path, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_first_host_trains_and_the_others_work(tmp_path):
    words = container(made(2))["command"]
    assert shell(words, tmp_path, JOB_COMPLETION_INDEX="0") == (
        "lazytower train --config /etc/lazytower/run.yaml\n"
    )
    assert shell(words, tmp_path, JOB_COMPLETION_INDEX="1") == (
        "lazytower worker --config /etc/lazytower/run.yaml\n"
    )
    alone = container(made())
    assert alone["command"] == ["lazytower", "train", "--config", "/etc/lazytower/run.yaml"]
    assert alone["env"] == [] and "lifecycle" not in alone


def test_workers_wait_for_the_first_host_to_save_before_they_stop(tmp_path):
    script = container(made(2))["lifecycle"]["preStop"]["exec"]["command"]
    # The address does not exist here, as after the first host has gone.
    shell(script, tmp_path, JOB_COMPLETION_INDEX="1")
    shell(script, tmp_path, JOB_COMPLETION_INDEX="0")
    assert f"{JOB}-1-host-0-0.{JOB}-1" in script[-1] and "7777" in script[-1]


def test_exit_code_75_and_lost_nodes_restart_all_other_errors_end_the_job():
    document = made(2, retries=7)
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    codes, nodes = job["podFailurePolicy"]["rules"]
    assert codes["onExitCodes"] == {"containerName": "trainer", "operator": "In", "values": [75]}
    assert nodes["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert {codes["action"], nodes["action"]} == {"FailJob"} and job["backoffLimit"] == 0
    again, fail = document["spec"]["failurePolicy"]["rules"]
    assert (again["action"], again["onJobFailureReasons"]) == ("RestartJobSet", ["PodFailurePolicy"])
    assert fail["action"] == "FailJobSet" and "BackoffLimitExceeded" in fail["onJobFailureReasons"]
    assert document["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (2, 2, "Indexed")
    # Workers never end: the job is done when the first host is.
    assert job["successPolicy"] == {"rules": [{"succeededIndexes": "0", "succeededCount": 1}]}
    assert "successPolicy" not in made()["spec"]["replicatedJobs"][0]["template"]["spec"]


def test_the_config_travels_with_the_pods_and_uses_the_pod_s_cores():
    template = made(cpu=2.5)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    config = parse_config(yaml.safe_load(template["metadata"]["annotations"]["lazytower-config"]), "x")
    assert config.device.threads == 3 and config.launch.cpu == 2.5
    cluster = made(2, start_seconds=900)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    slow = parse_config(yaml.safe_load(cluster["metadata"]["annotations"]["lazytower-config"]), "x")
    assert slow.device.connect_seconds == 900, "pods start minutes apart"
    [item] = template["spec"]["volumes"][0]["downwardAPI"]["items"]
    assert item["path"] == "run.yaml" and "lazytower-config" in item["fieldRef"]["fieldPath"]
    assert template["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "2.5", "memory": "4Gi"}


def test_claims_secrets_and_places():
    document = made(**EVERYTHING)
    spec = pod(document)
    mounts = {each["name"]: each["mountPath"] for each in container(document)["volumeMounts"]}
    claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"][1:3]}
    assert {claims[name]: mounts[name] for name in claims} == {"shared": "/data", "out": "/out"}
    assert container(document)["env"] == [
        {"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": f"{mounts['credentials']}/key.json"}
    ]
    assert spec["tolerations"] == [
        {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 30}
    ]
    assert (spec["serviceAccountName"], spec["nodeSelector"]) == ("trainer", {"pool": "memory"})
    labels = document["metadata"]["labels"]
    assert labels["lazytower-job"] == JOB and labels["kueue.x-k8s.io/queue-name"] == "team"


def test_memory_has_a_margin():
    assert memory_for(8 << 30) == f"{11 << 10}Mi"
