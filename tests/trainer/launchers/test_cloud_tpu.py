"""The requests as documented, field by field, and how the service's answers are interpreted."""

import json
import pathlib
import re
import shlex

import grpc
import pytest
from google.cloud import tpu_v2 as tpu
from google.protobuf.json_format import MessageToDict
from google.rpc import status_pb2

from configs.errors import UserError
from tests.support.fake_tpu import STATES, Fault
from trainer.launchers.base import LaunchError, Refused, Unreachable
from trainer.launchers.cloud_tpu import CloudTpu

GOLDEN = pathlib.Path(__file__).parent / "create_queued_resource.json"
JOB = "gs://bucket/run/jobs/planted-20260101-000000-abcd"
NAME = "planted-20260101-000000-abcd-1"
RESOURCE = f"projects/shop/locations/us-east5-b/queuedResources/{NAME}"
NODE = f"projects/shop/locations/us-east5-b/nodes/{NAME}"


@pytest.fixture
def launcher(cloud):
    """Of a job whose machines never start: this is about the service's side."""
    cloud.tpu.start_machines = False
    found = make(cloud)
    yield found
    for _ in range(3):  # a deletion shows after a while
        found.delete(1) if found.observe(1).kind not in ("absent", "deleting") else None


def make(cloud, *overrides: str) -> CloudTpu:
    return CloudTpu(cloud.load(*overrides), JOB, {"wheel": "lazytower-0.1.0-py3-none-any.whl"})


def test_the_request_is_the_golden_one(cloud, launcher):
    """docs/jobs.md compares it with what `gcloud compute tpus queued-resources create` documents."""
    full = make(
        cloud,
        "launch.service_account=trainer@shop.iam.gserviceaccount.com",
        *("launch.network=training", "launch.subnetwork=training-east", "launch.external_ips=false"),
        *("launch.labels={team: shop}", "launch.valid_until_seconds=7200"),
    )
    full.create(1)
    [sent] = [r for r in cloud.tpu.requests if isinstance(r, tpu.CreateQueuedResourceRequest)]
    found = MessageToDict(tpu.CreateQueuedResourceRequest.pb(sent))
    metadata = found["queuedResource"]["tpu"]["nodeSpec"][0]["node"]["metadata"]
    script = metadata.pop("startup-script")
    assert found == json.loads(GOLDEN.read_text())
    assert script.startswith("#!/bin/bash\n") and metadata == {}, "the machine gets nothing else"
    [(_, shown), (_, shown_script)] = full.describe(1)
    metadata["startup-script"] = "(the script below)"
    assert json.loads(shown) == found and shown_script == script


def test_without_options_google_s_defaults_are_left_to_google(cloud):
    launcher = make(cloud, "launch.spot=false", "launch.valid_until_seconds=null")
    document = json.loads(launcher.describe(1)[0][1])["queuedResource"]
    node = document["tpu"]["nodeSpec"][0]["node"]
    assert set(document) == {"tpu"} and node["networkConfig"] == {"enableExternalIps": True}
    assert node["serviceAccount"] == {"scope": ["https://www.googleapis.com/auth/cloud-platform"]}
    assert set(node["labels"]) == {"lazytower-job"}


def test_sent_twice_it_is_one_slice(cloud, launcher):
    cloud.tpu.faults["CreateQueuedResource"] = [Fault(grpc.StatusCode.DEADLINE_EXCEEDED, after=True)]
    launcher.create(1)
    cloud.tpu._known.clear()  # as if the service had forgotten the request's id
    launcher.create(1)
    assert list(cloud.tpu.resources) == [RESOURCE]


def test_the_life_of_a_slice(cloud, launcher):
    assert launcher.observe(1).kind == "absent"
    launcher.create(1)
    assert [launcher.observe(1).kind for _ in range(3)] == ["waiting", "provisioning", "ready"]
    launcher.delete(1)
    assert [launcher.observe(1).kind for _ in range(2)] == ["deleting", "absent"]
    launcher.delete(1)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("CREATING", "provisioning"),
        ("RESTARTING", "provisioning"),
        ("REPAIRING", "provisioning"),
        ("PREEMPTED", "lost"),
        ("TERMINATED", "lost"),
        ("STOPPED", "lost"),
    ],
)
def test_states_of_the_node(cloud, launcher, state, kind):
    launcher.create(1)
    for _ in range(3):
        launcher.observe(1)
    cloud.tpu.nodes[NODE].state = tpu.Node.State[state]
    assert launcher.observe(1) == (kind, f"node {state}")


