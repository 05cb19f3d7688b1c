"""Requests as JSON lines: what they may contain, and the errors for those that the model does not accept."""

import pytest

from configs.errors import ExportError
from trainer.serving.requests import Request, check_request, parse_requests

INPUTS = {"history": True, "features": {"country": "string", "age": "float32"}, "where": ["genre"]}


def test_a_line_may_hold_any_of_the_inputs():
    lines = [
        '{"user": "a", "history": ["x", 17], "include": "y", "where": {"genre": ["g", 3]}}',
        "  ",
        '{"features": {"age": "41.5", "country": 7}, "exclude": ["é,\\n"]}',
        "{}",
    ]
    assert parse_requests(lines, "f", INPUTS) == [
        Request("a", ["x", "17"], {}, ["y"], [], {"genre": ["g", "3"]}),
        Request(features={"age": 41.5, "country": "7"}, exclude=["é,\n"]),
        Request(),
    ]


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "f:2: not valid JSON"),
        ("[1]", "f:2: expected an object"),
        ('{"item": "a"}', "f:2: unknown key 'item'; known: user, history, features"),
        ('{"user": 1.5}', "f:2: user: expected text or a whole number, found 1.5"),
        ('{"user": true}', "f:2: user: expected text or a whole number, found true"),
        ('{"history": [null]}', "f:2: history: expected text or a whole number, found null"),
        ('{"where": ["g"]}', "f:2: where: expected an object of values by feature"),
        ('{"where": {"shelf": "g"}}',
         "f:2: where.shelf: 'shelf' is not an item feature that requests can name; these are: genre"),
        ('{"features": {"agee": 1}}', "f:2: features.agee: 'agee' is not a user feature of the model that "
         "requests can name; these are: age, country"),
        ('{"features": {"age": "old"}}', "f:2: features.age: expected a finite number, found 'old'"),
        ('{"features": {"age": NaN}}', "f:2: features.age: expected a finite number, found nan"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(line, message):
    with pytest.raises(ExportError) as error:
        parse_requests(["{}", line], "f", INPUTS)
    assert str(error.value).startswith(message)


def test_models_of_earlier_versions_take_user_and_exclude():
    assert check_request(Request("a", exclude=["b"]), {}, "p") == Request("a", exclude=["b"])
    with pytest.raises(ExportError, match="p: the model was exported by an earlier version"):
        check_request(Request("a", include=["b"]), {}, "p")


def test_a_model_without_history_takes_none():
    with pytest.raises(ExportError, match="p: history: the model does not read the history"):
        check_request(Request(history=["b"]), {**INPUTS, "history": False}, "p")


FORMS = {"features": {"tags": "strings", "likes": "weighted_strings", "taste": "vector"}}


@pytest.mark.parametrize(
    "features, expected",
    [
        ('{"tags": ["a", 7, ""]}', {"tags": ["a", "7"]}),
        ('{"tags": "a,b"}', {"tags": ["a", "b"]}),
        ('{"likes": {"a": 2, "b": 0.5}}', {"likes": {"a": 2.0, "b": 0.5}}),
        ('{"likes": ["a", "b", "a"]}', {"likes": {"a": 2.0, "b": 1.0}}),
        ('{"taste": [1, 2.5]}', {"taste": [1.0, 2.5]}),
        ('{"taste": "1,-2"}', {"taste": [1.0, -2.0]}),
    ],
)
def test_lists_and_vectors(features, expected):
    [request] = parse_requests([f'{{"features": {features}}}'], "f", {**INPUTS, **FORMS})
    assert request.features == expected


@pytest.mark.parametrize(
    "features, message",
    [
        ('{"tags": {"a": 1}}', "f:1: features.tags: the keys of this feature have no weights"),
        ('{"likes": {"a": -1}}', "f:1: features.likes.a: a weight must be at least 0, found -1"),
        ('{"likes": {"a": "much"}}', "f:1: features.likes.a: expected a finite number, found 'much'"),
        ('{"taste": 3}', "f:1: features.taste: expected the numbers of a vector as a list, found 3"),
        ('{"taste": [1, null]}', "f:1: features.taste: expected a finite number, found None"),
        ('{"tags": [null]}', "f:1: features.tags: expected text or a whole number, found null"),
    ],
)
def test_wrong_lists_and_vectors(features, message):
    with pytest.raises(ExportError) as error:
        parse_requests([f'{{"features": {features}}}'], "f", {**INPUTS, **FORMS})
    assert str(error.value).startswith(message)
