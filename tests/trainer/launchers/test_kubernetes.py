"""The launcher: paths that pods reach, memory by the forecast, and what the server checks before it costs."""

import json

import pytest

from configs.errors import ConfigError, UserError
from configs.load import parse_config
from tests.support.documents import document
from tests.support.kubernetes_jobs import JOB, kubernetes_config, section
from trainer.jobs import checks, stage
from trainer.launchers.kubernetes import Kubernetes


def launcher(config, path: str = f"/jobs/{JOB}") -> Kubernetes:
    return Kubernetes(config, path, {"directory": "", "wheel": None})


def with_paths(dataset: str, output: str, **keys):
    base = document(dataset={"path": dataset}, output={"path": output})
    return parse_config(base | {"launch": section(**keys)}, "run.yaml")


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"imag": "x"}, "launch.imag: unknown key"),
        ({"image": "a b"}, "launch.image"),
        ({"hosts": 2}, "launch.hosts: 2 hosts are found by TF_CONFIG, but device.kind is cpu; set device:"),
        ({"memory": "4 GB"}, "launch.memory"),
        ({"heartbeat_seconds": 5}, "launch.heartbeat_seconds: unknown key"),
        ({"namespace": "Not_A_Name"}, "launch.namespace"),
        ({"labels": {"-a": "b"}}, "launch.labels: -a: b is not a valid label of Kubernetes; use at most 63"),
        ({"labels": {"lazytower-job": "b"}}, "launch.labels: lazytower-job is set by lazytower itself"),
        ({"tolerations": [{"effect": "NoExecute"}]}, "tolerations.0: key: missing; set it, or set operator"),
        (
            {"tolerations": [{"operator": "Exists", "value": "a"}]},
            "operator Exists ignores the value",
        ),
        (
            {"tolerations": [{"key": "a", "toleration_seconds": 3}]},
            "toleration_seconds requires effect",
        ),
        (
            {"volumes": [{"claim": "a", "path": "/d"}, {"claim": "b", "path": "/d"}]},
            "are mounted at /d",
        ),
    ],
)
def test_what_is_wrong_with_a_section(keys, text):
    with pytest.raises(ConfigError) as caught:
        parse_config(document(launch=section(**keys)), "run.yaml")
    assert text in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"device": {"kind": "tpu", "slice": "v6e-4"}},
            "launch.kind: kubernetes trains on CPUs",
        ),
        (
            {"device": {"kind": "cluster", "from": "TF_CONFIG"}},
            "launch.hosts: 1 host is no cluster",
        ),
    ],
)
def test_devices_that_do_not_fit(more, text):
    with pytest.raises(ConfigError, match=text):
        parse_config(document(launch=section(), **more), "run.yaml")


def test_hosts_share_batches():
    cluster = {"kind": "cluster", "from": "TF_CONFIG"}
    with pytest.raises(ConfigError, match="train.batch_size: 64 is not divisible by launch.hosts 3"):
        train = {"batch_size": 64, "num_steps": 3}
        parse_config(document(launch=section(hosts=3), device=cluster, train=train), "run.yaml")
    hosts = {"kind": "cluster", "hosts": ["a:1234", "b:1234"]}
    with pytest.raises(ConfigError, match="launch.hosts: 2 hosts are found by TF_CONFIG, but device.hosts"):
        parse_config(document(launch=section(hosts=2), device=hosts), "run.yaml")


@pytest.mark.parametrize("key", ["dataset.path", "output.path"])
def test_paths_that_pods_do_not_reach(key):
    paths = {"dataset.path": "gs://b/d", "output.path": "gs://b/r"} | {key: "/home/me/x"}
    config = with_paths(*paths.values(), volumes=[{"claim": "c", "path": "/data"}])
    with pytest.raises(UserError, match=f"{key}: /home/me/x is on this machine, which the pods cannot reach"):
        launcher(config).check_files()


