"""Defaults that follow from other keys: what a short document turns into."""

import pytest
import yaml

from configs.errors import ConfigError
from configs.load import dump_config, load_config, parse_config
from configs.schema import RunConfig
from tests.support.documents import delimited, document, feature, two_tower


def parsed(**sections):
    return parse_config(document(**sections), "FILE")


def dims(config) -> dict[str, int]:
    return {name: table.dim for name, table in config.tables.items()}


def test_a_run_needs_no_model_and_no_tables():
    config = parsed()
    assert config.model.kind == "two_tower" and config.model.normalize and config.model.item_bias
    assert config.model.loss.temperature == 0.15
    assert dims(config) == {"user": 128, "item": 129}


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"user": {"dim": 8}}, {"user": 8, "item": 9}),
        ({"item": {"dim": 9}}, {"user": 8, "item": 9}),
        ({"item": {"init_stddev": 0.1}}, {"user": 128, "item": 129}),
        # Equal widths leave no room for a bias.
        ({"user": {"dim": 8}, "item": {"dim": 8}}, {"user": 8, "item": 8}),
        ({"user": {"dim": 8}, "item": {"dim": 9}}, {"user": 8, "item": 9}),
    ],
)
def test_the_towers_agree_with_the_width_that_is_given(tables, expected):
    config = parsed(tables=tables)
    assert dims(config) == expected
    assert config.model.item_bias == (expected["item"] == expected["user"] + 1)


@pytest.mark.parametrize(
    ("model", "expected", "bias"),
    [
        (two_tower(["history"]), {"item": 129}, True),
        (
            two_tower() | {"user_tower": {"inputs": ["user", "history"], "combine": "sum"}},
            {"user": 128, "item": 129},
            True,
        ),
        (two_tower(["user", "country"]), {"user": 128, "country": 32, "item": 161}, True),
        (two_tower(item=["genre", "item"]), {"user": 128, "item": 97, "genre": 32}, True),
        (two_tower(item=["item", "genre"]), {"user": 128, "item": 96, "genre": 32}, False),
        (
            {"user_tower": {"inputs": ["user"]}, "item_tower": {"inputs": ["item", "genre"], "layers": [48]}},
            {"user": 48, "item": 128, "genre": 32},
            False,
        ),
        (
            {
                "user_tower": {"inputs": ["user", "country"], "layers": [16]},
                "item_tower": {"inputs": ["item"], "layers": [16]},
            },
            {"user": 128, "country": 32, "item": 128},
            False,
        ),
        (
            {
                "user_tower": {"inputs": ["user"], "layers": [16]},
                "item_tower": {"inputs": ["item"], "layers": [17]},
            },
            {"user": 128, "item": 128},
            True,
        ),
        ({"user_tower": {"inputs": ["user"], "layers": [16]}}, {"user": 128, "item": 17}, True),
        ({"kind": "dot_bias", "negatives": 2}, {"user": 65, "item": 65}, None),
    ],
)
def test_open_widths_follow_from_the_towers(model, expected, bias):
    source = delimited(features=[feature("country"), feature("genre", of="item")])
    dataset = {"path": "x", "history_length": 5}
    config = parsed(source=source, dataset=dataset, model={"kind": "two_tower", **model})
    assert dims(config) == expected
    assert getattr(config.model, "item_bias", None) is bias


@pytest.mark.parametrize(
    ("dataset", "inputs", "length"),
    [
        ({"split": {"kind": "temporal"}}, ["user"], 0),
        ({"split": {"kind": "leave_last_out"}}, ["user", "history"], 50),
        ({"split": {"kind": "leave_last_out"}, "history_length": 0}, ["user"], 0),
        ({"split": {"kind": "temporal"}, "history_length": 20}, ["user", "history"], 20),
    ],
)
def test_the_user_tower_reads_the_history_where_it_says_what_comes_next(dataset, inputs, length):
    config = parsed(dataset={"path": "x", **dataset})
    assert config.model.user_tower.inputs == inputs
    assert config.model.history.pooling == "sqrtn"
    assert config.dataset.history_length == length


@pytest.mark.parametrize(
    ("roles", "split", "of"),
    [
        ({}, "random", "others"),
        ({"split": "part"}, "given", None),
        ({"split": "part", "timestamp": "t"}, "given", "earlier"),
        ({"timestamp": "t"}, "random", "earlier"),
        ({"timestamp": "t"}, "temporal", "earlier"),
        ({}, "leave_last_out", "earlier"),
    ],
)
def test_histories_are_of_earlier_rows_where_rows_have_an_order(roles, split, of):
    source = delimited(roles=roles)
    for history, expected in (({"history_length": 3}, of), ({"history_length": 0}, None)):
        config = parsed(source=source, dataset={"path": "x", "split": {"kind": split}, **history})
        assert config.dataset.history_of == expected
        assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_planted_rows_have_an_order():
    source = {"kind": "synthetic", "rows": 9, "users": 3, "items": 3}
    config = parsed(source=source, dataset={"path": "x", "history_length": 3})
    assert config.dataset.history_of == "earlier"


def test_a_tower_that_reads_history_has_it_kept():
    config = parsed(model=two_tower(["history"]))
    assert config.dataset.history_length == 50 and config.model.history.pooling == "mean"