@pytest.mark.parametrize(
    ("state", "kind"), [("SUSPENDING", "lost"), ("SUSPENDED", "lost"), ("CREATING", "waiting")]
)
def test_states_of_the_queued_resource(cloud, launcher, state, kind):
    launcher.create(1)
    cloud.tpu.resources[RESOURCE].state = tpu.QueuedResourceState(state=STATES[state])
    assert launcher.observe(1).kind == kind


def test_a_node_that_outlives_its_queued_resource_is_deleted(cloud, launcher):
    launcher.create(1)
    for _ in range(3):
        launcher.observe(1)
    del cloud.tpu.resources[RESOURCE]
    assert launcher.observe(1).kind == "lost"
    launcher.delete(1)
    assert cloud.tpu.left() == [] and launcher.observe(1).kind == "absent"


@pytest.mark.parametrize(
    ("code", "message", "kind", "words"),
    [
        (8, "Quota limit X exceeded", "refused", "the quota of project shop is too small"),
        (8, "There is no more capacity in the zone", "refused", "no capacity now"),
        (13, "internal", "refused", "v6e-4 in us-east5-b: internal"),
        (4, "expired", "failed", "not available within launch.valid_until_seconds"),
        (3, "bad request", "failed", "bad request"),
    ],
)
def test_a_request_that_failed_later(cloud, launcher, code, message, kind, words):
    cloud.tpu.late_failure = status_pb2.Status(code=code, message=message)
    launcher.create(1)
    launcher.observe(1)
    found = launcher.observe(1)
    assert found.kind == kind and words in found.reason


@pytest.mark.parametrize(
    ("code", "message", "error", "words"),
    [
        (
            "RESOURCE_EXHAUSTED",
            "Quota limit 'TPUV6E' has been exceeded",
            Refused,
            "v6e-4 in us-east5-b: the quota of project shop is too small (Quota limit 'TPUV6E' has been "
            "exceeded); request more at https://cloud.google.com/tpu/docs/quota, or use another zone",
        ),
        (
            "PERMISSION_DENIED",
            "Permission 'tpu.nodes.create' denied",
            LaunchError,
            "permission denied (Permission 'tpu.nodes.create' denied); get roles/tpu.admin in",
        ),
        (
            "PERMISSION_DENIED",
            "The user does not have permission to act as service account",
            LaunchError,
            "get roles/iam.serviceAccountUser on launch.service_account in project shop",
        ),
        (
            "PERMISSION_DENIED",
            "Cloud TPU API has not been used in project 123 before or it is disabled",
            LaunchError,
            "`gcloud services enable tpu.googleapis.com --project shop`",
        ),
        (
            "INVALID_ARGUMENT",
            'Invalid value for field "accelerator_type": v6e-4',
            LaunchError,
            "zone us-east5-b has no v6e-4 (",
        ),
        (
            "INVALID_ARGUMENT",
            "Runtime version not found",
            LaunchError,
            "launch.runtime_version v2-alpha-tpuv6e is unknown in us-east5-b",
        ),
        ("UNAUTHENTICATED", "expired", LaunchError, "`gcloud auth application-default login`"),
    ],
)
def test_errors_in_the_user_s_words(cloud, code, message, error, words):
    cloud.tpu.faults["CreateQueuedResource"] = [Fault(grpc.StatusCode[code], message)]
    with pytest.raises(error, match=re.escape(words)) as caught:
        make(cloud).create(1)
    assert "\n" not in str(caught.value) and cloud.tpu.left() == []


def test_a_name_that_is_another_s(cloud, launcher):
    launcher.create(1)
    cloud.tpu._known.clear()
    [spec] = cloud.tpu.resources[RESOURCE].tpu.node_spec
    spec.node.labels["lazytower-job"] = "another"
    with pytest.raises(
        LaunchError, match=f"{NAME}: a resource of this name exists in us-east5-b and is not this"
    ):
        launcher.create(1)
    for _ in range(3):
        assert launcher.observe(1) == ("absent", f"queued resource {NAME} is not this job's")
        launcher.delete(1)
    assert list(cloud.tpu.resources) == [RESOURCE]
    del cloud.tpu.resources[RESOURCE]
    cloud.tpu.nodes[NODE] = tpu.Node(name=NODE, state=tpu.Node.State.READY, labels={})
    assert launcher.observe(1) == ("absent", f"node {NAME} is not this job's")
    launcher.delete(1)
    assert list(cloud.tpu.nodes) == [NODE]
    cloud.tpu.nodes.clear()


