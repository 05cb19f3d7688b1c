"""TF_CONFIG: what it says, and one line for whatever is wrong with it."""

import json

import pytest

from configs.errors import ConfigError
from configs.system.tf_config import ClusterTask, host_and_port, task_of_environment

pytestmark = pytest.mark.any_python
HOSTS = ["10.0.0.1:7777", "[::1]:7778"]


def said(monkeypatch, document) -> ClusterTask:
    text = document if isinstance(document, str) else json.dumps(document)
    monkeypatch.setenv("TF_CONFIG", text)
    return task_of_environment()


def test_hosts_and_task(monkeypatch):
    task = said(monkeypatch, {"cluster": {"worker": HOSTS}, "task": {"type": "worker", "index": 1}})
    assert task == ClusterTask(tuple(HOSTS), 1)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("", "is not set"),
        ("{", "TF_CONFIG: "),
        ("[]", "cluster or task is missing"),
        ({"cluster": {"worker": HOSTS}}, "cluster or task is missing"),
        ({"cluster": {"chief": HOSTS}, "task": {}}, "cluster.chief"),
        ({"cluster": {"worker": HOSTS[:1]}, "task": {"type": "worker", "index": 0}}, "at least 2"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}, "twice"),
        ({"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker", "index": 0}}, "'b'"),
        ({"cluster": {"worker": HOSTS}, "task": {"type": "ps", "index": 0}}, "'ps'"),
        ({"cluster": {"worker": HOSTS}, "task": {"type": "worker", "index": 2}}, "0..1"),
        ({"cluster": {"worker": HOSTS}, "task": {"type": "worker", "index": True}}, "True"),
    ],
)
def test_what_is_wrong_is_one_line_with_an_example(monkeypatch, document, problem):
    with pytest.raises(ConfigError) as error:
        said(monkeypatch, document)
    assert problem in str(error.value) and '"index": 0' in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "parts"), [("host-1.svc:80", ("host-1.svc", 80)), ("[fe80::1]:65535", ("fe80::1", 65535))]
)
def test_addresses(address, parts):
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address", ["host", "host:", ":80", "host:0", "host:65536", "http://h:1", "a:1,b:2", "::1:80"]
)
def test_what_is_no_address(address):
    with pytest.raises(ValueError, match="host:port"):
        host_and_port(address)
