"""A planted click log in a CSV through prepare, train, evaluate and the report."""

import json

import numpy as np
import pytest
import yaml

from trainer import cli
from trainer.report.metrics_file import read_metrics

ROWS, USERS, SITES = 6000, 60, 12


def lazytower(*arguments: str) -> None:
    assert cli.run(cli.parse(["lazytower", *arguments])) == 0


def write_csv(path) -> np.ndarray:
    """Clicks with known probabilities, by user, site and a number; returns the rows as a structured array."""
    draw = np.random.default_rng(0)
    users, sites = draw.integers(USERS, size=ROWS), draw.zipf(1.5, size=ROWS) % SITES
    number = draw.normal(size=ROWS)
    logit = draw.normal(0, 1, USERS)[users] + draw.normal(0, 1.2, SITES)[sites] + number - 1.5
    probability = 1 / (1 + np.exp(-logit))
    clicks = draw.random(ROWS) < probability
    lines = ["user,site,number,click,p,time"]
    for row in zip(users, sites, number, clicks, probability, range(ROWS), strict=True):
        lines.append("u{},s{},{:.4f},{:d},{:.6f},{}".format(*row))
    path.write_text("\n".join(lines) + "\n")
    return np.rec.fromarrays([users, sites, clicks, probability], names="user,site,click,p")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(directory, rows of the log, standard output of the evaluation as JSON)."""
    directory = tmp_path_factory.mktemp("clicks")
    rows = write_csv(directory / "clicks.csv")
    features = [
        {"name": "site", "of": "context", "kind": "categorical"},
        {"name": "number", "of": "context", "kind": "numeric"},
    ]
    roles = {"user": "user", "label": "click", "timestamp": "time"}
    roles |= {"labels": {"planted_probability": {"column": "p"}}}
    source = {"kind": "delimited", "paths": [str(directory / "clicks.csv")], "features": features}
    document = {
        "name": "clicks",
        "source": source | {"roles": roles},
        "dataset": {"path": str(directory / "dataset"), "num_shards": 2},
        "model": {"kind": "ranking", "tasks": [{"name": "click"}], "top": [16]},
        "train": {"batch_size": 128, "num_epochs": 8, "steps_per_loop": 38},
        "evaluate": {"every_steps": 152, "by": ["site"], "by_values": 5, "slice_rows": 40, "bootstrap": 300},
        "output": {"path": str(directory / "run")},
    }
    config = directory / "run.yaml"
    config.write_text(yaml.safe_dump(document))
    for command in ("prepare", "train", "evaluate"):
        lazytower(command, "--config", str(config))
    with open(directory / "run" / "evaluate-test.json", encoding="utf-8") as file:
        return directory, rows, {line["scorer"]: line for line in reversed(json.load(file)["results"])}


def test_the_model_comes_near_to_what_is_best_reachable(run):
    _, rows, lines = run
    test = rows[-ROWS // 10 :]
    p = test.p.astype(float)
    loss = -np.where(test.click, np.log(p), np.log(1 - p)).mean()
    best, model, constant = lines["best_reachable"], lines["model"], lines["constant"]
    assert best["log_loss"] == pytest.approx(loss, abs=1e-5) and best["rows"] == len(test)
    assert model["log_loss"] < best["log_loss"] + 0.05 < constant["log_loss"]
    assert 0.75 < model["auc"] < best["auc"] + 0.02 and constant["auc"] == pytest.approx(0.5)
    assert model["calibration"] == pytest.approx(1, abs=0.2)
    assert model["grouped_auc"] is not None and model["groups"] == len(np.unique(test.user))
    low, high = model["intervals"]["auc"]
    assert low < model["auc"] < high < low + 0.2
    assert "item_rate" not in lines, "the log has no items"


def test_figures_by_site(run):
    _, rows, lines = run
    test = rows[-ROWS // 10 :]
    sites, counts = np.unique(test.site, return_counts=True)
    by = lines["model"]["by"]["site"]
    assert [one["rows"] for one in by[:5]] == sorted(counts, reverse=True)[:5]
    assert by[0]["value"] == f"s{sites[counts.argmax()]}" and by[-1]["value"] == "all others"
    assert sum(one["rows"] for one in by) == len(test)
    first = test[test.site == sites[counts.argmax()]]
    assert by[0]["base_rate"] == pytest.approx(first.click.mean())
    assert lines["model"]["worst"]["examined"] == (counts >= 40).sum()


def test_training_evaluates_valid_and_the_report_shows_all(run):
    directory, _, _ = run
    lines = [line for line in read_metrics(str(directory / "run")) if line["kind"] == "evaluate"]
    valid = [line for line in lines if line["split"] == "valid" and line["scorer"] == "model"]
    assert len({line["step"] for line in valid}) == 2
    assert all(isinstance(line["auc"], float) and isinstance(line["log_loss"], float) for line in valid)
    assert [bool(line.get("by")) for line in valid if line["weights"] == "average"] == [False, True]
    page = (directory / "run" / "report.html").read_text()
    for text in ("Predictions: task click, test", "Predictions: task click, valid", "By site", "Deciles"):
        assert text in page
    assert "Worst calibrated slices" in page and 'id="roc-1"' in page and 'id="calibration-0"' in page