def test_a_name_that_exists_and_is_not_seen_yet_is_nobody_s(cloud, launcher):
    launcher.create(1)
    cloud.tpu._known.clear()
    cloud.tpu.faults["GetQueuedResource"] = [Fault(grpc.StatusCode.NOT_FOUND)]
    with pytest.raises(Unreachable, match=f"{NAME}: the API says it exists, but does not show it yet"):
        launcher.create(1)
    launcher.create(1)


def test_an_api_that_is_away_for_longer_than_the_client_tries(cloud, monkeypatch):
    monkeypatch.setattr("trainer.launchers.tpu_api.CALL_SECONDS", 1.5)
    cloud.tpu.faults["GetQueuedResource"] = [Fault(grpc.StatusCode.UNAVAILABLE, "maintenance")] * 20
    with pytest.raises(Unreachable, match="Cloud TPU API: .*maintenance"):
        make(cloud).observe(1)


def test_before_anything_is_spent(cloud):
    assert make(cloud).check() == ["device.kind is cpu: the chips of v6e-4 are billed but stay idle"]
    [_, several, price] = make(cloud, "launch.slice=v6e-16", "launch.price_per_chip_hour=null").check()
    assert "v6e-16 has 4 hosts, and lazytower has never been run on more than one" in several
    assert "`lazytower jobs` shows no cost" in price
    with pytest.raises(
        LaunchError, match="zone us-east5-b has no v6e-8 .*accelerator-types list --zone us-east5-b"
    ):
        make(cloud, "launch.slice=v6e-8").check()
    with pytest.raises(LaunchError, match="launch.runtime_version mine is unknown in us-east5-b"):
        make(cloud, "launch.runtime_version=mine").check()
    with pytest.raises(UserError, match="output.path: here is on this machine, which the slice cannot reach"):
        make(cloud, "output.path=here").check_files()
    for key in ("init.from", "dataset.base"):
        with pytest.raises(UserError, match=f"{key}: runs/yesterday is on this machine, which the slice"):
            make(cloud, f"{key}=runs/yesterday").check_files()


def told(launcher: CloudTpu, attempt: int) -> list[str]:
    """The trainer's arguments on the machine."""
    script = dict(launcher.describe(attempt))["startup-script"]
    return json.loads(shlex.split(script.splitlines()[-1])[-1])["train"]


def test_a_slice_of_several_machines_is_named_to_the_trainer(cloud):
    tpu_run = ("launch.slice=null", "train.batch_size=64")
    several = make(cloud, *tpu_run, "device={kind: tpu, slice: v6e-16}")
    plain = ["train", "--config", f"{JOB}/config.yaml"]
    for attempt in (1, 2):
        *first, _, name, _, zone, _, project = words = told(several, attempt)
        assert first == plain and words.count("--set") == 3
        # Where the request of the same attempt makes the node.
        request = json.loads(several.describe(attempt)[0][1])["queuedResource"]["tpu"]["nodeSpec"][0]
        assert name == f"device.name={request['nodeId']}" and request["nodeId"] == f"{NAME[:-1]}{attempt}"
        assert request["parent"] == "projects/shop/locations/us-east5-b"
        assert (zone, project) == ("device.zone=us-east5-b", "device.project=shop")
        # The trainer takes them, although the config has a launch section for slices of its own.
        device = cloud.load(*tpu_run, "device={kind: tpu, slice: v6e-16}", name, zone, project).device
        assert (device.name, device.zone, device.project) == (request["nodeId"], "us-east5-b", "shop")
    assert told(make(cloud, *tpu_run, "device={kind: tpu, slice: v6e-4}"), 1) == plain
    assert told(make(cloud, "launch.slice=v6e-16"), 1) == plain, "on the CPU of worker 0"


def test_a_job_has_no_other_tpu(cloud):
    named = "device={kind: tpu, slice: v6e-16, name: mine, zone: us-east5-b}"
    with pytest.raises(UserError, match="device.name: the job trains on the slice that it requests; remove"):
        make(cloud, "launch.slice=null", named).check_files()


def test_the_script_and_the_request_hold_no_credentials(cloud, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/secret-key.json")
    text = " ".join(text for _, text in make(cloud).describe(1))
    assert "secret" not in text and "GOOGLE_APPLICATION_CREDENTIALS" not in text
