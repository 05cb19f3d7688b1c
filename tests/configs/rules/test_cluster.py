"""What a cluster cannot do is refused by key when the config is read."""

import pytest

from configs.errors import ConfigError
from configs.load import dump_config, parse_config
from tests.support.tiny_run import planted_document

pytestmark = pytest.mark.any_python
HOSTS = ["10.0.0.1:7777", "10.0.0.2:7777"]


def parsed(tmp_path, device=None, **sections):
    document = planted_document(str(tmp_path)) | {
        "device": {"kind": "cluster", **(device or {"hosts": HOSTS})}
    }
    return parse_config(document | sections, "test")


def test_hosts_are_read_and_written(tmp_path):
    config = parsed(tmp_path)
    assert config.device.addresses() == HOSTS and config.device.known_count == 2
    assert "10.0.0.2:7777" in dump_config(config)


def test_hosts_of_the_environment_need_not_be_known_elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    config = parsed(tmp_path, {"from": "TF_CONFIG"})
    assert config.device.known_count is None
    assert "from: TF_CONFIG" in dump_config(config)
    with pytest.raises(ConfigError, match="TF_CONFIG"):
        config.device.addresses()


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ({"hosts": HOSTS[:1]}, "at least 2"),
        ({"hosts": [*HOSTS, HOSTS[0]]}, "twice"),
        ({"hosts": ["a:1", "nowhere"]}, "'nowhere'"),
        ({"hosts": HOSTS, "from": "TF_CONFIG"}, "exactly one"),
        ({"threads": 1}, "exactly one"),
        ({"hosts": [*HOSTS, "a:1"]}, "train.batch_size: 64 is not divisible by its 3 hosts"),
    ],
)
def test_hosts_that_cannot_be(tmp_path, device, problem):
    with pytest.raises(ConfigError) as error:
        parsed(tmp_path, device)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"kind": "robe_z", "size": 64, "block": 8}, "tables.user: kind robe_z"),
        ({"dim": 8, "engine": "tfa"}, "tables.user.engine: tfa"),
        ({"dim": 8, "optimizer": {"kind": "sm3"}}, "tables.user: optimizer sm3"),
        ({"dim": 8, "placement": "tensorcore"}, "device.kind is cluster"),
    ],
)
def test_tables_that_cannot_be(tmp_path, table, problem):
    with pytest.raises(ConfigError) as error:
        parsed(tmp_path, tables={"user": table, "item": {"dim": 8}})
    assert problem in str(error.value)
