"""Rows from JSON lines and flags: what the model takes of them, and what is said of the others."""

import pytest

from configs.errors import ExportError
from trainer.serving.predictions.rows import RowRequest, input_list, parse_rows, row_request

INPUTS = {
    **{"user": True, "item": False, "history": True},
    "features": {
        **{"site": "string", "hour": "float32", "tags": "strings"},
        **{"likes": "weighted_strings", "taste": "vector"},
    },
    "dims": {"taste": 2},
}


def test_lines_become_rows():
    lines = ['{"user": 17, "site": "a", "hour": 3, "tags": ["x", "y"]}', "", '{"history": "b", "hour": null}']
    assert parse_rows(lines, "rows.jsonl", INPUTS) == [
        RowRequest(user="17", features={"site": "a", "hour": 3.0, "tags": ["x", "y"]}),
        RowRequest(history=["b"]),
    ]


def test_values_of_every_form():
    values = {"site": 5, "hour": "2.5", "tags": "x,y", "likes": {"a": 2}, "taste": "1,2"}
    found = row_request(values, INPUTS, "the flags").features
    expected = {"site": "5", "hour": 2.5, "tags": ["x", "y"], "likes": {"a": 2.0}, "taste": [1.0, 2.0]}
    assert found == expected


READS = (
    "it reads user, history, hour (number), likes (list of text, or weights by text), site (text), "
    "tags (list of text), taste (list of numbers)"
)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "rows.jsonl:2: not valid JSON"),
        ("[3]", 'rows.jsonl:2: expected an object such as {"hour": 3}, found [3]'),
        ('{"houre": 3}', f"rows.jsonl:2: houre: the model does not read it; {READS}"),
        ('{"item": "3"}', f"rows.jsonl:2: item: the model does not read it; {READS}"),
        ('{"dims": null}', f"rows.jsonl:2: dims: the model does not read it; {READS}"),
        ('{"hour": "three"}', "rows.jsonl:2: hour: expected a finite number, found 'three'"),
        ('{"hour": [3]}', "rows.jsonl:2: hour: expected a finite number, found [3]"),
        ('{"hour": true}', "rows.jsonl:2: hour: expected a finite number, found True"),
        ('{"hour": NaN}', "rows.jsonl:2: hour: expected a finite number, found nan"),
        ('{"site": ["a"]}', 'rows.jsonl:2: site: expected text or a whole number, found ["a"]'),
        ('{"tags": {"a": 1}}', "rows.jsonl:2: tags: the keys of this feature have no weights"),
        ('{"tags": [1.5]}', "rows.jsonl:2: tags: expected text or a whole number, found 1.5"),
        ('{"likes": {"a": -1}}', "rows.jsonl:2: likes.a: a weight must be at least 0, found -1"),
        ('{"taste": [1]}', "rows.jsonl:2: taste: expected 2 numbers, found 1"),
        ('{"taste": 1}', "rows.jsonl:2: taste: expected the numbers of a vector as a list, found 1"),
        ('{"user": 1.5}', "rows.jsonl:2: user: expected text or a whole number, found 1.5"),
        ('{"history": {"a": 1}}', 'rows.jsonl:2: history: expected text or a whole number, found {"a": 1}'),
    ],
)
def test_bad_lines_are_named(line, message):
    with pytest.raises(ExportError) as raised:
        parse_rows(["{}", line], "rows.jsonl", INPUTS)
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_a_model_without_inputs_says_so():
    assert input_list({"user": False, "features": {}}) == "nothing that requests can give"
