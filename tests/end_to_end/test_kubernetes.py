"""The launcher against a real API server, with the real controllers of jobs and of garbage.

There is neither a kubelet nor the controller of JobSets: the test makes the job of a JobSet and writes what
containers do. scripts/kubernetes_server.sh builds the programs; without them in PATH the tests are skipped.
"""

import contextlib
import pathlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.fake_tpu import wait_until
from tests.support.kubernetes_jobs import Submitted, kubernetes_config
from trainer.jobs.supervise import cancel
from trainer.launchers.base import LaunchError
from trainer.launchers.kubernetes import Kubernetes
from trainer.launchers.pods.jobset_pods import NAME_LABEL

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not in PATH: {', '.join(MISSING)}"),
]
NAMESPACE = "ml"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Server:
    """etcd, the API server and its controllers, in a directory.

    Attributes:
      admin: a client that may do everything.
    """

    def __init__(self, directory: pathlib.Path, programs: contextlib.ExitStack):
        self.directory, self._programs, self._port = directory, programs, free_port()
        store, peers = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        key = directory / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (directory / "tokens.csv").write_text('root,root,1,"system:masters"\nme,me,2\n')
        self._start(
            *("etcd", "--data-dir", directory / "etcd", "--listen-client-urls", store),
            *("--advertise-client-urls", store, "--listen-peer-urls", peers),
            *("--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"),
        )
        self._start(
            *("kube-apiserver", "--etcd-servers", store, "--cert-dir", directory / "certs"),
            *("--secure-port", str(self._port), "--bind-address", "127.0.0.1"),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *("--service-account-key-file", key, "--service-account-signing-key-file", key),
            *("--service-cluster-ip-range", "10.0.0.0/24", "--authorization-mode", "RBAC"),
            *("--token-auth-file", directory / "tokens.csv"),
        )
        from kubernetes import client, config

        root = self.kubeconfig("root")
        wait_until((directory / "certs" / "apiserver.crt").exists, what="for the server's certificate")
        self.admin = config.new_client_from_config(root)
        wait_until(lambda: self._answers(client), what="for the API server")
        self._start(
            *("kube-controller-manager", "--kubeconfig", root, "--leader-elect=false", "--secure-port", "0"),
            *("--service-account-private-key-file", key, "--cert-dir", directory / "certs2"),
        )
        self._prepare(client)

    def _start(self, *words: Any) -> None:
        log = self._programs.enter_context(open(self.directory / f"{words[0]}.log", "wb"))
        process = subprocess.Popen([str(word) for word in words], stdout=log, stderr=log)
        self._programs.callback(process.wait)
        self._programs.callback(process.terminate)

    def _answers(self, client: Any) -> bool:
        with contextlib.suppress(Exception):
            return bool(client.CoreV1Api(self.admin).read_namespace("default"))
        return False

    def kubeconfig(self, user: str) -> str:
        """A kubeconfig of a user; returns its path."""
        authority = str(self.directory / "certs" / "apiserver.crt")
        place = {"server": f"https://127.0.0.1:{self._port}", "certificate-authority": authority}
        document = {
            **{"apiVersion": "v1", "kind": "Config", "current-context": "test"},
            "users": [{"name": user, "user": {"token": user}}],
            "clusters": [{"name": "here", "cluster": place}],
            "contexts": [{"name": "test", "context": {"cluster": "here", "user": user}}],
        }
        path = self.directory / f"kubeconfig-{user}"
        path.write_text(yaml.safe_dump(document))
        return str(path)

    def _prepare(self, client: Any) -> None:
        """The namespace, the definition of JobSets, and the role that docs/kubernetes.md gives to users."""
        core, rights = client.CoreV1Api(self.admin), client.RbacAuthorizationV1Api(self.admin)
        core.create_namespace({"metadata": {"name": NAMESPACE}})
        definition = yaml.safe_load(pathlib.Path("tests/support/jobset_crd.yaml").read_text())
        client.ApiextensionsV1Api(self.admin).create_custom_resource_definition(definition)
        text = pathlib.Path("docs/kubernetes.md").read_text()
        [role] = re.findall(r"```yaml\n(apiVersion: rbac.*?)```", text, re.DOTALL)
        role = yaml.safe_load(role)
        rights.create_namespaced_role(NAMESPACE, role)
        subject = {"kind": "User", "name": "me", "apiGroup": "rbac.authorization.k8s.io"}
        reference = {"kind": "Role", "name": role["metadata"]["name"], "apiGroup": subject["apiGroup"]}
        binding = {"metadata": {"name": "me"}, "subjects": [subject], "roleRef": reference}
        rights.create_namespaced_role_binding(NAMESPACE, binding)
        wait_until(lambda: core.list_namespaced_service_account(NAMESPACE).items, what="for an account")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with contextlib.ExitStack() as programs:
        yield Server(tmp_path_factory.mktemp("kubernetes"), programs)


