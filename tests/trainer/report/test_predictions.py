"""Sections of ranking models in the report."""

from trainer.report.document import write_report
from trainer.report.metrics_file import MetricsWriter, read_metrics
from trainer.report.predictions import prediction_sections


def line(scorer="model", weights="average", task="click", split="test", **changes) -> dict:
    found = {"scorer": scorer, "split": split, "weights": weights, "task": task, "auc": 0.71, "log_loss": 0.4}
    found |= {"rows": 5000, "base_rate": 0.25, "seconds": 0.1, "protocol": f"task {task}: all rows"}
    found |= {"intervals": {"auc": [0.7012, 0.7345], "log_loss": None}, "undefined": {}}
    found["roc"] = [[0.0, 0.2, 1.0], [0.0, 0.7, 1.0]]
    found["deciles"] = [
        {"decile": 1, "weight": 500.0, "mean_prediction": 0.11, "mean_label": 0.1, "calibration": 1.1}
        | {"interval": [1.01, 1.19]}
    ]
    return found | changes


DETAIL = {
    "by": {"site": [{"value": "<a>", "rows": 77, "base_rate": 0.3, "auc": 0.5, "intervals": {"auc": None}}]},
    "worst": {
        **{"examined": 40, "fewest_rows": 1000, "features": ["site", "tags"]},
        "slices": [
            {"feature": "tags", "value": "zoo", "rows": 1234, "mean_prediction": 0.2, "mean_label": 0.1}
            | {"calibration": 2.0, "interval": [1.6, 2.5]}
        ],
    },
}


def test_a_section_for_each_task_and_split():
    lines = [line(**DETAIL), line(weights="raw"), line("constant", auc=0.5), line(task="buy")]
    sections = prediction_sections(lines)
    assert len(sections) == 2 and "Predictions: task buy, test" in sections[1]
    first = sections[0]
    for text in ("0.7012", "0.7345", "By site", "&lt;a&gt;", "zoo", "Of 40 slices", "1.010", 'id="roc-0"'):
        assert text in first
    assert "constant" in first and "Worst calibrated" not in sections[1]


def test_what_is_undefined_is_explained():
    changes = {"undefined": {"auc": "all rows have the same label"}, "auc": None, "roc": None}
    changes |= {"groups": 10, "one_class_groups": 10, "intervals": {"auc": None}}
    [section] = prediction_sections([line(**changes)])
    assert "auc is undefined: all rows have the same label." in section and "–" in section
    assert "10 of 10 groups have rows of one label only" in section and 'id="roc-0"' not in section


def test_retrieval_models_have_none():
    assert prediction_sections([{"scorer": "model", "split": "test", "recall@10": 0.1}]) == []


def test_the_whole_report(tmp_path):
    with MetricsWriter(str(tmp_path), 0) as metrics:
        for step in (10, 20):
            for split in ("valid",) if step == 10 else ("valid", "test"):
                for found in (
                    line(split=split),
                    line("constant", split=split),
                    line(task="buy", split=split),
                ):
                    metrics.write("evaluate", step, found | (DETAIL if split == "test" else {}))
    write_report(str(tmp_path), None, [], "name: clicks")
    page = (tmp_path / "report.html").read_text()
    for text in ("Predictions: task click, test", "Predictions: task buy, valid", "AUC, ", "Log loss"):
        assert text in page
    assert "base_rate" not in page.split("Final evaluation")[0], "the mean label is no metric"
    assert "decile:" not in page and "Intervals</th>" not in page, "details stand in their section"
    events = read_metrics(str(tmp_path))
    assert {line["task"] for line in events} == {"click", "buy"}
