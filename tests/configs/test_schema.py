"""Errors between sections: each is found when the config is loaded, before data or devices are touched."""

import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from configs.schema import RunConfig
from configs.sections.sources import RESERVED_NAMES
from tests.support.documents import delimited, document, feature, two_tower

AGE, GENRE = feature("age", kind="numeric"), feature("genre", "item")
LAYERS = {"layers": [16]}


def parse(**sections) -> RunConfig:
    return parse_config(document(**sections), "FILE")


def error_of(**sections) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(**sections)
    return str(caught.value).removeprefix("FILE: ")


def split(**keys) -> dict:
    return {"path": "x", "split": keys}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"model": two_tower(["user", "age"])},
            "model input 'age' is no feature; known: history, item, user",
        ),
        (
            {"source": delimited(features=[GENRE]), "model": two_tower(["user", "genre"])},
            "user_tower.inputs holds 'genre', a feature of the other side",
        ),
        (
            {"source": delimited(features=[AGE]), "model": two_tower(item=["item", "age"])},
            "item_tower.inputs holds 'age', a feature of the other side",
        ),
        ({"model": two_tower(["user", "item"])}, "model: user_tower.inputs may not hold item"),
        ({"model": two_tower(item=["item", "user"])}, "model: item_tower.inputs may not hold user"),
        ({"model": two_tower(item=["item", "history"])}, "model: item_tower.inputs may not hold history"),
        ({"model": two_tower(["user", "user"])}, "model.user_tower: inputs holds 'user' twice"),
        (
            {"model": two_tower(["user", "history"]), "dataset": {"path": "x", "history_length": 0}},
            "a tower reads history: set dataset.history_length above 0",
        ),
        (
            {"tables": {"usr": {"dim": 3}}},
            "tables.usr is read by no tower; tables in use: item, user",
        ),
        (
            {"source": delimited(features=[AGE]), "tables": {"age": {}}},
            "tables.age is read by no tower; tables in use: item, user",
        ),
        (
            {"dataset": {"path": "x", "feature_ids": {"age": {"kind": "vocab"}}}},
            "dataset.feature_ids.age names no categorical feature of the source",
        ),
        (
            {"source": delimited(), "dataset": split(kind="given")},
            "dataset.split.kind: given and source.roles.split go together",
        ),
        (
            {"source": delimited(roles={"split": "part"})},
            "dataset.split.kind: given and source.roles.split go together",
        ),
        ({"dataset": {"path": "x", "min_label": 4}}, "dataset.min_label needs source.roles.label"),
        (
            {
                "model": {"kind": "dot_bias", "negatives": 1},
                "tables": {"user": {"dim": 8}, "item": {"dim": 9}},
            },
            "dot_bias needs tables.user.dim == tables.item.dim >= 2 (last column: bias)",
        ),
        (
            {
                "model": {"kind": "dot_bias", "negatives": 1},
                "tables": {"user": {"dim": 1}, "item": {"dim": 1}},
            },
            "dot_bias needs tables.user.dim == tables.item.dim >= 2 (last column: bias)",
        ),
        (
            {"tables": {"user": {"dim": 8}, "item": {"dim": 32}}},
            "user tower gives 8 values, item tower 32: they must agree",
        ),
        (
            {"model": two_tower(item_bias=True), "tables": {"user": {"dim": 32}, "item": {"dim": 32}}},
            "user tower gives 32 values + 1 (item_bias), item tower 32: they must agree",
        ),
        (
            {
                "source": delimited(features=[AGE]),
                "model": two_tower() | {"user_tower": {"inputs": ["user", "age"], "combine": "sum"}},
            },
            "combine: sum needs equal widths, inputs ['user', 'age'] have [128, 1]",
        ),
        (
            {
                "source": delimited(features=[GENRE]),
                "model": two_tower(item=["item", "genre"], item_bias=True),
            },
            "model: item_bias without item_tower.layers needs item as the last of its inputs",
        ),
        ({"train": {}}, "train: give exactly one of num_steps and num_epochs"),
        ({"train": {"num_steps": 1, "num_epochs": 1}}, "train: give exactly one of num_steps and num_epochs"),
        (
            {"schedule": {"warmup_fraction": 0.6, "cooldown_fraction": 0.5}},
            "schedule: warmup_fraction + cooldown_fraction must not exceed 1",
        ),
        (
            {"dataset": split(kind="temporal", valid_fraction=0.5, test_fraction=0.5)},
            "dataset.split: valid_fraction + test_fraction must leave rows to train on",
        ),
        (
            {"dataset": split(kind="random", valid_fraction=0.5, test_fraction=0.5)},
            "dataset.split: valid_fraction + test_fraction must leave rows to train on",
        ),
        ({"source": delimited(header=False)}, "source: header: false needs columns: [names, left to right]"),
        (
            {"source": delimited(columns=["user"])},
            "source: columns belongs to header: false; with a header the file names its columns",
        ),
        (
            {"source": delimited(features=[AGE, AGE])},
            "source: feature name 'age' is taken; choose another",
        ),
        (
            {"model": {"kind": "dot_bias"}},
            "model: dot_bias on rows without labels sees positives only: give source.roles.label, or set "
            "model.negatives above 0",
        ),
        (
            {"polyak": {"kind": "uniform", "decay": 0.9}},
            "polyak: decay belongs to kind: exponential, this is uniform",
        ),
        (
            {"polyak": {"decay": 0.9, "horizon_fraction": 0.1}},
            "polyak: horizon_fraction and decay both set how far the average looks back; give one",
        ),
        (
            {"polyak": {"kind": "uniform", "start_fraction": 0.9, "horizon_fraction": 0.1}},
            "polyak: horizon_fraction and start_fraction both set where a uniform average begins; give one",
        ),
        (
            {"polyak": {"kind": "none", "horizon_fraction": 0.1}},
            "polyak: horizon_fraction belongs to kind: exponential or uniform, this is none",
        ),
        (
            {"output": {"path": "s3://bucket/run"}},
            "output.path: a local directory or gs://bucket/directory is possible here, s3://bucket/run is "
            "neither",
        ),
        (
            {"export": {"path": "s3://bucket/served"}},
            "export.path: a local directory or gs://bucket/directory is possible here, s3://bucket/served is "
            "neither",
        ),
    ],
)
def test_sections_that_do_not_fit(sections, message):
    assert error_of(**sections) == message


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_features_may_not_take_the_names_of_columns(name):
    assert error_of(source=delimited(features=[feature(name)])) == (
        f"source: feature name {name!r} is taken; choose another"
    )