@pytest.fixture
def job(server, tmp_path, monkeypatch) -> Submitted:
    monkeypatch.setenv("KUBECONFIG", server.kubeconfig("me"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Submitted(tmp_path, None, kubernetes_config(hosts=2, namespace=NAMESPACE))


def launcher(job: Submitted, **keys) -> Kubernetes:
    return Kubernetes(kubernetes_config(hosts=2, namespace=NAMESPACE, **keys), job.path, {"directory": ""})


def make_job(server: Server, job: Submitted) -> None:
    """What the controller of JobSets would do."""
    from kubernetes import client

    found = launcher(job)._api.get(f"{job.record.id}-1")
    name, template = found["metadata"]["name"], found["spec"]["replicatedJobs"][0]["template"]
    labels = {NAME_LABEL: name}
    template["spec"]["template"]["metadata"]["labels"] |= labels
    owner = {"apiVersion": found["apiVersion"], "kind": "JobSet", "name": name, "controller": True}
    owner |= {"uid": found["metadata"]["uid"], "blockOwnerDeletion": True}
    meta = {"name": f"{name}-host-0", "labels": template["metadata"]["labels"] | labels}
    body = {"metadata": meta | {"ownerReferences": [owner]}, "spec": template["spec"]}
    client.BatchV1Api(server.admin).create_namespaced_job(NAMESPACE, body, field_validation="Strict")
    wait_until(lambda: len(pods(job)) == 2, what="for pods")


def pods(job: Submitted) -> list[dict[str, Any]]:
    return launcher(job)._pods(1)


def set_container(server: Server, pod: dict[str, Any], phase: str, state: dict[str, Any]) -> None:
    """What a kubelet would write."""
    from kubernetes import client

    image = {"name": "trainer", "image": "x", "imageID": "", "ready": phase == "Running", "restartCount": 0}
    status = {"phase": phase, "containerStatuses": [image | {"state": state}]}
    core = client.CoreV1Api(server.admin)
    core.patch_namespaced_pod_status(pod["metadata"]["name"], NAMESPACE, {"status": status})


def job_reasons(job: Submitted) -> list[str]:
    found = launcher(job)._api.jobs(f"{NAME_LABEL}={job.record.id}-1")
    conditions = [c for each in found for c in each["status"].get("conditions") or []]
    return [f"{c['type']} {c.get('reason', '')}" for c in conditions]


def cancelled(job: Submitted) -> None:
    assert cancel(job.path).state == "cancelled"
    assert launcher(job)._api.get(f"{job.record.id}-1") is None
    assert pods(job) == [] and job_reasons(job) == []


def test_the_server_accepts_and_refuses(job):
    assert launcher(job).check() == []
    with pytest.raises(LaunchError, match="launch.volumes: gone does not exist in namespace ml; create it"):
        launcher(job, volumes=[{"claim": "gone", "path": "/data"}]).check()
    with pytest.raises(LaunchError, match="not allowed in namespace default .*; get the role of docs/kubern"):
        Kubernetes(kubernetes_config(), job.path, {"directory": ""}).check()
    document = launcher(job)._document(1)
    document["spec"]["restarts"] = 3
    with pytest.raises(LaunchError, match='is too old for the JobSet .*unknown field "spec.restarts"'):
        launcher(job)._api.create(document, dry_run=True)


@pytest.mark.parametrize(
    ("code", "reason"), [(75, "Failed PodFailurePolicy"), (2, "Failed BackoffLimitExceeded")]
)
def test_exit_codes_give_the_reasons_that_the_jobset_tells_apart(job, server, code, reason):
    assert job.turn().state == "queued"
    make_job(server, job)
    for pod in pods(job):
        set_container(server, pod, "Running", {"running": {"startedAt": now()}})
    assert job.turn().state in ("ready", "running")
    done = {"exitCode": code, "reason": "Error", "startedAt": now(), "finishedAt": now()}
    set_container(server, pods(job)[1], "Failed", {"terminated": done})
    wait_until(lambda: reason in job_reasons(job), what=f"for {reason}")
    cancelled(job)


def test_the_job_is_done_when_the_first_host_is(job, server):
    job.turn()
    make_job(server, job)
    first, second = pods(job)
    index, config = [pod["spec"]["containers"][0]["env"] for pod in (first, second)][1]
    assert (index["name"], config["name"]) == ("JOB_COMPLETION_INDEX", "TF_CONFIG"), "nothing is added after"
    assert second["spec"]["hostname"] == f"{job.record.id}-1-host-0-1"
    done = {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}
    set_container(server, first, "Succeeded", {"terminated": done})
    wait_until(lambda: any(r.startswith("SuccessCriteriaMet") for r in job_reasons(job)), what="for success")
    cancelled(job)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
