"""Windows and ages need timestamps."""

import pytest

from configs.errors import ConfigError
from configs.load import parse_config

pytestmark = pytest.mark.any_python


def document(roles: dict, **train) -> dict:
    return {
        "source": {"kind": "delimited", "paths": ["x.csv"], "roles": {"user": "u", "item": "i"} | roles},
        "dataset": {"path": "/unused", "split": {"kind": "random"}},
        "train": {"num_steps": 1} | train,
        "output": {"path": "/unused/run"},
    }


@pytest.mark.parametrize("key", ["window_days", "half_life_days"])
def test_ages_need_timestamps(key):
    with pytest.raises(ConfigError, match=f"train.{key} requires source.roles.timestamp, .* or remove {key}"):
        parse_config(document({}, **{key: 1.5}), "test")
    assert getattr(parse_config(document({"timestamp": "t"}, **{key: 1.5}), "test").train, key) == 1.5