def test_widths_of_towers():
    source = delimited(features=[AGE, GENRE])
    config = parse(
        source=source,
        dataset={"path": "x", "history_length": 5},
        model=two_tower(["user", "history", "age"], ["item", "genre"])
        | {"item_tower": {"inputs": ["item", "genre"], "layers": [64, 65]}},
        tables={"user": {"dim": 32}, "item": {"dim": 32}},
    )
    assert config.tower_width(config.model.user_tower) == 32 + 32 + 1
    assert config.tower_width(config.model.item_tower) == 65
    assert config.table_of_input == {"user": "user", "history": "item", "item": "item", "genre": "genre"}


def test_a_history_that_shares_rows_with_biased_items_is_narrower():
    model = two_tower(["history"], item_bias=True)
    config = parse(dataset={"path": "x", "history_length": 5}, model=model)
    assert config.item_rows_carry_bias
    assert config.input_width("history") == config.table("item").dim - 1
    own = parse(
        dataset={"path": "x", "history_length": 5},
        model=model | {"history": {"table": "history"}},
        tables={"item": {"dim": 33}},
    )
    assert own.input_width("history") == 32 and own.table_of_input["history"] == "history"


def test_paths_and_ids_that_follow_from_others():
    config = parse(source=delimited(features=[GENRE]))
    assert config.export_path == "run/export"
    assert parse(export={"path": "served"}).export_path == "served"
    assert parse(output={"path": "gs://bucket/run"}).export_path == "gs://bucket/run/export"
    assert parse(output={"path": "file:///disk/run"}).output.path == "/disk/run"
    assert config.ids_of("history") == config.dataset.item_ids
    assert config.ids_of("genre").kind == "vocab"


def test_values_never_change_after_loading():
    config = parse()
    with pytest.raises(ValueError, match="frozen"):
        config.train.seed = 3


@pytest.mark.parametrize(
    ("written", "meant"),
    [("\\t", "\t"), ("\t", "\t"), ("::", "::"), ("\\x01", "\x01"), ("\\u0001", "\x01"), ("\\", "\\")],
)
def test_delimiters_may_be_long_or_escaped(written, meant):
    assert parse(source=delimited(delimiter=written)).source.delimiter == meant


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"delimiter": "\\q"}, "is not a delimiter; write"),
        ({"delimiter": "a\n"}, "delimiter must not hold a line end"),
        ({"delimiter": '"'}, "quote '\"' must be one ASCII character outside the delimiter"),
        ({"escape": '"'}, "doubled quotes need no escape"),
        ({"escape": "é"}, "escape 'é' must be one ASCII character"),
        ({"delimiter": "x" * 9}, "at most 8 characters"),
    ],
)
def test_special_characters_of_delimited_text(keys, message):
    assert message in error_of(source=delimited(**keys))


def test_ids_are_a_vocabulary_unless_they_say_otherwise():
    dataset = parse(dataset={"path": "x", "item_ids": {"min_count": 3}, "user_ids": {}}).dataset
    assert (dataset.item_ids.kind, dataset.item_ids.min_count, dataset.user_ids.kind) == ("vocab", 3, "vocab")
