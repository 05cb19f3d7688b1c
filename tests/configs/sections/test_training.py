"""The section `init`: its key `from`, a word of Python's own, is written and named as users write it."""

import json

import pytest
import yaml

from configs.errors import ConfigError
from configs.load import dump_config, load_config
from configs.schema import RunConfig
from configs.sections.training import InitConfig

pytestmark = pytest.mark.any_python

DOCUMENT = {
    "source": {"kind": "synthetic", "rows": 100, "users": 10, "items": 10},
    "dataset": {"path": "day2"},
    "train": {"num_steps": 5},
    "output": {"path": "run2"},
}


def load(tmp_path, *overrides: str, **sections) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(DOCUMENT | sections))
    return load_config(str(path), overrides)


def test_from_in_yaml_and_overrides(tmp_path):
    written = load(tmp_path, init={"from": "run1", "weights": "raw"})
    overridden = load(tmp_path, "init.weights=raw", "init.from=run1")
    assert written == overridden
    assert written.init == InitConfig(**{"from": "run1", "weights": "raw"})
    assert load(tmp_path).init is None


def test_a_saved_config_reproduces_it(tmp_path):
    config = load(tmp_path, init={"from": "gs://bucket/run1", "slots": "reset"})
    saved = yaml.safe_load(dump_config(config))
    assert saved["init"] == {"from": "gs://bucket/run1", "weights": "average", "slots": "reset"}
    assert RunConfig.model_validate(saved) == config
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    assert json.loads(config.model_dump_json())["init"] == saved["init"]


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"weights": "raw"}, "init.from: missing; set it"),
        ({"form": "run1"}, "init.form: unknown key; did you mean from?"),
        ({"from": "run1", "from_": "run2"}, "init.from_: unknown key; did you mean from?"),
        ({"from": "s3://bucket/run"}, "init.from: s3://bucket/run is neither a local directory nor gs://"),
        ({"from": ""}, "init.from: String should have at least 1 character"),
        ({"from": True}, "init.from: Input should be a valid string, found True"),
        ({"from": "run1", "weights": "best"}, "init.weights: Input should be 'average' or 'raw'"),
        ("run1", "init: must be a mapping of keys, found"),
    ],
)
def test_mistakes_name_the_key_as_written(tmp_path, init, message):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, init=init)
    assert message in str(error.value)
