"""Errors of the server: what each means for the job, and one line with the fix."""

import json

import pytest

from configs.errors import UserError
from tests.support.kubernetes_jobs import JOB, kubernetes_config
from trainer.launchers.api_errors import Meaning
from trainer.launchers.base import Exists, LaunchError, Refused, Unreachable
from trainer.launchers.pods import kubernetes_api as module
from trainer.launchers.pods.jobset import jobset
from trainer.launchers.pods.kubernetes_api import KubernetesApi, http_meaning

BODY = jobset(kubernetes_config(), JOB, 1)
NAME = BODY["metadata"]["name"]


@pytest.fixture
def api(kubernetes):
    return KubernetesApi("default", None)


def test_what_is_created_is_seen_and_deleted_with_all_that_belongs_to_it(kubernetes, api):
    assert api.get(NAME) is None
    api.create(BODY)
    found = api.get(NAME)
    assert found["spec"] == BODY["spec"] and len(api.pods(f"lazytower-job={JOB}")) == 1
    assert api.pods("lazytower-job=other") == []
    api.delete(NAME, found["metadata"]["uid"])
    assert api.get(NAME)["metadata"]["deletionTimestamp"] and api.pods(f"lazytower-job={JOB}") == []
    assert api.get(NAME) is None
    api.delete(NAME, "gone already")


def test_a_dry_run_creates_nothing(kubernetes, api):
    api.create(BODY, dry_run=True)
    assert kubernetes.jobsets == {} and "dryRun=All" in kubernetes.requests[0]
    assert "fieldValidation=Strict" in kubernetes.requests[0]


def test_the_name_is_taken(kubernetes, api):
    api.create(BODY)
    with pytest.raises(Exists, match="already exists"):
        api.create(BODY)


def broken(**spec) -> dict:
    return json.loads(json.dumps(BODY)) | {"spec": BODY["spec"] | spec}


@pytest.mark.parametrize(
    ("code", "message", "error", "text"),
    [
        (401, "Unauthorized", LaunchError, "does not accept the credentials .*; log in again, or name"),
        (403, 'User "me" cannot create', LaunchError, "not allowed in namespace default .*; get the role of"),
        (403, "exceeded quota: team", Refused, "the cluster refuses the JobSet .*exceeded quota: team"),
        (
            403,
            'admission webhook "x" denied',
            LaunchError,
            "refuses the JobSet .*; change the launch section",
        ),
        (404, 'namespaces "default" not found', LaunchError, "launch.namespace: default does not exist"),
        (
            404,
            "404 page not found",
            LaunchError,
            "the cluster has no jobset.x-k8s.io/v1alpha2 .*; install JobSet",
        ),
        (422, "spec.x: Invalid value", LaunchError, "refuses the JobSet .spec.x: Invalid value"),
        (400, 'strict decoding error: unknown field "spec.y"', LaunchError, "is too old for the JobSet"),
        (413, "too large", LaunchError, "namespace default: HTTP 413: too large"),
    ],
)
def test_errors_are_one_line_with_the_fix(kubernetes, api, code, message, error, text):
    kubernetes.faults.append(("POST", code, message))
    with pytest.raises(error, match=text) as caught:
        api.create(BODY)
    assert "\n" not in str(caught.value) and kubernetes.jobsets == {}
    api.create(BODY)  # the next try loads the credentials again


def test_what_the_server_itself_finds_wrong(kubernetes, api):
    with pytest.raises(LaunchError, match='too old .*unknown field "spec.suspended"'):
        api.create(broken(suspended=True))
    with pytest.raises(
        LaunchError, match="refuses the JobSet .*spec.ttlSecondsAfterFinished: Invalid value: -1"
    ):
        api.create(broken(ttlSecondsAfterFinished=-1))
    with pytest.raises(LaunchError, match="JobSet name is too long"):
        api.create(BODY | {"metadata": BODY["metadata"] | {"name": "x" * 50}})
    kubernetes.has_jobset = False
    with pytest.raises(LaunchError, match="has no jobset.x-k8s.io/v1alpha2"):
        api.create(BODY)
    assert KubernetesApi("nowhere", None).get(NAME) is None


@pytest.mark.parametrize("code", [429, 500, 503])
def test_what_may_pass_is_tried_again(kubernetes, api, code, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    kubernetes.faults += [("POST", code, "wait")] * 2
    api.create(BODY)
    assert len(kubernetes.jobsets) == 1 and len(kubernetes.requests) == 3


def test_a_server_that_does_not_answer(kubernetes, api, monkeypatch):
    monkeypatch.setattr(module, "KUBERNETES_SECONDS", 0.6)
    kubernetes.close()
    with pytest.raises(Unreachable, match="Kubernetes API: get_namespaced_custom_object: .*refused"):
        api.get(NAME)


def test_tokens_and_contexts(kubernetes, tmp_path, monkeypatch):
    wrong = kubernetes.kubeconfig(tmp_path / "wrong", token="old")
    monkeypatch.setenv("KUBECONFIG", wrong)
    with pytest.raises(LaunchError, match="does not accept the credentials .Unauthorized.; log in again"):
        KubernetesApi("default", None).get(NAME)
    with pytest.raises(
        LaunchError, match="no access to a cluster .*other.*; set KUBECONFIG, or launch.context"
    ):
        KubernetesApi("default", "other").get(NAME)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(LaunchError, match="no access to a cluster"):
        KubernetesApi("default", None).get(NAME)


def test_in_a_pod_its_service_account_is_used(kubernetes, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    used = []

    def load(client_configuration):
        client_configuration.host = kubernetes.url
        client_configuration.api_key["authorization"] = "Bearer a-token"
        used.append(client_configuration)

    monkeypatch.setattr("kubernetes.config.load_incluster_config", load)
    assert KubernetesApi("default", None).get(NAME) is None and used


def test_without_the_client_its_package_is_named(monkeypatch, kubernetes):
    monkeypatch.setitem(__import__("sys").modules, "kubernetes", None)
    with pytest.raises(
        UserError, match=r"launch.kind kubernetes needs `pip install 'lazytower\[kubernetes\]'`"
    ):
        KubernetesApi("default", None).get(NAME)


@pytest.mark.parametrize(
    ("verb", "status", "found"),
    [
        ("get", 404, Meaning.ABSENT),
        ("delete", 404, Meaning.ABSENT),
        ("delete", 409, Meaning.AGAIN),
        ("get", 403, Meaning.DENIED),
        ("delete", 504, Meaning.AGAIN),
    ],
)
def test_the_table(verb, status, found):
    assert http_meaning(verb, status, "exceeded quota") is found


def test_logs_are_read_line_by_line(kubernetes, api):
    api.create(BODY)
    kubernetes.start()
    kubernetes.say(0, "one", "two")
    [pod] = kubernetes.hosts()
    text = b"".join(api.log(pod["metadata"]["name"], None)).decode()
    assert [line.split(" ")[1] for line in text.splitlines()] == ["one", "two"]
    assert b"".join(api.log("gone", 30)) == b"" and "sinceSeconds=30" in kubernetes.requests[-1]
