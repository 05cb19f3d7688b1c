"""Features of the interactions' columns: kinds, defaults, and a message for every refusal."""

import pytest

from configs.errors import ConfigError
from configs.load import dump_config, load_config, parse_config
from configs.sections.features import NumericFeatureConfig, table_of
from tests.support.documents import delimited, document, feature, two_tower

GENRE, AGE = feature("genre", "item"), feature("age", kind="numeric")
TAGS = feature("tags", "item", "list") | {"separator": "|"}
CROSS = {"name": "pair", "of": "item", "kind": "cross", "keys": ["genre", "mood"], "rows": 100}


def parse(*features, **sections):
    return parse_config(document(source=delimited(features=list(features)), **sections), "FILE")


def error_of(*features, **sections) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(*features, **sections)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("FILE: ")


def test_every_kind_is_read_dumped_and_read_again(tmp_path):
    features = [
        GENRE | {"column": "Genre", "table": "words"},
        feature("mood", "item"),
        TAGS | {"table": "words", "weights": "strength", "max_length": 8},
        feature("device", "context"),
        AGE | {"transform": ["log1p", {"clip": [0, 3]}, "standardize"], "missing": 0},
        feature("year", "item", "numeric") | {"buckets": {"boundaries": [1980, 1990.5]}},
        CROSS,
    ]
    given = {"kind": "given", "path": "words.txt", "oov_rows": 4}
    config = parse(*features, dataset={"path": "x", "feature_ids": {"words": given}})
    path = tmp_path / "run.yaml"
    path.write_text(dump_config(config))
    assert load_config(str(path)) == config
    by_name = config.features
    tables = {name: table_of(f) for name, f in by_name.items()}
    assert tables == {
        "genre": "words", "mood": "mood", "tags": "words", "device": "device", "age": None, "year": "year",
        "pair": "pair",
    }  # fmt: skip
    assert by_name["tags"].columns == ["tags", "strength"] and by_name["genre"].columns == ["Genre"]
    assert by_name["pair"].columns == []
    assert config.ids_of("words").oov_rows == 4
    assert (config.ids_of("pair").kind, config.ids_of("pair").rows) == ("hash", 100)


def test_a_clip_may_come_before_a_logarithm():
    steps = [{"clip": [0, 5]}, "log1p"]
    assert NumericFeatureConfig(name="a", kind="numeric", transform=steps, missing=-1).missing == -1


