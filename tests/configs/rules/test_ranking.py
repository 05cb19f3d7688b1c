"""Defaults and checks of ranking models."""

import pytest
from pydantic import ValidationError

from configs.rules.ranking import corrected_tasks
from configs.schema import RunConfig
from configs.sections.roles import LabelConfig


def document(model: dict | None = None, roles: dict | None = None, **dataset) -> dict:
    features = [
        {"name": "hour", "of": "context", "kind": "numeric"},
        {"name": "site", "of": "context", "kind": "categorical"},
        {"name": "device", "of": "context", "kind": "categorical"},
    ]
    roles = {"label": "clicked"} if roles is None else roles
    return {
        "source": {"kind": "jsonl", "paths": ["a"], "roles": roles, "features": features},
        "dataset": {"path": "d", **dataset},
        "model": {"kind": "ranking", **(model or {})},
        "train": {"num_steps": 1},
        "output": {"path": "o"},
    }


def test_what_follows_from_the_source():
    config = RunConfig.model_validate(document())
    assert config.source.roles.user is None and config.source.roles.item is None
    assert config.model.inputs == ["hour", "site", "device"]
    assert [(task.name, task.label) for task in config.model.tasks] == [("label", "label")]
    assert config.model.bottom == [] and {table.dim for table in config.tables.values()} == {16}
    assert config.dataset.counted_rows == "all" and config.dataset.split.kind == "random"


def test_with_dots_all_widths_follow_the_one_that_is_given():
    given = document({"interaction": {"kind": "dot"}}) | {"tables": {"site": {"dim": 8}}}
    config = RunConfig.model_validate(given)
    assert config.model.bottom == [8] and config.tables["device"].dim == 8
    config = RunConfig.model_validate(document({"interaction": {"kind": "dot"}, "bottom": [32, 12]}))
    assert {table.dim for table in config.tables.values()} == {12}


def test_a_saved_config_reads_back():
    config = RunConfig.model_validate(document({"interaction": {"kind": "dot"}}))
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_users_and_items_enter_if_the_source_has_them():
    roles = {"label": "clicked", "user": "u", "item": "i"}
    assert RunConfig.model_validate(document(roles=roles)).model.inputs == [
        "user",
        "item",
        "hour",
        "site",
        "device",
    ]


LABELS = {"labels": {"click": {"column": "c"}, "buy": {"column": "b"}}}
BOTH = [{"name": "click", "label": "click"}, {"name": "buy", "label": "buy"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"inputs": ["user"]}}, "model.inputs: user requires source.roles.user"),
        ({"model": {"inputs": ["color"]}}, "'color' is not a feature"),
        ({"roles": {}}, "the source has 0 labels; set source.roles.label or labels"),
        ({"roles": LABELS}, "the source has 2 labels: click, buy"),
        ({"model": {"tasks": [{"name": "a", "label": "b"}]}}, "label 'b' of task 'a' is not a label"),
        ({"model": {"interaction": {"kind": "dot"}, "bottom": []}}, "model.bottom: [] leaves numbers"),
        ({"model": {"interaction": {"kind": "dot"}, "bottom": [4, 8], "inputs": ["hour"]}}, "two vectors"),
        ({"model": {"sharing": {"kind": "esmm"}}}, "esmm requires two tasks"),
        ({"split": {"kind": "leave_last_out"}}, "leave_last_out requires source.roles.user"),
        ({"user_ids": {"kind": "hash", "rows": 9}}, "dataset.user_ids requires source.roles.user"),
        ({"history_length": 5}, "dataset.history_length requires source.roles.user and item"),
        ({"roles": {"label": "a", "labels": {"label": {"column": "b"}}}}, "choose another name"),
        ({"roles": {"labels": {"planted_probability": {"column": "b"}}}}, "set label, or choose another"),
        ({"roles": LABELS, "model": {"tasks": BOTH}, "keep_negatives": 0.1}, "exact only if all tasks but"),
    ],
)
def test_what_does_not_fit(changes, message):
    with pytest.raises(ValidationError) as failed:
        RunConfig.model_validate(document(**changes))
    assert message in str(failed.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("roles", {"user": None}, "source.roles.user: null requires model.kind: ranking"),
        ("roles", {"labels": {"a": {"column": "b"}}}, "source.roles.labels requires model.kind: ranking"),
        ("keep_negatives", 0.5, "dataset.keep_negatives requires model.kind: ranking"),
        ("counted_rows", "all", "dataset.counted_rows: all requires model.kind: ranking"),
    ],
)
def test_other_models_have_none_of_it(key, value, message):
    given = document(**{key: value}) | {"model": {"kind": "two_tower"}}
    with pytest.raises(ValidationError) as failed:
        RunConfig.model_validate(given)
    assert message in str(failed.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("exclude_seen", False), ("cold_items", "leave_out"), ("max_k", 5), ("index", {"kind": "scann"})],
)
def test_export_has_no_options_of_recommendations(key, value):
    with pytest.raises(ValidationError) as failed:
        RunConfig.model_validate(document() | {"export": {key: value}})
    assert f"export.{key} is of models that recommend items" in str(failed.value)
    config = RunConfig.model_validate(document() | {"export": {"weights": "raw"}})
    assert RunConfig.model_validate(config.model_dump(mode="json")).export == config.export


