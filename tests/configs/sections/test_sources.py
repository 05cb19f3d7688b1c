"""source.sides: side tables of every kind, and a message for every refusal."""

import pytest

from configs.errors import ConfigError
from configs.load import dump_config, load_config, parse_config
from tests.support.documents import delimited, document

GENRE = {"name": "genre", "kind": "categorical"}
SIDE = {"of": "item", "kind": "parquet", "paths": ["items.parquet"], "key": "id", "features": [GENRE]}


def parse(*sides, **keys):
    return parse_config(document(source=delimited(sides=list(sides), **keys)), "FILE")


def test_sides_of_all_kinds_are_read_dumped_and_read_again(tmp_path):
    text = {"name": "text", "kind": "vector", "dim": 8}
    users = SIDE | {"of": "user", "kind": "delimited", "delimiter": "\t", "header": False}
    users |= {
        "columns": ["id", "job", "text"],
        "features": [{"name": "job", "kind": "categorical"}, text | {"name": "bio", "separator": " "}],
    }
    newest = {"keep": "newest", "order_by": "at"}
    items = SIDE | newest | {"kind": "jsonl", "features": [GENRE, text]}
    config = parse(users, items, SIDE | {"features": [GENRE | {"name": "mood", "of": "item"}]})
    assert {name: f.of for name, f in config.features.items()} == {
        "job": "user", "bio": "user", "genre": "item", "text": "item", "mood": "item",
    }  # fmt: skip
    path = tmp_path / "run.yaml"
    path.write_text(dump_config(config))
    assert load_config(str(path)) == config


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (
            {"kind": "xlsx"},
            "source.sides.0.kind: 'xlsx' is unknown; allowed: 'bigquery', 'delimited', 'jsonl', 'parquet', "
            "'tfrecord'",
        ),
        ({"of": "context"}, "source.sides.0.of: Input should be 'user' or 'item', found 'context'"),
        ({"key": None}, "source.sides.0.key: Input should be a valid string"),
        ({"paths": []}, "source.sides.0.paths: List should have at least 1 item"),
        ({"features": []}, "source.sides.0: features: name at least one, or remove the side table"),
        (
            {"features": [GENRE | {"of": "user"}]},
            "source.sides.0: feature 'genre': of: user in a side table of: item; remove it",
        ),
        (
            {"keep": "newest"},
            "source.sides.0: keep: newest and order_by require each other; set both or neither",
        ),
        (
            {"order_by": "at"},
            "source.sides.0: keep: newest and order_by require each other; set both or neither",
        ),
        ({"keep": "oldest", "order_by": "at"}, "source.sides.0.keep: Input should be 'newest'"),
        ({"roles": {}}, "source.sides.0.roles: unknown key; known: "),
        (
            {"features": [{"name": "a", "kind": "list", "separator": "|"}]},
            "source.sides.0: feature 'a': separator applies to delimited text only; remove it, since files "
            "of this kind have lists of their own",
        ),
        (
            {"kind": "delimited", "features": [{"name": "a", "kind": "vector", "dim": 3}]},
            "source.sides.0: feature 'a': a vector in delimited text requires separator, such as "
            "separator: '|'",
        ),
        ({"features": [{"name": "a", "kind": "vector"}]}, "source.sides.0.features.0.dim: missing; set it"),
        (
            {"features": [GENRE, {"name": "x", "kind": "cross", "keys": ["genre", "mood"], "rows": 5}]},
            "source.sides.0: cross 'x': 'mood' is not a feature of this side table; the categorical ones "
            "are: genre",
        ),
        (
            {"kind": "delimited", "header": False},
            "source.sides.0: header: false requires columns: [names, left to right]",
        ),
    ],
)
def test_mistakes(side, message):
    with pytest.raises(ConfigError) as caught:
        parse(SIDE | side)
    assert str(caught.value).startswith(f"FILE: {message}") and "\n" not in str(caught.value)


def test_names_are_used_once_in_the_source_and_its_sides():
    message = "FILE: source: feature name 'genre' is already in use; choose another"
    for sides, features in (([SIDE, SIDE], []), ([SIDE], [GENRE | {"of": "user"}])):
        with pytest.raises(ConfigError) as caught:
            parse(*sides, features=features)
        assert str(caught.value) == message


def test_a_cross_stays_in_one_table():
    cross = {"name": "x", "of": "item", "kind": "cross", "keys": ["genre", "mood"], "rows": 5}
    with pytest.raises(ConfigError, match="cross 'x': 'genre' is not a feature of source.features"):
        parse(SIDE, features=[{"name": "mood", "of": "item", "kind": "categorical"}, cross])
