"""Rules of bases, windows and warm starts that need the whole document."""

import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from tests.support.tiny_run import planted_document

pytestmark = pytest.mark.any_python


@pytest.mark.parametrize("name", ["run", "run/"])
def test_a_run_does_not_start_from_itself(name):
    document = planted_document("/place") | {"init": {"from": f"/place/{name}"}}
    with pytest.raises(ConfigError, match="init.from: /place/run/? is the run's own output.path; name"):
        parse_config(document, "test")


@pytest.mark.parametrize("key", ["window_days", "half_life_days"])
def test_ages_need_timestamps(key):
    document = planted_document("/place")
    document["source"] = {"kind": "delimited", "paths": ["x.csv"], "roles": {"user": "u", "item": "i"}}
    document["dataset"]["split"] = {"kind": "random"}
    document["train"][key] = 1.5
    with pytest.raises(ConfigError, match=f"train.{key} requires source.roles.timestamp, .* or remove {key}"):
        parse_config(document, "test")
    document["source"]["roles"]["timestamp"] = "t"
    assert getattr(parse_config(document, "test").train, key) == 1.5


def _daily(**dataset) -> dict:
    document = planted_document("/place")
    document["source"] = {"kind": "delimited", "paths": ["x.csv"], "roles": {"user": "u", "item": "i"}}
    document["dataset"] = {"path": "/place/day", "split": {"kind": "random"}, **dataset}
    return document


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"base": "/place/day/"}, "dataset.base: /place/day/ is dataset.path itself; name the dataset of"),
        (
            {"base": "/place/base", "history_length": 5},
            "dataset.history_of: others takes items of all days, .* set it to earlier for all days",
        ),
        ({"refresh_statistics": True}, "dataset.refresh_statistics requires dataset.base, .*; remove it"),
        (
            {"item_ids": {"expire_days": 3}},
            "dataset.item_ids.expire_days requires source.roles.timestamp, .* or remove expire_days",
        ),
        (
            {"feature_ids": {"words": {"expire_days": 3}}, "base": "/place/base"},
            "dataset.feature_ids.words.expire_days requires source.roles.timestamp",
        ),
    ],
)
def test_bases_that_cannot_be_stood_on(dataset, message):
    document = _daily(**dataset)
    document["source"]["features"] = [{"name": "words", "of": "item", "kind": "list", "separator": "|"}]
    with pytest.raises(ConfigError, match=message):
        parse_config(document, "test")


def test_a_base_with_expiring_keys():
    ids = {"expire_days": 3, "max_rows": 10}
    document = _daily(base="/place/base", user_ids=ids, refresh_statistics=True)
    document["source"]["roles"]["timestamp"] = "t"
    assert parse_config(document, "test").dataset.user_ids.expire_days == 3
