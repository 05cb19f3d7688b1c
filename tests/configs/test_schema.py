"""Errors between sections: each is found when the config is loaded, before data or devices are touched."""

import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from configs.schema import RunConfig
from configs.sections.features import RESERVED_NAMES
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
            "model input 'age' is not a feature; known: history, item, user",
        ),
        (
            {"source": delimited(features=[GENRE]), "model": two_tower(["user", "genre"])},
            "model.user_tower.inputs: 'genre' is not a feature of the user; move it to the other tower",
        ),
        (
            {"source": delimited(features=[AGE]), "model": two_tower(item=["item", "age"])},
            "model.item_tower.inputs: 'age' is not a feature of the item; move it to the other tower",
        ),
        ({"model": two_tower(["user", "item"])}, "model: user_tower.inputs must not contain item; remove it"),
        (
            {"model": two_tower(item=["item", "user"])},
            "model: item_tower.inputs must not contain user; remove it",
        ),
        (
            {"model": two_tower(item=["item", "history"])},
            "model: item_tower.inputs must not contain history; remove it",
        ),
        (
            {"model": two_tower() | {"user_tower": {"inputs": ["user"], "id_dropout": 0.5}}},
            "model: user_tower.id_dropout requires user and another input in user_tower.inputs, found "
            "['user']; add what is missing, or remove id_dropout",
        ),
        (
            {
                "source": delimited(features=[GENRE]),
                "model": two_tower() | {"item_tower": {"inputs": ["genre"], "id_dropout": 0.5}},
            },
            "model: item_tower.id_dropout requires item and another input in item_tower.inputs, found "
            "['genre']; add what is missing, or remove id_dropout",
        ),
        (
            {
                "source": delimited(features=[GENRE]),
                "model": two_tower() | {"item_tower": {"inputs": ["genre", "item"], "id_dropout": 0.5}},
                "dataset": {"path": "x", "item_ids": {"kind": "hash", "rows": 9}},
            },
            "model.item_tower.id_dropout: hashed ids have no out-of-vocabulary row; use "
            "dataset.item_ids.kind: vocab, or remove id_dropout",
        ),
        (
            {"evaluate": {"cold_items": "only"}},
            "evaluate.cold_items: only needs features to tell cold items apart, but the model reads none of "
            "the item; add one to model.item_tower.inputs, or use miss",
        ),
        (
            {"export": {"cold_items": "serve"}, "model": {"kind": "dot_bias"}},
            "export.cold_items: serve needs features to tell cold items apart, but the model reads none of "
            "the item; add one to model.item_tower.inputs, or use leave_out",
        ),
        (
            {"evaluate": {"cold_users": "rank"}, "model": two_tower(["user"])},
            "evaluate.cold_users: rank needs the history or a feature of the user, but the model reads none; "
            "add one to model.user_tower.inputs, or use skip",
        ),
        (
            {"evaluate": {"cold_items": "only", "protocol": "sampled"}},
            "evaluate: cold_items: only requires protocol: full; set that, or use cold_items: rank",
        ),
        ({"model": two_tower(["user", "user"])}, "model.user_tower: inputs names 'user' twice; name it once"),
        (
            {"model": two_tower(["user", "history"]), "dataset": {"path": "x", "history_length": 0}},
            "dataset.history_length: 0, but the model reads history; set it above 0",
        ),
        (
            {"dataset": {"path": "x", "history_of": "earlier", "history_length": 0}},
            "dataset.history_of: earlier, but no history is stored; set dataset.history_length above 0 (or "
            "let the model read history), or remove history_of",
        ),
        *(
            (
                {
                    "model": two_tower(["user", "history"]),
                    "dataset": {"path": "x", "history_of": "others", "split": {"kind": kind}},
                },
                f"dataset: history_of: others ignores the order of rows, by which split.kind {kind} divides "
                "them; use earlier, or split.kind random or given",
            )
            for kind in ("temporal", "leave_last_out")
        ),
        (
            {"tables": {"usr": {"dim": 3}}},
            "tables.usr: the model does not read it; rename or remove it (in use: item, user)",
        ),
        (
            {"source": delimited(features=[AGE]), "tables": {"age": {}}},
            "tables.age: the model does not read it; rename or remove it (in use: item, user)",
        ),
        (
            {"dataset": {"path": "x", "feature_ids": {"age": {"kind": "vocab"}}}},
            "dataset.feature_ids.age: not the table of a categorical or list feature; remove it",
        ),
        (
            {"source": delimited(), "dataset": split(kind="given")},
            "dataset.split.kind: given and source.roles.split require each other; set both or neither",
        ),
        (
            {"source": delimited(roles={"split": "part"})},
            "dataset.split.kind: given and source.roles.split require each other; set both or neither",
        ),
        (
            {"dataset": {"path": "x", "min_label": 4}},
            "dataset.min_label requires source.roles.label; set that or remove min_label",
        ),
        (
            {
                "model": {"kind": "dot_bias", "negatives": 1},
                "tables": {"user": {"dim": 8}, "item": {"dim": 9}},
            },
            "dot_bias: tables.user.dim and tables.item.dim must be equal and at least 2 (the "
            "last column is the bias)",
        ),
        (
            {
                "model": {"kind": "dot_bias", "negatives": 1},
                "tables": {"user": {"dim": 1}, "item": {"dim": 1}},
            },
            "dot_bias: tables.user.dim and tables.item.dim must be equal and at least 2 (the "
            "last column is the bias)",
        ),
        (
            {"tables": {"user": {"dim": 8}, "item": {"dim": 32}}},
            "the user tower is 8 wide, the item tower 32; make them equal",
        ),
        (
            {"model": two_tower(item_bias=True), "tables": {"user": {"dim": 32}, "item": {"dim": 32}}},
            "the user tower is 32 wide + 1 (item_bias), the item tower 32; make them equal",
        ),
        (
            {
                "source": delimited(features=[AGE]),
                "model": two_tower() | {"user_tower": {"inputs": ["user", "age"], "combine": "sum"}},
            },
            "combine: sum cannot add the number 'age' to vectors; use combine: concat, or give the feature "
            "buckets",
        ),
        (
            {
                "source": delimited(features=[GENRE]),
                "model": two_tower(item=["item", "genre"], item_bias=True),
            },
            "model: item_bias without item_tower.layers requires item as the last input; move it to the end",
        ),
        ({"train": {}}, "train: set exactly one of num_steps and num_epochs"),
        ({"train": {"num_steps": 1, "num_epochs": 1}}, "train: set exactly one of num_steps and num_epochs"),
        (
            {"schedule": {"warmup_fraction": 0.6, "cooldown_fraction": 0.5}},
            "schedule: warmup_fraction + cooldown_fraction exceeds 1; lower one of them",
        ),
        (
            {"dataset": split(kind="temporal", valid_fraction=0.5, test_fraction=0.5)},
            "dataset.split: valid_fraction + test_fraction leave no rows to train on; lower one of them",
        ),
        (
            {"dataset": split(kind="random", valid_fraction=0.5, test_fraction=0.5)},
            "dataset.split: valid_fraction + test_fraction leave no rows to train on; lower one of them",
        ),
        (
            {"source": delimited(header=False)},
            "source: header: false requires columns: [names, left to right]",
        ),
        (
            {"source": delimited(columns=["user"])},
            "source: columns requires header: false, because a header names the columns; remove columns",
        ),
        (
            {"source": delimited(features=[AGE, AGE])},
            "source: feature name 'age' is already in use; choose another",
        ),
        (
            {"model": {"kind": "dot_bias"}},
            "model: dot_bias without labels sees positives only; set source.roles.label, or set "
            "model.negatives above 0",
        ),
        (
            {"polyak": {"kind": "uniform", "decay": 0.9}},
            "polyak: decay requires kind: exponential, found uniform; remove it",
        ),
        (
            {"polyak": {"decay": 0.9, "horizon_fraction": 0.1}},
            "polyak: horizon_fraction and decay both set how far the average looks back; remove one",
        ),
        (
            {"polyak": {"kind": "uniform", "start_fraction": 0.9, "horizon_fraction": 0.1}},
            "polyak: horizon_fraction and start_fraction both set where a uniform average begins; remove one",
        ),
        (
            {"polyak": {"kind": "none", "horizon_fraction": 0.1}},
            "polyak: horizon_fraction requires kind: exponential or uniform, found none; remove it",
        ),
        (
            {"output": {"path": "s3://bucket/run"}},
            "output.path: s3://bucket/run is neither a local directory nor "
            "gs://bucket/directory; use one of them",
        ),
        (
            {"dataset": {"path": "hdfs://host/ds"}},
            "dataset.path: hdfs://host/ds is neither a local directory nor gs://bucket/directory; use one of "
            "them",
        ),
        (
            {"dataset": {"path": "gs:/bucket/ds"}},
            "dataset.path: gs:/bucket/ds would be a local directory named gs:; write gs://bucket/directory "
            "for a bucket, or ./gs:/bucket/ds for that directory",
        ),
        (
            {"export": {"path": "s3://bucket/served"}},
            "export.path: s3://bucket/served is neither a local directory nor gs://bucket/directory; use "
            "one of them",
        ),
    ],
)
def test_sections_that_do_not_fit(sections, message):
    assert error_of(**sections) == message


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_features_may_not_take_the_names_of_columns(name):
    assert error_of(source=delimited(features=[feature(name)])) == (
        f"source: feature name {name!r} is already in use; choose another"
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
        ({"delimiter": "a\n"}, "delimiter must not contain a line end"),
        ({"delimiter": '"'}, "quote '\"' must be one ASCII character outside the delimiter"),
        ({"escape": '"'}, "escape equals quote; remove escape"),
        ({"escape": "é"}, "escape 'é' must be one ASCII character"),
        ({"delimiter": "x" * 9}, "at most 8 characters"),
    ],
)
def test_special_characters_of_delimited_text(keys, message):
    assert message in error_of(source=delimited(**keys))