def test_dot_bias_takes_the_width_that_is_given():
    assert dims(parsed(model={"kind": "dot_bias", "negatives": 1}, tables={"item": {"dim": 9}})) == {
        "user": 9,
        "item": 9,
    }


def test_the_temperature_follows_the_scores():
    assert parsed(model={"normalize": False}).model.loss.temperature == 1.0
    assert parsed(model={"normalize": False, "loss": {"temperature": 0.3}}).model.loss.temperature == 0.3
    assert parsed(model={"loss": {"logq": False}}).model.loss.temperature == 0.15
    assert parsed(model=two_tower(["history"])).model.loss.temperature == 0.1


def test_user_rows_beside_a_history_start_near_zero_and_move_slowly():
    split = {"path": "x", "split": {"kind": "leave_last_out"}}
    user = parsed(dataset=split).table("user")
    assert user.init_stddev == 0.005 and user.optimizer.learning_rate == 0.002
    assert parsed(dataset=split).table("item").optimizer.learning_rate == 0.005
    said = {"user": {"init_stddev": 0.05, "optimizer": {"learning_rate": 0.01}}}
    user = parsed(dataset=split, tables=said).table("user")
    assert user.init_stddev == 0.05 and user.optimizer.learning_rate == 0.01
    assert parsed().table("user").init_stddev == 0.005
    assert parsed().table("user").optimizer.learning_rate == 0.005
    assert parsed().table("item").init_stddev == 0.05
    assert parsed(model={"normalize": False}).table("user").init_stddev == 0.05


def test_a_bias_that_is_refused_stays_away():
    config = parsed(model={"item_bias": False})
    assert dims(config) == {"user": 128, "item": 128} and config.model.item_bias is False


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"tables": {"user": {"kind": "robe_z", "size": 512, "block": 256}}},
            "FILE: tables.user.block: 256 is larger than dim 128; lower it, or set a larger dim",
        ),
        (
            {
                "source": delimited(features=[feature("genre", of="item")]),
                "model": two_tower(item=["genre", "item"]),
                "tables": {"user": {"dim": 8}},
            },
            "FILE: tables.item.dim: no width makes the two towers equally wide; change the other widths",
        ),
    ],
)
def test_what_has_no_width_is_one_line(sections, message):
    with pytest.raises(ConfigError) as caught:
        parsed(**sections)
    assert str(caught.value) == message


def test_a_saved_config_holds_the_values(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(parsed()))
    assert "dim: 129" in path.read_text() and "temperature: 0.15" in path.read_text()
    assert load_config(str(path)) == parsed()


@pytest.mark.parametrize(
    ("schedule", "horizon"),
    [
        ({}, 0.002),
        ({"cooldown_fraction": 0.1}, 0.002),
        ({"decay": "cosine"}, 0.002),
        ({"cooldown_fraction": 0}, 0.05),
    ],
)
@pytest.mark.parametrize("kind", ["exponential", "uniform"])
def test_the_average_covers_more_steps_if_the_rate_stays_constant(schedule, horizon, kind):
    config = parsed(schedule=schedule, polyak={"kind": kind})
    assert config.polyak.horizon_fraction == horizon


@pytest.mark.parametrize(
    ("polyak", "horizon"),
    [
        ({"horizon_fraction": 0.3}, 0.3),
        ({"decay": 0.9}, None),
        ({"kind": "uniform", "start_fraction": 0.8}, None),
        ({"kind": "tail_average"}, None),
        ({"kind": "none"}, None),
    ],
)
def test_other_keys_of_averages_leave_the_horizon_alone(polyak, horizon):
    assert parsed(polyak=polyak, checkpoint={"keep": 5}).polyak.horizon_fraction == horizon


def test_a_saved_config_keeps_its_horizon(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(parsed()))
    assert "horizon_fraction: 0.002" in path.read_text()
    assert load_config(str(path), ["schedule.cooldown_fraction=0"]).polyak.horizon_fraction == 0.002


def test_a_star_stands_for_all_tables_that_are_not_named():
    source = delimited(features=[feature("genre", "item"), feature("country", "user")])
    towers = {"user_tower": {"inputs": ["user", "country"]}, "item_tower": {"inputs": ["item", "genre"]}}
    config = parsed(
        source=source,
        dataset={"path": "d", "feature_ids": {"*": {"min_count": 5}, "genre": {"min_count": 2}}},
        model=towers,
        tables={"*": {"init_stddev": 0.2}, "country": {"dim": 4}},
    )
    assert {name: table.init_stddev for name, table in config.tables.items()} == {
        "user": 0.2,
        "item": 0.2,
        "genre": 0.2,
        "country": 0.05,
    }
    assert {name: ids.min_count for name, ids in config.dataset.feature_ids.items()} == {
        "genre": 2,
        "country": 5,
    }
    assert parse_config(yaml.safe_load(dump_config(config)), "FILE") == config


@pytest.mark.parametrize("key", ["tables", "dataset.feature_ids"])
def test_a_star_that_stands_for_no_table(key):
    sections = {"tables": {"*": {}, "user": {}, "item": {}}}
    if key == "dataset.feature_ids":
        sections = {"dataset": {"path": "d", "feature_ids": {"*": {"min_count": 2}}}}
    with pytest.raises(ConfigError, match=rf"{key}\.\*: every table is named already; remove it"):
        parsed(**sections)