def test_buckets_need_no_standardization():
    whole = NumericFeatureConfig(name="a", kind="numeric", transform=["log1p", "standardize"])
    assert whole.steps == ["log1p", "standardize"]
    assert whole.model_copy(update={"buckets": {"quantiles": 3}}).steps == ["log1p"]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([feature("Bad name")], "source.features.0.name: String should match pattern"),
        ([GENRE | {"kind": "tag"}], "source.features.0.kind: 'tag' is unknown; allowed: 'categorical', "),
        (
            [{"name": "a", "kind": "categorical"}],
            "source: feature 'a': of is required: user, item or context",
        ),
        ([GENRE | {"of": "shop"}], "source.features.0.of: Input should be 'user', 'item' or 'context'"),
        ([GENRE, GENRE], "source: feature name 'genre' is already in use; choose another"),
        ([feature("history")], "source: feature name 'history' is already in use; choose another"),
        ([GENRE | {"table": "item"}], "feature 'genre': table 'item' is already in use; choose another name"),
        (
            [GENRE | {"table": "age"}, AGE | {"buckets": {"quantiles": 3}}],
            "feature 'age': table 'age' is already in use; choose another name",
        ),
        (
            [GENRE | {"table": "pair"}, feature("mood", "item"), CROSS],
            "feature 'pair': table 'pair' is already in use; choose another name",
        ),
        # lists
        (
            [feature("tags", "item", "list")],
            "source: feature 'tags': a list in delimited text requires separator, such as separator: '|'",
        ),
        ([TAGS | {"max_length": 0}], "source.features.0.max_length: Input should be greater than or equal"),
        (
            [feature("text", "item", "vector") | {"dim": 4, "separator": " "}],
            "source: feature 'text': a vector must be in a side table (source.sides), so that it is stored "
            "once for each user or item; move it there",
        ),
        # numbers
        (
            [AGE | {"transform": ["log1p", "log1p"]}],
            "source.features.0: transform names log1p twice; name it once",
        ),
        (
            [AGE | {"transform": ["standardize", "log1p"]}],
            "source.features.0: transform: standardize must be the last step; move it to the end",
        ),
        (
            [AGE | {"transform": ["sqrt"]}],
            "source.features.0.transform: 'sqrt' is unknown; allowed: log1p, {clip: [low, high]}, "
            "standardize",
        ),
        (
            [AGE | {"transform": [{"buckets": 3}]}],
            "source.features.0.transform: 'buckets' is unknown; allowed: log1p, {clip: [low, high]}, "
            "standardize (buckets is a key beside transform)",
        ),
        ([AGE | {"transform": [3]}], "source.features.0.transform.0: must be a mapping of keys, found 3"),
        (
            [AGE | {"buckets": {"quantiles": 3, "boundaries": [1]}}],
            "source.features.0.buckets.quantiles: unknown key",
        ),
        ([AGE | {"buckets": 10}], "source.features.0.buckets: must be a mapping of keys, found 10"),
        (
            [AGE | {"transform": [{"clip": [3, 3]}]}],
            "source.features.0.transform.0.clip: clip: [3, 3]: the first limit must be the lower one",
        ),
        (
            [AGE | {"transform": [{"clip": [0, float("inf")]}]}],
            "source.features.0.transform.0.clip.1: Input should be a finite number",
        ),
        (
            [AGE | {"buckets": {"boundaries": [2, 1]}}],
            "source.features.0.buckets.boundaries: boundaries must ascend; sort them and name each once",
        ),
        (
            [AGE | {"buckets": {"boundaries": [1, 1]}}],
            "source.features.0.buckets.boundaries: boundaries must ascend; sort them and name each once",
        ),
        (
            [AGE | {"buckets": {"boundaries": [float("nan")]}}],
            "source.features.0.buckets.boundaries.0: Input should be a finite number",
        ),
        (
            [AGE | {"buckets": {"quantiles": 1}}],
            "source.features.0.buckets.quantiles: Input should be greater",
        ),
        (
            [AGE | {"buckets": {"boundaries": []}}],
            "source.features.0.buckets.boundaries: List should have at",
        ),
        ([AGE | {"missing": float("inf")}], "source.features.0.missing: Input should be a finite number"),
        (
            [AGE | {"missing": -1, "transform": ["log1p"]}],
            "source.features.0: missing: -1 has no log1p; use a number above -1, or put a clip before it",
        ),
        (
            [AGE | {"transform": [{"clip": [-9, -2]}, "log1p"]}],
            "source.features.0: transform: after this clip no number has a log1p; raise its limits above -1",
        ),
        (
            [AGE | {"missing": 1e39}],
            "source.features.0.missing: 1e+39 is beyond float32, whose largest number is",
        ),
        (
            [AGE | {"transform": [{"clip": [-1e39, 0]}]}],
            "source.features.0.transform.0.clip.0: -1e+39 is beyond float32, whose largest number is ",
        ),
        # crosses
        ([CROSS | {"keys": ["genre"]}], "source.features.0.keys: List should have at least 2 items"),
        (
            [GENRE, CROSS],
            "source: cross 'pair': 'mood' is not a feature of source.features; the categorical ones are: "
            "genre",
        ),
        (
            [GENRE, feature("mood", "item", "numeric"), CROSS],
            "source: cross 'pair': 'mood' is numeric; a cross joins categorical features only",
        ),
        (
            [GENRE, TAGS | {"name": "mood"}, CROSS],
            "source: cross 'pair': 'mood' is list; a cross joins categorical features only",
        ),
        (
            [GENRE, feature("mood", "user"), CROSS],
            "source: cross 'pair' is of the item, 'mood' of the user; set its of: context",
        ),
    ],
)
def test_mistakes(features, message):
    assert error_of(*features).startswith(message)


def test_a_separator_is_for_delimited_text():
    source = {"kind": "jsonl", "paths": ["a"], "features": [TAGS]}
    with pytest.raises(ConfigError) as caught:
        parse_config(document(source=source), "FILE")
    assert str(caught.value) == (
        "FILE: source: feature 'tags': separator applies to delimited text only; remove it, since files of "
        "this kind have lists of their own"
    )


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"genre": {"kind": "given"}}, "dataset.feature_ids.genre.path: missing; set it"),
        (
            {"genre": {"kind": "given", "path": "a", "oov_rows": 0}},
            "dataset.feature_ids.genre.oov_rows: Input should be greater than or equal to 1, found 0",
        ),
        (
            {"age": {"kind": "hash", "rows": 3}},
            "dataset.feature_ids.age: not the table of a categorical or list feature; remove it",
        ),
        (
            {"pair": {"kind": "hash", "rows": 3}},
            "dataset.feature_ids.pair: not the table of a categorical or list feature; remove it",
        ),
    ],
)
def test_ids_belong_to_tables(ids, message):
    found = error_of(GENRE, feature("mood", "item"), AGE, CROSS, dataset={"path": "x", "feature_ids": ids})
    assert found == message


def test_the_context_describes_the_request():
    features = [GENRE, feature("device", "context")]
    config = parse(*features, model=two_tower(["user", "device"], ["item", "genre"]))
    assert config.table_of_input["device"] == "device"
    message = error_of(*features, model=two_tower(item=["item", "device"]))
    assert message == (
        "model.item_tower.inputs: 'device' is not a feature of the item; move it to the other tower"
    )
