"""What a TPU does not support is refused when the config is read, with the key and the fix."""

import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from configs.rules.tpu import placed
from configs.sections.tables import TableConfig
from tests.configs.test_load import error_of
from tests.support.documents import document, two_tower

V4, V6E = ({"kind": "tpu", "slice": name} for name in ("v4-8", "v6e-4"))
DOT_BIAS = {"kind": "dot_bias", "negatives": 7}


def parsed(**sections):
    return parse_config(document(**{"model": two_tower(), "device": V4, **sections}), "FILE")


@pytest.mark.parametrize("name", ["v2-8", "v3-32", "v4-8", "v5p-8", "v6e-1", "v6e-256"])
def test_slices_that_can(name):
    config = parsed(device={"kind": "tpu", "slice": name}, train={"num_steps": 9, "batch_size": 4096})
    assert config.device.slice == name


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"name": "mine", "zone": "us-east5-b"},
        {"name": "mine", "zone": "us-east5-b", "project": "p"},
        {"name": "grpc://10.0.0.2:8470"},
        {"name": "grpc://10.0.0.2,grpc://host:99"},
    ],
)
def test_names_of_tpus(keys):
    device = parsed(device=V4 | keys).device
    assert device.has_address == keys.get("name", "").startswith("grpc://")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"device": {"kind": "tpu", "slice": "v5e-8"}},
            "device.slice: v5e-8: v5e replicates every table",
        ),
        ({"device": {"kind": "tpu", "slice": "v9-8"}}, "device.slice: v9-8: not a TPU slice"),
        ({"device": {"kind": "tpu", "slice": "v4-8", "zone": "a"}}, "zone and project require name"),
        ({"device": V4 | {"name": "mine"}}, "zone: missing; set the zone of mine, such as us-east5-b"),
        (
            {"device": V4 | {"name": "grpc://10.0.0.2:1", "project": "p"}},
            "10.0.0.2:1 is an address; remove zone and project",
        ),
        (
            {"device": V4 | {"name": "grpc://a, grpc://b"}},
            "name: grpc://a, grpc://b is not a valid address; write grpc",
        ),
        (
            {"device": V4 | {"name": "grpc://10.0.0.2:8470,10.0.0.3"}},
            "write grpc://ip:port, separated by commas",
        ),
        (
            {"train": {"num_steps": 9, "batch_size": 100}},
            "train.batch_size: 100 is not divisible by its 8 replicas",
        ),
        ({"train": {"num_steps": 9, "clip_norm": 1.0}}, "device v4-8: train.clip_norm: .* remove it"),
        ({"train": {"num_steps": 9, "skip_nonfinite": 3}}, "train.skip_nonfinite: .* set it to 0"),
        (
            {"tables": {"user": {"optimizer": {"kind": "sm3"}}}},
            "tables.user: optimizer sm3 is not available on TPUs",
        ),
        (
            {"tables": {"item": {"optimizer": {"bias_correction": "per_row"}}}},
            "tables.item: optimizer lazy_adam is not available on TPUs: .* use bias_correction: global",
        ),
        (
            {"tables": {"item": {"optimizer": {"weight_decay": 0.1}}}},
            "weight_decay; remove it",
        ),
        ({"tables": {"item": {"optimizer": {"clip_value": 0.1}}}}, "clip_value; remove it"),
        (
            {"tables": {"user": {"kind": "robe_z", "size": 64}}},
            "tables.user: kind robe_z is not available on TPUs",
        ),
        ({"tables": {"user": {"engine": "tfa"}}}, "tables.user.engine: tfa runs on CPUs only; remove it"),
        (
            {"device": V6E, "train": {"num_steps": 9, "batch_size": 12}},
            "batch_size: 12 gives 3 ids of table item per chip, not divisible by its 2 SparseCores",
        ),
        (
            {"device": V6E, "train": {"num_steps": 9, "batch_size": 65_536}},
            "16,384 ids of table user per chip, at most 8,192 fit",
        ),
        (
            {"device": V6E, "model": DOT_BIAS, "train": {"num_steps": 9, "batch_size": 8192}},
            "16,384 ids of table item per chip, at most 8,192 fit",
        ),
        (
            {"tables": {"user": {"optimizer": {"kind": "sm3"}}}},
            "or, for a small table, set placement: tensorcore",
        ),
        (
            {"tables": {"user": {"optimizer": {"kind": "sm3"}, "placement": "engine"}}},
            "tables.user: optimizer sm3 is not available on TPUs",
        ),
        (
            {"tables": {"user": {"placement": "hbm"}}},
            "tables.user.placement: .*auto.*tensorcore.*engine",
        ),
        (
            {"tables": {"user": {"kind": "robe_z", "size": 64, "placement": "tensorcore"}}},
            "tables.user.placement: unknown key",
        ),
        (
            {"device": {}, "tables": {"user": {"placement": "engine"}}},
            "tables.user.placement: engine is for TPUs, and device.kind is cpu; remove it",
        ),
    ],
)
def test_what_a_slice_refuses(sections, message):
    with pytest.raises(ConfigError, match=message):
        parsed(**sections)


def test_a_table_on_the_tensorcores_has_any_optimizer():
    small = {"placement": "tensorcore", "optimizer": {"kind": "sm3"}}
    assert parsed(tables={"user": small}).table("user").optimizer.kind == "sm3"


def test_limits_of_sparse_cores_are_those_of_tables_in_the_engine():
    """16,384 ids a chip are too many for a large table, or one whose rows are not known yet."""
    hashed = {"path": "d", "user_ids": {"kind": "hash", "rows": 10_000}}
    train = {"num_steps": 9, "batch_size": 65_536}
    with pytest.raises(ConfigError) as error:
        parsed(device=V6E, dataset=hashed, train=train)
    assert "table item" in str(error.value) and "table user" not in str(error.value)
    item = {"item": {"placement": "tensorcore"}}
    assert parsed(device=V6E, dataset=hashed, train=train, tables=item)
    hashed["user_ids"]["rows"] += 1
    with pytest.raises(ConfigError, match="table user"):
        parsed(device=V6E, dataset=hashed, train=train, tables=item)


@pytest.mark.parametrize(
    ("placement", "rows", "place"),
    [
        ("auto", 10_000, "tensorcore"),
        ("auto", 10_001, "engine"),
        ("auto", None, "engine"),
        ("tensorcore", 25_000_000, "tensorcore"),
        ("engine", 3, "engine"),
    ],
)
def test_where_a_table_is(placement, rows, place):
    assert placed(TableConfig(placement=placement), rows) == place


def test_all_that_is_refused_is_said_at_once():
    with pytest.raises(ConfigError) as error:
        parsed(train={"num_steps": 9, "clip_norm": 1.0, "skip_nonfinite": 1})
    assert "train.clip_norm" in str(error.value) and "train.skip_nonfinite" in str(error.value)


def test_the_same_on_the_cpu_is_welcome():
    train = {"num_steps": 9, "clip_norm": 1.0, "skip_nonfinite": 1, "batch_size": 100}
    assert parsed(device={}, train=train).device.kind == "cpu"


def test_keys_of_the_other_device_are_unknown(tmp_path):
    assert "device.replicas: unknown key" in error_of(tmp_path, document(device={**V4, "replicas": 2}))
    assert "device.slice: unknown key" in error_of(tmp_path, document(device={"slice": "v4-8"}))
