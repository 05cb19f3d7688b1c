"""Lists and segments for the terminal, and in the report."""

import pytest

from trainer.commands.evaluate import format_results
from trainer.evaluation.segments.text import figure_text, with_interval
from trainer.report.segments import retrieval_sections

pytestmark = pytest.mark.any_python


def line(scorer="model", weights="average", **changes) -> dict:
    found = {"scorer": scorer, "weights": weights, "split": "test", "protocol": "full ranking", "users": 70}
    found |= {"targets": 90, "cold_targets": 1, "recall@10": 0.1, "recall@20": 0.2, "mrr": 0.3}
    found |= {"intervals": {"recall@10": [0.05, 0.15], "recall@20": None, "coverage@20": [0.4, 0.6]}}
    found |= {"lists": {"coverage@10": 0.25, "coverage@20": 0.5, "popularity@20": 1234.56}}
    return found | {"resampling": "95 % intervals"} | changes


def segment(value: str, **sizes) -> dict:
    metrics = {"hr@20": 0.9, "recall@20": 0.25, "ndcg@20": 0.125, "mrr": 0.5}
    return {"value": value, **sizes, **metrics, "intervals": {"recall@20": [0.2, 0.3], "mrr": None}}


BY = {
    "activity/users": [segment("1 to 3", users=1234, targets=2000)],
    "brand": [segment(f"b{number}", targets=number + 1) for number in range(40)],
}


def test_the_table_of_a_terminal():
    text = format_results([line(by=BY), line("popularity")])
    rows = text.splitlines()
    assert rows[1].split() == ["model", "0.1000", "0.2000", "0.3000"]
    assert rows[2].split() == ["from", "0.0500", "-", "-"] and rows[3].split() == ["to", "0.1500", "-", "-"]
    assert rows[4].split() == ["popularity", "0.1000", "0.2000", "0.3000"]
    assert rows[6].split() == ["lists", "coverage@20", "popularity@20"]
    assert "0.5000 (0.4000 to 0.6000)        1,234.6" in rows[7] and "coverage@10" not in text
    assert "train rows of the user" in text and "brand of the target item" in text
    assert "1,234    2,000  0.2500 (0.2000 to 0.3000)" in text and "hr@20" not in text
    assert "(17 further segments are in the JSON and the report)" in text
    assert "95 % intervals" in text and "There is no interval below 10 blocks" in text


def test_lines_of_before_there_were_intervals():
    old = line()
    for name in ("intervals", "lists", "resampling"):
        del old[name]
    text = format_results([old])
    assert text.splitlines()[1].split() == ["model", "0.1000", "0.2000", "0.3000"]
    assert "from" not in text and "lists" not in text
    assert retrieval_sections([old]) == []


def test_sections_of_the_report():
    [section] = retrieval_sections([line(by=BY, step=3), line("popularity", step=3)])
    for text in (
        "0.1500",
        "Segments: brand of the target item",
        "b39",
        "1,234",
        "95 % intervals",
        "Coverage@10",
    ):
        assert text in section
    assert "popularity" in section and "Recall@20 from" in section
    predictions = line(task="click")
    assert retrieval_sections([predictions]) == []


def test_figures_as_text():
    assert figure_text(None) == "-" and figure_text(12345.678) == "12,345.7"
    assert (
        with_interval(0.5, [0.25, 0.75]) == "0.5000 (0.2500 to 0.7500)" and with_interval(None, None) == "-"
    )