def test_which_probabilities_are_corrected():
    one = RunConfig.model_validate(document(keep_negatives=0.1))
    assert corrected_tasks(one.source.roles, one.model) == ["label"]
    after = [BOTH[0], BOTH[1] | {"where": "click"}]
    two = RunConfig.model_validate(document({"tasks": after}, LABELS, keep_negatives=0.1))
    assert corrected_tasks(two.source.roles, two.model) == ["click"]
    esmm = {"tasks": BOTH, "sharing": {"kind": "esmm"}}
    entire = RunConfig.model_validate(document(esmm, LABELS, keep_negatives=0.1))
    assert corrected_tasks(entire.source.roles, entire.model) == ["click"]


def test_values_that_count_as_one_are_text():
    """YAML reads 1 and true as what they are; the source's values are text."""
    label = LabelConfig(column="c", ones=["x", 1, True, False])
    assert label.ones == ["x", "1", "true", "false"]
    with pytest.raises(ValidationError, match="ones"):
        LabelConfig(column="c", ones=[1.5])


def test_figures_by_features_and_groups():
    evaluate = {"by": ["site"], "group_by": "device", "slice_rows": 50, "bootstrap": 10, "confidence": 0.9}
    config = RunConfig.model_validate(document() | {"evaluate": evaluate})
    assert config.evaluate.by == ["site"]
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        ({"by": ["hour"]}, "evaluate.by: 'hour' is not a feature with keys or buckets; known: site, device"),
        ({"by": ["site", "site"]}, "by names 'site' twice"),
        ({"group_by": "user"}, "evaluate.group_by: 'user' is not a feature with one key a row; known: site"),
        ({"k": [5]}, "evaluate.k: models of kind ranking do not have it; remove it"),
        ({"protocol": "sampled"}, "evaluate.protocol: models of kind ranking do not have it"),
        ({"negatives": 7}, "evaluate.negatives: models of kind ranking do not have it"),
        ({"cold_users": "rank"}, "evaluate.cold_users"),
        ({"cold_items": "only"}, "evaluate.cold_items"),
        ({"exclude_seen": False}, "evaluate.exclude_seen: models of kind ranking do not have it"),
        ({"max_users": 9}, "evaluate.max_users: models of kind ranking do not have it"),
        ({"diversity": ["site"]}, "evaluate.diversity: models of kind ranking do not have it"),
        ({"by": ["activity"]}, "evaluate.by: 'activity' is not a feature with keys or buckets; known: site"),
    ],
)
def test_keys_of_evaluation_that_do_not_fit(evaluate, said):
    with pytest.raises(ValidationError) as error:
        RunConfig.model_validate(document() | {"evaluate": evaluate})
    assert said in str(error.value)


@pytest.mark.parametrize("evaluate", [{"group_by": "user"}, {"slice_rows": 5}])
def test_retrieval_models_have_no_figures_of_predictions(evaluate):
    other = document(roles={}) | {"model": {"kind": "two_tower"}, "evaluate": evaluate}
    with pytest.raises(ValidationError, match=f"evaluate.{next(iter(evaluate))}: models of kind two_tower"):
        RunConfig.model_validate(other)
