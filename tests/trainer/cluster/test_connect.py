"""A host that is not fit for a run is named, with what is wrong and what to do."""

import pytest
import tensorflow as tf

from configs.errors import ConfigError
from configs.sections.devices import ClusterDeviceConfig
from tests.support.cluster_hosts import tf_config
from trainer.cluster import connect
from trainer.cluster.greeting import Greeting, end_meeting, greeting_request
from trainer.cluster.sockets import ClusterError
from trainer.version import VERSION

HOSTS = ["10.0.0.1:7777", "10.0.0.2:7777", "10.0.0.3:7777"]


@pytest.fixture
def request_(tmp_path):
    found = greeting_request([], str(tmp_path / "run"))
    yield found
    end_meeting(found)


def answer(request: dict, index: int = 1) -> dict:
    """What a host answers, without the way there and back."""
    return Greeting(index)._answer(request)[0]


def test_a_fit_host_has_no_problem(request_, tmp_path):
    assert connect._problem(request_, 1, answer(request_)) is None
    assert [path.name for path in (tmp_path / "run").glob(".hosts-*/*")]
    end_meeting(request_)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"lazytower": "9.9"}, f"has lazytower 9.9, and host 0 has {VERSION}"),
        ({"TensorFlow": "1.15"}, "has TensorFlow 1.15"),
        ({"kernels": False}, "no compiled kernels"),
        ({"index": 2}, "was started as host 2"),
        ({"cannot_reach": {HOSTS[2]: "no answer"}}, f"cannot reach the host at {HOSTS[2]} (no answer)"),
        ({"shared": "is not there"}, "does not share the run's directory"),
    ],
)
def test_what_is_wrong_with_a_host(request_, changed, problem):
    assert problem in str(connect._problem(request_, 1, answer(request_) | changed))


def test_a_directory_of_the_same_name_is_not_shared(request_, tmp_path):
    elsewhere = request_ | {"meeting": str(tmp_path / "other")}
    assert answer(elsewhere)["shared"] == "is not there"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "driver").write_text("of another run")
    assert answer(elsewhere)["shared"] == "holds another file"


def test_what_a_host_wrote_elsewhere_is_missed(request_):
    found = answer(request_, 2)
    assert "is another directory there" in str(connect._problem(request_, 1, found | {"index": 1}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Could not find callback with key=lazytower/greet", "is not a worker of lazytower"),
        ("Socket closed", "cannot be used (UnavailableError: Socket closed)"),
    ],
)
def test_errors_of_the_runtime(request_, text, problem):
    error = tf.errors.UnavailableError(None, None, text)
    assert problem in str(connect._problem(request_, 1, error))


def test_silent_hosts_are_named():
    with pytest.raises(ClusterError, match=f"host 2 at {HOSTS[2]}: no answer"):
        connect._check_answered(HOSTS, {1: {}})
    connect._check_answered(HOSTS, {0: {}, 1: {}, 2: {}})


def test_the_driver_is_host_0(monkeypatch):
    device = ClusterDeviceConfig.model_validate({"kind": "cluster", "from": "TF_CONFIG"})
    monkeypatch.setenv("TF_CONFIG", tf_config(HOSTS, 1))
    with pytest.raises(ConfigError, match="this is host 1.*run `lazytower worker` here"):
        connect.addresses_of_driver(device)
    monkeypatch.setenv("TF_CONFIG", tf_config(HOSTS, 0))
    assert connect.addresses_of_driver(device) == HOSTS
