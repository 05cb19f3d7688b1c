"""--set: scalars, lists, new sections, kinds, and every bad form."""

import pytest
import yaml

from configs.errors import ConfigError
from configs.load import load_config
from tests.support.documents import delimited, document, feature


@pytest.fixture
def load(tmp_path):
    """Loads document(**sections) under overrides."""

    def load(overrides, **sections):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(document(**sections)))
        return load_config(str(path), overrides)

    return load


def test_scalars_lists_and_sections(load):
    config = load(
        [
            "train.batch_size=64",
            "name=other",
            "evaluate.k=[5, 7]",
            "evaluate.k.1=9",
            "tables.user.dim=8",
            "tables.item={dim: 8}",
            "source.paths.0=b.csv",
            "source.features.0={name: job, of: user, kind: categorical}",
            "source.features.1.missing=3",
        ],
        source=delimited(features=[feature("sex"), feature("age", kind="numeric")]),
    )
    assert config.train.batch_size == 64 and config.name == "other" and config.evaluate.k == [5, 9]
    assert (config.table("user").dim, config.table("item").dim) == (8, 8)
    assert config.source.paths == ["b.csv"]
    assert config.source.features[0].name == "job" and config.source.features[1].missing == 3


def test_the_last_of_two_wins_and_values_may_hold_equals_signs(load):
    config = load(["output.path=a", "output.path=b=c"])
    assert config.output.path == "b=c"


def test_a_section_left_empty_in_the_file_can_be_filled(load):
    sections = {"evaluate": None}
    assert load(["evaluate.negatives=7"], **sections).evaluate.negatives == 7


def test_another_kind_drops_the_keys_of_the_former_one(load):
    split = {"kind": "leave_last_out", "min_rows": 5}
    config = load(["dataset.split.kind=random"], dataset={"path": "x", "split": split})
    assert config.dataset.split.model_dump() == {
        "kind": "random",
        "valid_fraction": 0.1,
        "test_fraction": 0.1,
    }


def test_the_same_kind_keeps_its_keys(load):
    split = {"kind": "leave_last_out", "min_rows": 5}
    config = load(["dataset.split.kind=leave_last_out"], dataset={"path": "x", "split": split})
    assert config.dataset.split.min_rows == 5


def test_a_kind_set_after_its_keys_keeps_them(load):
    config = load(["dataset.user_ids.rows=7", "dataset.user_ids.kind=hash"])
    assert config.dataset.user_ids.rows == 7


@pytest.mark.parametrize(
    ("section", "before", "override"),
    [
        ("polyak", {"start_fraction": 0.5}, "polyak.kind=uniform"),
        ("optimizer", {"learning_rate": 0.5}, "optimizer.kind=adam"),
        ("device", {"threads": 2}, "device.kind=cpu"),
    ],
)
def test_a_kind_that_chooses_no_other_section_drops_nothing(load, section, before, override):
    after = getattr(load([override], **{section: before}), section).model_dump()
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size", "not of the form section.key=value; write it so"),
        ("=3", "not of the form section.key=value; write it so"),
        ("train.batch_size=[1", "the value is not valid YAML"),
        ("train.batch_size=2026-13-01", "the value is not valid YAML"),
        ("train.batch_size={a: 1, a: 2}", "the value is not valid YAML"),
        ("train.num_steps.x=3", "num_steps is a value, not a section"),
        ("evaluate.k.2=3", "'2' is not an index of a list of 1; count from 0"),
        ("evaluate.k.first=3", "'first' is not an index of a list of 1; count from 0"),
        ("evaluate.k.-1=3", "'-1' is not an index of a list of 1; count from 0"),
    ],
)
def test_bad_forms_name_the_override(load, override, message):
    with pytest.raises(ConfigError) as caught:
        load([override], evaluate={"k": [10]})
    assert str(caught.value) == f"--set {override}: {message}"


@pytest.mark.parametrize(
    "override", ["a.b=1", "a..b=1", ".=1", "train..batch_size=3", "train.batch_size=", "source.paths.0=x"]
)
def test_keys_that_do_not_exist_are_found_by_the_schema(load, override):
    with pytest.raises(ConfigError, match="^/.*run.yaml: "):
        load([override])


def test_a_kind_keeps_what_other_overrides_set_whatever_their_order(load):
    keys = ["source.paths=[b.jsonl]", "source.roles.user=uid"]
    for overrides in ([*keys, "source.kind=jsonl"], ["source.kind=jsonl", *keys]):
        source = load(overrides, source={"kind": "delimited", "paths": ["a.csv"], "delimiter": ";"}).source
        assert (source.kind, source.paths, source.roles.user) == ("jsonl", ["b.jsonl"], "uid")
    optimizer = ["tables.user.optimizer.momentum=0.5", "tables.user.optimizer.kind=momentum"]
    tables = {"user": {"dim": 8, "optimizer": {"kind": "lazy_adam", "beta_1": 0.5}}, "item": {"dim": 8}}
    assert load(optimizer, tables=tables).tables["user"].optimizer.momentum == 0.5
    # The last of two values of a key wins, as for any key.
    kinds = [f"tables.user.optimizer.kind={kind}" for kind in ("sgd", "ftrl")]
    assert load(kinds, tables=tables).tables["user"].optimizer.kind == "ftrl"
