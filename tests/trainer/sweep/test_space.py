"""Keys of a sweep: which are refused, what they change, and that YAML values arrive as they are."""

import pytest

from configs.errors import ConfigError
from configs.load import parse_as
from configs.sections.search.sweep import SweepConfig
from tests.support.fake_trials import base_document, sweep_of
from trainer.sweep.space import Space, chosen_values, ends_of, grid_of

pytestmark = pytest.mark.any_python


def refused(root, space: dict, **keys) -> str:
    with pytest.raises(ConfigError) as error:
        sweep = sweep_of(root, space=space, **keys)
        Space(base_document(root), "base.yaml", sweep).check("sweep.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"source.rows": [1]}, "sweep.yaml: space: source.rows cannot be varied, because trials share one"),
        ({"dataset.seed": [1]}, "dataset.seed cannot be varied"),
        ({"evaluate.k": [[1]]}, "evaluate.k cannot be varied"),
        ({"trian.seed": [1]}, "trian.seed cannot be varied"),
        ({"train.sed": [1]}, "space.train.sed: 1: train.sed: unknown key; did you mean seed?"),
        (
            {"train.batch_size": [8, 0]},
            "space.train.batch_size: 0: train.batch_size: Input should be greater",
        ),
        ({"train.batch_size": {"low": 0, "high": 4}}, "space.train.batch_size: 0: train.batch_size"),
        ({"tables.*.dim": [8, "wide"]}, "space.tables.*.dim: wide: tables"),
        ({"tables.no.dim": [8]}, "space.tables.no.dim: 8: tables.no: the model does not read it"),
        ({"train": [{"num_steps": 2}], "train.seed": [1]}, "space: train.seed is inside train"),
        ({"train.seed": {"low": 3, "high": 3}}, "space.train.seed: low 3 must be less than high 3"),
        ({"train.seed": {"low": 0, "high": 3, "log": True}}, "log requires low above 0, found 0"),
        ({"train.seed": {"low": 1, "high": 3, "step": -1}}, "step must be greater than 0, found -1"),
        ({"train.seed": []}, "space.train.seed: List should have at least 1 item"),
    ],
)
def test_refused_keys(tmp_path, space, message):
    assert message in refused(tmp_path, space)


def test_other_refusals(tmp_path):
    grid = {"sampler": {"kind": "grid"}}
    assert "requires a list of values" in refused(
        tmp_path, {"train.clip_norm": {"low": 1.0, "high": 2.0}}, **grid
    )
    assert "storage: missing, SQLite" in refused(tmp_path, {"train.seed": [1]}, output="gs://bucket/sweep")
    dims = {"tables.user.dim": [8, 16], "tables.item.dim": [8]}
    document = base_document(tmp_path, model={"kind": "dot_bias", "negatives": 1})
    with pytest.raises(ConfigError, match="space.tables.user.dim: 16: dot_bias: .* must be equal"):
        Space(document, "base.yaml", sweep_of(tmp_path, space=dims)).check("sweep.yaml")


def test_values_that_change_the_dataset_are_refused(tmp_path):
    towers = {"kind": "two_tower", "user_tower": {"inputs": ["user"]}}
    other = {"kind": "two_tower", "user_tower": {"inputs": ["user", "history"], "combine": "sum"}}
    document = base_document(tmp_path, model=towers)
    sweep = sweep_of(tmp_path, space={"model": [towers, other]})
    with pytest.raises(ConfigError, match="changes dataset.history_"):
        Space(document, "base.yaml", sweep).check("sweep.yaml")


def test_all_tables_and_sections(tmp_path):
    sections = [{"kind": "sgd", "learning_rate": 0.5}, {"kind": "lazy_adam", "learning_rate": 0.1}]
    space = {"tables.*.optimizer": sections, "tables.user.dim": [4, 8], "train.clip_norm": [None, 2.5]}
    sweep = sweep_of(tmp_path, space=space)
    made = Space(base_document(tmp_path), "base.yaml", sweep)
    made.check("sweep.yaml")
    params = {"tables.*.optimizer": '{"kind": "sgd", "learning_rate": 0.5}', "tables.user.dim": 8}
    values = chosen_values(sweep, params | {"train.clip_norm": None})
    assert values["tables.*.optimizer"] == sections[0]
    config = made.trial_config(7, values)
    assert {table.optimizer.kind for table in config.tables.values()} == {"sgd"}
    assert config.table("user").dim == 8 and config.table("user").init_stddev == 0.1
    assert config.train.clip_norm is None
    assert (config.name, config.output.path) == ("shop-7", str(tmp_path / "out" / "trials" / "7"))


def test_ranges():
    space = {
        "train.seed": {"low": 1, "high": 8, "step": 3},
        "train.clip_norm": {"low": 0.5, "high": 1.0, "step": 0.25},
        "train.batch_size": {"low": 8, "high": 64, "log": True},
    }
    sweep = parse_as(SweepConfig, {"output": "x", "space": space}, "sweep.yaml")
    seed, clip, batch = sweep.space.values()
    assert (ends_of(seed), grid_of(seed)) == ([1, 7], [1, 4, 7])
    assert (ends_of(clip), grid_of(clip)) == ([0.5, 1.0], [0.5, 0.75, 1.0])
    assert (seed.is_whole, clip.is_whole, batch.is_whole, batch.number) == (True, False, True, 57)
    assert sweep.combinations == 3 * 3 * 57
