"""Optimizer sections: chosen by kind, with a default kind, and mistakes named as everywhere."""

import typing

import pytest
import yaml

from configs.errors import ConfigError
from configs.load import dump_config, parse_config
from configs.sections.optimizers import AdamConfig, DenseOptimizer, TableLazyAdamConfig, TableOptimizer
from tests.support.documents import document

TABLE_KINDS = "'lazy_adam', 'adam', 'adagrad', 'rowwise_adagrad', 'sgd', 'momentum', 'ftrl'"
SECTIONS = typing.get_args(typing.get_args(TableOptimizer)[0])


def parse(optimizer=None, **table):
    tables = {"user": {**table, **({} if optimizer is None else {"optimizer": optimizer})}}
    return parse_config(document(tables=tables), "FILE")


def error_of(run) -> str:
    with pytest.raises(ConfigError) as caught:
        run()
    return str(caught.value).removeprefix("FILE: ")


def test_without_kind_tables_have_lazy_adam_and_towers_adam():
    config = parse_config(
        document(optimizer={"beta_1": 0.5}, tables={"user": {"optimizer": {"learning_rate": 0.01}}}), "FILE"
    )
    assert config.tables["user"].optimizer == TableLazyAdamConfig(learning_rate=0.01)
    assert config.optimizer == AdamConfig(beta_1=0.5)
    assert parse().tables["user"].optimizer == TableLazyAdamConfig()
    assert parse_config(document(), "FILE").optimizer == AdamConfig()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_kind_loads_and_dumps(section):
    kind = typing.get_args(section.model_fields["kind"].annotation)[0]
    keys = {"learning_rate": 0.5, "clip_value": 2.0} if "clip_value" in section.model_fields else {}
    config = parse({"kind": kind, **keys})
    optimizer = config.tables["user"].optimizer
    assert type(optimizer) is section
    assert {name: getattr(optimizer, name) for name in keys} == keys
    assert parse_config(yaml.safe_load(dump_config(config)), "again") == config


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"kind": "adamw"}, f".kind: 'adamw' is unknown; allowed: {TABLE_KINDS}"),
        ({"learning_rat": 1}, ".learning_rat: unknown key; did you mean learning_rate?"),
        ({"kind": "sgd", "beta_1": 0.9}, ".beta_1: unknown key; known: "),
        ({"kind": "momentum", "momentum": 2}, ".momentum: Input should be less than 1, found 2"),
        ({"kind": "momentum", "moment": 0.5}, ".moment: unknown key; did you mean momentum?"),
        ({"kind": "adagrad", "learning_rate": 0}, ".learning_rate: Input should be greater than 0, found 0"),
        ({"kind": "ftrl", "weight_decay": 0.1}, ".weight_decay: unknown key; known: "),
        ({"bias_correction": "row"}, ".bias_correction: Input should be 'global', 'per_row' or 'none'"),
        ({"kind": "sgd", "clip_value": True}, ".clip_value: true and false "),
        (5, ": must be a mapping of keys, found 5"),
        ("sgd", ": must be a mapping of keys, found 'sgd'"),
    ],
)
def test_mistakes_are_named(optimizer, message):
    assert error_of(lambda: parse(optimizer)).startswith(f"tables.user.optimizer{message}")


def test_towers_have_no_optimizer_of_rows():
    message = error_of(lambda: parse_config(document(optimizer={"kind": "lazy_adam"}), "FILE"))
    kinds = "'adam', 'adagrad', 'sgd', 'momentum', 'ftrl'"
    assert message == f"optimizer.kind: 'lazy_adam' is unknown; allowed: {kinds}"
    assert set(typing.get_args(typing.get_args(DenseOptimizer)[0])) < set(SECTIONS)


@pytest.mark.parametrize(
    ("optimizer", "lacks"),
    [
        ({"kind": "adagrad"}, "optimizer adagrad"),
        ({"kind": "adam"}, "optimizer adam"),
        ({"bias_correction": "per_row"}, "bias_correction: per_row"),
        ({"bias_correction": "none"}, "bias_correction: none"),
        ({"weight_decay": 0.1}, "weight_decay"),
        ({"amsgrad": True}, "amsgrad"),
        ({"clip_value": 1}, "clip_value"),
    ],
)
def test_addons_has_global_lazy_adam_only(optimizer, lacks):
    message = error_of(lambda: parse(optimizer, engine="tfa"))
    assert message == f"tables.user: engine: tfa does not support {lacks}; use engine: rows"
    assert parse(optimizer, engine="rows")


@pytest.mark.parametrize("reason", [None, "TF-Addons has no release for Python 3.13"])
def test_the_engine_tfa_needs_a_python_of_addons(monkeypatch, reason):
    monkeypatch.setattr("configs.schema.missing_addons", lambda: reason)
    if reason is None:
        assert parse({"learning_rate": 0.5}, engine="tfa").tables["user"].engine == "tfa"
        return
    assert error_of(lambda: parse({"learning_rate": 0.5}, engine="tfa")) == (
        "tables.user.engine: tfa: TF-Addons has no release for Python 3.13; use native (rows if there is no "
        "C++ compiler), or Python 3.10 or 3.11"
    )
    for engine in ("auto", "native", "rows"):
        assert parse({}, engine=engine)


def test_a_constant_rate_decays_to_nothing():
    message = error_of(lambda: parse_config(document(schedule={"decay_to": 0.5}), "FILE"))
    assert (
        message == "schedule: decay_to requires decay: cosine or exponential, found constant; "
        "remove it or change decay"
    )
