"""Groups of in-batch negatives that do not fit the batch or its shares are refused by their key."""

import pytest

from configs.errors import ConfigError
from configs.load import parse_config

pytestmark = pytest.mark.any_python


def made(batch_size: int, device: dict | None = None, **loss):
    document = {
        "source": {"kind": "synthetic", "rows": 10, "users": 3, "items": 3},
        "dataset": {"path": "unused"},
        "model": {"kind": "two_tower", "loss": loss},
        "train": {"num_steps": 1, "batch_size": batch_size},
        "device": device or {},
        "output": {"path": "unused"},
    }
    return parse_config(document, "test")


def test_a_batch_is_whole_groups():
    message = "train.batch_size: 100 is not divisible by model.loss.group 8; use a multiple of it"
    with pytest.raises(ConfigError, match=message):
        made(100, group=8)
    with pytest.raises(ConfigError, match="not divisible by model.loss.group 128"):
        made(64, group=128)
    with pytest.raises(ConfigError, match="greater than or equal to 2"):
        made(64, group=1)


@pytest.mark.parametrize(
    ("device", "parts"),
    [
        ({"replicas": 4}, 4),
        ({"kind": "tpu", "slice": "v4-8"}, 8),
        ({"kind": "cluster", "hosts": [f"10.0.0.{i}:2222" for i in range(4)]}, 4),
    ],
)
def test_shares_are_whole_groups_or_parts_of_one(device, parts):
    for group in (12, 48, 96, 192):
        assert made(48 * parts, device, group=group).model.loss.group == group
    message = f"model.loss.group: 64 neither divides the 48 rows of each of {parts} replicas or hosts"
    with pytest.raises(ConfigError, match=message):
        made(48 * parts, device, group=64)


def test_precision_is_one_of_two():
    assert made(64).model.loss.precision == "float32"
    assert made(64, precision="bfloat16").model.loss.precision == "bfloat16"
    with pytest.raises(ConfigError, match="model.*precision.*'float32' or 'bfloat16'"):
        made(64, precision="float16")
