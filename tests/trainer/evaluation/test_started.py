"""The model that a run starts from, evaluated on the run's dataset."""

import numpy as np
import pytest

from configs.errors import ConfigError
from tests.support.checkpoint_state import newest_state
from tests.support.two_runs import first_config, second_config, sources_of, trained, write_datasets
from trainer.commands import evaluate
from trainer.evaluation.scorer import evaluate_recommender
from trainer.evaluation.started import open_start
from trainer.evaluation.trained import open_trained

pytestmark = pytest.mark.any_python

DIM = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    made = str(tmp_path_factory.mktemp("two"))
    write_datasets(made)
    trained(first_config(made))
    return made


def figures(opened) -> dict:
    lines = evaluate_recommender(opened.recommender, opened.dataset, opened.items, opened.step, "test")
    line = next(line for line in lines if line["scorer"] == "model")
    return {name: value for name, value in line.items() if "@" in name or name in ("mrr", "users", "targets")}


def test_on_its_own_dataset_it_is_the_other_run(root):
    config = first_config(root)
    other = config.model_copy(update={"init": second_config(root).init})
    wanted, found = figures(open_trained(config)), figures(open_start(other))
    assert found == pytest.approx(wanted, abs=1e-9) and found["users"] > 10


def test_keys_that_it_does_not_know_read_its_row_of_unknown_keys(root):
    raw = {"weights": "raw"}
    opened = open_start(second_config(root, init=raw))
    before = newest_state(first_config(root).output.path)
    assert opened.step == 0 and not opened.recommender.has_averages
    for side in ("user", "item"):
        sources = sources_of(root, side)
        assert side == "item" or (sources < 0).any()
        theirs = before[f"tables/{side}"][:, :DIM]
        table = opened.recommender.storages[side]
        found = np.asarray(table.read_records(np.arange(table.rows)))[:, :DIM]
        np.testing.assert_array_equal(found, theirs[np.where(sources < 0, sources[-1], sources)])


def test_without_init_it_is_refused(root):
    with pytest.raises(ConfigError, match="--start evaluates the weights of init.from; set init.from"):
        open_start(first_config(root))


def test_the_command_writes_a_file_of_its_own(root, tmp_path, capsys):
    import argparse
    import json

    from configs.load import dump_config

    config = second_config(root, "fresh")
    path = tmp_path / "run.yaml"
    path.write_text(dump_config(config))
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    assert evaluate.run(parser.parse_args(["--config", str(path), "--start", "--json"])) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["step"] == 0 and {line["scorer"] for line in document["results"]} >= {"model"}
    with open(f"{config.output.path}/evaluate-test-start.json") as file:
        assert json.load(file) == document