def test_ids_are_a_vocabulary_unless_they_say_otherwise():
    dataset = parse(dataset={"path": "x", "item_ids": {"min_count": 3}, "user_ids": {}}).dataset
    assert (dataset.item_ids.kind, dataset.item_ids.min_count, dataset.user_ids.kind) == ("vocab", 3, "vocab")


def _with_features(features, user_inputs, **model):
    document = {
        "source": {"kind": "jsonl", "paths": ["a"], "features": features},
        "dataset": {"path": "d"},
        "model": {"kind": "two_tower", "user_tower": {"inputs": user_inputs, **model}},
        "train": {"num_steps": 1},
        "output": {"path": "o"},
    }
    return parse_config(document, "t")


def test_what_a_request_cannot_know_is_no_input():
    keys = [{"name": name, "of": of, "kind": "categorical"} for name, of in (("a", "context"), ("b", "item"))]
    cross = {"name": "c", "of": "context", "kind": "cross", "keys": ["a", "b"], "rows": 9}
    with pytest.raises(ConfigError, match="cross 'c' has the key 'b' of the item, which is not known"):
        _with_features([*keys, cross], ["user", "c"])
    assert _with_features([*keys, cross], ["user", "a"])


def test_numbers_are_not_added_to_vectors():
    age = {"name": "age", "of": "user", "kind": "numeric"}
    with pytest.raises(ConfigError, match="combine: sum cannot add the number 'age' to vectors"):
        _with_features([age], ["user", "age"], combine="sum")
    assert _with_features([age | {"buckets": {"quantiles": 4}}], ["user", "age"], combine="sum")


@pytest.mark.parametrize("name", ["k", "include", "where_a", "weight_a"])
def test_inputs_of_the_served_model_are_no_feature_names(name):
    with pytest.raises(ConfigError, match=f"feature name '{name}'"):
        _with_features([{"name": name, "of": "user", "kind": "categorical"}], ["user", name])