def test_volumes_that_this_machine_does_not_have(tmp_path):
    away = [{"claim": "c", "path": "/no/such/mount"}]
    config = with_paths("/no/such/mount/d", "/no/such/mount/r", volumes=away)
    with pytest.raises(UserError, match="launch.staging: missing; output.path /no/such/mount/r"):
        launcher(config).check_files()
    config = with_paths("/no/such/mount/d", "/no/such/mount/r", volumes=away, staging=str(tmp_path))
    found = launcher(config, f"{tmp_path}/{JOB}")
    found.check_files()
    assert found.hidden == "dataset.path /no/such/mount/d" and found.claims.startswith(f"{tmp_path}/outputs/")
    here = [{"claim": "c", "path": str(tmp_path)}]
    (tmp_path / "d").mkdir()
    mounted = launcher(with_paths(f"{tmp_path}/d", f"{tmp_path}/r", volumes=here))
    mounted.check_files()
    assert mounted.hidden is None and mounted.claims is None


def test_memory_is_what_the_plan_forecasts():
    base = document(dataset={"path": "gs://b/d"}, output={"path": "gs://b/r"})
    config = parse_config(base | {"launch": section(memory=None)}, "x")
    assert launcher(config).sized(8 << 30).launch.memory == f"{11 << 10}Mi"
    with pytest.raises(UserError, match="launch.memory: missing, and gs://b/d cannot be read here"):
        launcher(config).sized(None)
    with pytest.raises(UserError, match="launch.memory: 4Gi is less than the 8.59 GB .*; use 11264Mi"):
        launcher(kubernetes_config()).sized(8 << 30)
    assert launcher(kubernetes_config()).sized(None).launch.memory == "4Gi"


def test_the_server_checks_before_anything_is_created(kubernetes):
    keys = {"service_account": "trainer", "volumes": [{"claim": "data", "path": "/data"}]}
    found = launcher(kubernetes_config(**keys))
    with pytest.raises(UserError, match="launch.volumes: data does not exist in namespace"):
        found.check()
    kubernetes.objects |= {("persistentvolumeclaims", "default", "data")}
    with pytest.raises(UserError, match="launch.service_account: trainer does not exist"):
        found.check()
    kubernetes.objects |= {("serviceaccounts", "default", "trainer")}
    kubernetes.faults += [("serviceaccounts", 403, "serviceaccounts is forbidden")]
    [warning] = found.check()
    assert warning.startswith("launch.service_account: trainer is not checked: not allowed in namespace")
    assert found.check() == [] and kubernetes.jobsets == {}
    with pytest.raises(UserError, match="launch.namespace: gone does not exist"):
        launcher(kubernetes_config(namespace="gone")).check()


def test_a_dry_run_asks_nobody(kubernetes, tmp_path):
    text = stage.dry_run(kubernetes_config(hosts=2, namespace="ml", memory=None))
    title, body = text.split("--- JobSet in namespace ")[1].split("\n", 1)
    assert title == "ml" and json.loads(body)["kind"] == "JobSet" and "(as lazytower plan forecasts)" in body
    assert kubernetes.requests == []


def test_a_dataset_that_is_not_seen_is_a_warning(kubernetes, tmp_path):
    away = [{"claim": "c", "path": "/no/such/mount"}]
    kubernetes.objects |= {("persistentvolumeclaims", "default", "c")}
    config = with_paths("/no/such/mount/d", "/no/such/mount/r", volumes=away, staging=str(tmp_path / "jobs"))
    resolved, [warning] = checks.check_all(config)
    assert resolved == config and "/no/such/mount/d cannot be read here, so neither it" in warning
    path = stage.stage(config)
    with pytest.raises(UserError, match="output.path: job .* writes /no/such/mount/r; wait"):
        checks.check_all(config)
    with pytest.raises(UserError, match="output.path: job .* writes /no/such/mount/r"):
        stage.stage(config)
    assert path.startswith(f"{tmp_path}/jobs/run-")
