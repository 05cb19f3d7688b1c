"""The kind robe_z of the tables section, and what a section without a kind still means."""

import pytest

from configs.defaults import USER_STDDEV
from configs.errors import ConfigError
from configs.load import dump_config, load_config, parse_config
from configs.sections.optimizers import TableLazyAdamConfig
from configs.sections.tables import RobeZConfig, TableConfig
from tests.support.documents import document


def tables(**of_user):
    """The user table of a config with this section."""
    return parse_config(document(tables={"user": {"dim": 32, **of_user}}), "FILE").table("user")


def test_a_section_without_kind_is_a_table():
    optimizer = TableLazyAdamConfig(learning_rate=0.005)
    expected = TableConfig(dim=32, init_stddev=USER_STDDEV, optimizer=optimizer)
    assert tables() == tables(kind="table") == expected
    assert isinstance(tables(kind="robe_z", size=64), RobeZConfig)


def test_a_config_with_both_kinds_is_dumped_and_read_again(tmp_path):
    sections = {"user": {"kind": "robe_z", "size": 64, "seed": 5}, "item": {"engine": "rows"}}
    config = parse_config(document(tables=sections), "FILE")
    path = tmp_path / "run.yaml"
    path.write_text(dump_config(config))
    assert load_config(str(path)) == config
    changed = load_config(str(path), ["tables.user.block=16", "tables.item.kind=table"])
    assert changed.tables["user"].block == 16 and changed.tables["item"].engine == "rows"


def test_the_kind_can_be_chosen_on_the_command_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(dump_config(parse_config(document(), "FILE")))
    chosen = load_config(str(path), ["tables.item.kind=robe_z", "tables.item.size=320"])
    assert chosen.tables["item"].size == 320


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "robe"}, "tables.user.kind: 'robe' is unknown; allowed: 'table', 'robe_z'"),
        ({"kind": None}, "tables.user: kind is missing; set it"),
        ({"kind": ["robe_z"]}, "tables.user.kind: \"['robe_z']\" is unknown; allowed: 'table', 'robe_z'"),
        ({"kind": "robe_z"}, "tables.user.size: missing; set it"),
        ({"kind": "robe_z", "size": 64, "engine": "rows"}, "tables.user.engine: unknown key; known: block, "),
        ({"size": 64}, "tables.user.size: unknown key; known: combiner, dim, "),
        ({"kind": "robe_z", "size": 64, "blok": 8}, "tables.user.blok: unknown key; did you mean block?"),
        ({"kind": "robe_z", "size": 0}, "tables.user.size: Input should be greater than or equal to 1"),
        ({"kind": "robe_z", "size": True}, "tables.user.size: true and false"),
        ({"kind": "robe_z", "size": 65}, "tables.user: size: 65 is not divisible by block 32; use 96"),
        ({"kind": "robe_z", "size": 64, "block": 64}, "tables.user: block: 64 is larger than dim 32"),
        (
            {"kind": "robe_z", "size": 64, "optimizer": {"learning_rate": -1}},
            "tables.user.optimizer.learning_rate: Input should be greater than 0, found -1",
        ),
    ],
)
def test_mistakes(keys, message):
    with pytest.raises(ConfigError) as caught:
        tables(**keys)
    assert str(caught.value).startswith(f"FILE: {message}")


def test_a_section_that_is_no_mapping():
    with pytest.raises(ConfigError, match="^FILE: tables.user: must be a mapping of keys, found 5$"):
        parse_config(document(tables={"user": 5}), "FILE")
