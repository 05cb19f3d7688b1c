"""Names of TPUs are looked up in the Cloud TPU API, over real gRPC; failures are reported."""

import json
import re
import socket
import sys

import grpc
import pytest
from google.cloud import tpu_v2 as tpu

from configs.errors import UserError
from configs.sections.devices import TpuDeviceConfig
from tests.support.fake_tpu import FakeTpu, Fault
from trainer.tpu import address as module
from trainer.tpu.address import tpu_address, wait_for_hosts
from trainer.tpu.connect import resolver_of

NODE = "projects/shop/locations/us-east5-b/nodes/mine"
READY = tpu.Node.State.READY


@pytest.fixture
def service(tmp_path, monkeypatch):
    """The fake service, with one slice of two machines."""
    found = FakeTpu(tmp_path, {})
    monkeypatch.setenv("TPU_EMULATOR_HOST", found.address)
    hosts = [
        tpu.NetworkEndpoint(ip_address="10.0.0.2", port=8470),
        tpu.NetworkEndpoint(ip_address="10.0.0.3"),
    ]
    found.nodes[NODE] = tpu.Node(name=NODE, state=READY, network_endpoints=hosts)
    yield found
    found.close()


def device(**keys) -> TpuDeviceConfig:
    named = {"name": "mine", "zone": "us-east5-b", "project": "shop"}
    return TpuDeviceConfig(kind="tpu", slice="v4-16", **named | keys)


def cluster(address: str) -> dict:
    return resolver_of(address).cluster_spec().as_dict()


def test_a_name_becomes_the_addresses_of_all_hosts(service):
    address = tpu_address(device(), 0)
    assert address == "grpc://10.0.0.2:8470,grpc://10.0.0.3:8470"
    assert cluster(address) == {"worker": ["10.0.0.2:8470", "10.0.0.3:8470"]}
    [asked] = service.requests
    assert (type(asked).__name__, asked.name) == ("GetNodeRequest", NODE)


def test_addresses_and_the_tpu_of_this_machine_need_nobody(monkeypatch):
    monkeypatch.setattr(module, "TpuApi", None)
    address = "grpc://10.0.0.9:99,grpc://host"
    found = tpu_address(device(name=address, zone=None, project=None), 0)
    assert found == address and cluster(found) == {"worker": ["10.0.0.9:99", "host:8470"]}
    here = tpu_address(TpuDeviceConfig(kind="tpu", slice="v4-8"), 0)
    assert here == "local" and cluster(here) == {}


def test_one_that_is_coming_up_is_waited_for(service, monkeypatch):
    node, pauses = service.nodes[NODE], []
    node.state = tpu.Node.State.CREATING

    def sleep(seconds):
        pauses.append(seconds)
        node.state = READY

    monkeypatch.setattr(module.time, "sleep", sleep)
    assert cluster(tpu_address(device(), 60)) and pauses == [5.0]
    node.state = tpu.Node.State.CREATING
    with pytest.raises(UserError, match="device.name: TPU mine in .* is still CREATING after 0 s; rerun"):
        tpu_address(device(), 0)


@pytest.mark.parametrize("state", ["PREEMPTED", "STOPPED", "DELETING", "TERMINATED"])
def test_one_that_is_not_coming_up(service, state):
    service.nodes[NODE].state = tpu.Node.State[state]
    place = "projects/shop/locations/us-east5-b"
    with pytest.raises(
        UserError, match=f"device.name: TPU mine in {place} is {state}; start it, or use another"
    ):
        tpu_address(device(), 60)


def test_no_such_tpu(service):
    words = (
        "device.name: TPU other in projects/shop/locations/us-east5-b does not exist; `gcloud compute tpus"
    )
    with pytest.raises(UserError, match=words):
        tpu_address(device(name="other"), 60)


def test_one_without_an_address(service):
    service.nodes[NODE].network_endpoints = []
    with pytest.raises(UserError, match="device.name: the API has no address of mine"):
        tpu_address(device(), 60)


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (
            "PERMISSION_DENIED",
            "Permission 'tpu.nodes.get' denied",
            "(Permission 'tpu.nodes.get' denied); get roles/tpu.viewer in project shop",
        ),
        ("PERMISSION_DENIED", "Cloud TPU API is disabled", "`gcloud services enable tpu.googleapis.com"),
        ("UNAUTHENTICATED", "expired", "`gcloud auth application-default login`"),
        ("RESOURCE_EXHAUSTED", "Quota exceeded for reads", "Quota exceeded for reads"),
    ],
)
def test_refusals_in_the_user_s_words(service, code, message, words, monkeypatch):
    monkeypatch.setattr("trainer.launchers.tpu_api.CALL_SECONDS", 0.5)
    service.faults["GetNode"] = [Fault(grpc.StatusCode[code], message)] * 9
    with pytest.raises(UserError, match=f"^device.name: .*{re.escape(words)}") as caught:
        tpu_address(device(), 60)
    assert "\n" not in str(caught.value)


def credentials(tmp_path, monkeypatch) -> None:
    """A user's credentials, as gcloud stores them: they belong to no project."""
    path = tmp_path / "user.json"
    path.write_text(
        json.dumps(
            {"type": "authorized_user"} | dict.fromkeys(("client_id", "client_secret", "refresh_token"), "x")
        )
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setenv("PATH", str(tmp_path))  # gcloud would be asked
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)


def test_the_project_is_that_of_the_credentials(service, tmp_path, monkeypatch):
    credentials(tmp_path, monkeypatch)
    with pytest.raises(
        UserError, match="device.project: missing, and the default credentials have no project"
    ):
        tpu_address(device(project=None), 60)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "shop")
    assert cluster(tpu_address(device(project=None), 60))


def test_no_credentials(service, tmp_path, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="device.name: no credentials for Google Cloud .*; run `gcloud auth"):
        tpu_address(device(project=None), 60)


def test_the_client_is_an_extra(service, monkeypatch):
    import google.cloud

    monkeypatch.delattr(google.cloud, "tpu_v2")
    monkeypatch.setitem(sys.modules, "google.cloud.tpu_v2", None)
    with pytest.raises(UserError, match=re.escape("needs `pip install 'lazytower[gcp]'`")):
        tpu_address(device(), 60)


def test_hosts_at_which_nobody_listens():
    wait_for_hosts("local", 0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        open_host = f"grpc://127.0.0.1:{listener.getsockname()[1]}"
        wait_for_hosts(f"{open_host},{open_host}", 0)
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))  # ours, so that no other process can listen there
            closed = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
            with pytest.raises(
                UserError, match=f"{closed} does not accept connections after 0 s .*refused.*worker service"
            ):
                wait_for_hosts(f"{open_host},{closed}", 0)


def test_a_host_that_starts_to_listen(monkeypatch):
    with socket.socket() as host:
        host.bind(("127.0.0.1", 0))
        pauses = []
        monkeypatch.setattr(module.time, "sleep", lambda seconds: (pauses.append(seconds), host.listen()))
        wait_for_hosts(f"grpc://127.0.0.1:{host.getsockname()[1]}", 60)
    assert len(pauses) == 1
