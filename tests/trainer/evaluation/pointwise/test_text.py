"""Evaluations of ranking models as text."""

from trainer.evaluation.pointwise.text import format_predictions

METRICS = {"auc": 0.75, "log_loss": 0.4}
LINE = {
    **{"scorer": "model", "split": "test", "weights": "average", "task": "click", **METRICS},
    **{"rows": 1234, "base_rate": 0.2, "undefined": {}, "protocol": "task click: all rows"},
    "intervals": {"auc": [0.7, 0.8], "log_loss": [0.39, 0.41]},
}


def slices(number: int) -> list[dict]:
    return [{"value": f"v{i}", "rows": 10 * i, "base_rate": 0.1, **METRICS} for i in range(number)]


def test_a_table_for_each_task_with_intervals_of_the_first_model():
    lines = [
        LINE,
        LINE | {"weights": "raw", "auc": 0.76},
        LINE | {"scorer": "item_rate", "auc": 0.6},
        LINE | {"task": "buy", "groups": 12, "one_class_groups": 5},
    ]
    assert format_predictions(lines).splitlines() == [
        "task click         auc  log_loss",
        "model, average  0.7500    0.4000",
        "  from          0.7000    0.3900",
        "  to            0.8000    0.4100",
        "model, raw      0.7600    0.4000",
        "item rate       0.6000    0.4000",
        "",
        "test: 1,234 rows, mean label 0.2000",
        "task click: all rows",
        "",
        "task buy     auc  log_loss",
        "model     0.7500    0.4000",
        "  from    0.7000    0.3900",
        "  to      0.8000    0.4100",
        "",
        "test: 1,234 rows, mean label 0.2000, 12 groups; 5 of them have one label only and no AUC, and are "
        "left out",
        "task click: all rows",
    ]


def test_what_is_undefined_is_a_dash_with_a_reason():
    line = LINE | {"auc": None, "undefined": {"auc": "all rows have the same label"}}
    text = format_predictions([line | {"intervals": {"auc": None, "log_loss": [0.3, 0.5]}}]).splitlines()
    rows = [["model", "-", "0.4000"], ["from", "-", "0.3000"], ["to", "-", "0.5000"]]
    assert [row.split() for row in text[1:4]] == rows
    assert "auc is undefined: all rows have the same label" in text
    without = format_predictions([LINE | {"intervals": {"auc": None, "log_loss": None}}])
    assert "from" not in without


def test_slices_and_the_worst_of_them():
    worst = {"examined": 7, "fewest_rows": 100, "features": ["site"], "slices": []}
    text = format_predictions([LINE | {"by": {"site": slices(13)}, "worst": worst}])
    assert "site  rows  mean label     auc  log_loss" in text
    shown = [line.split()[0] for line in text.splitlines() if line.startswith("v")]
    assert shown == [*(f"v{i}" for i in range(10)), "v12"], "the last one is that of all others"
    assert "(2 further values are in the JSON and the report)" in text
    assert "No slice is calibrated worse than chance explains, of 7 slices with at least 100 rows." in text
    one = {"feature": "site", "value": "a", "rows": 200, "mean_prediction": 0.4, "mean_label": 0.2}
    found = worst | {"slices": [one | {"calibration": 2.0, "interval": [1.5, 2.5]}]}
    text = format_predictions([LINE | {"worst": found}])
    assert "site" in text and "2.0000  1.5000  2.5000" in text and "(of 7 slices" in text
