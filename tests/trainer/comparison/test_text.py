"""Tables of groups as text, as values and in the page: which metric they show, and of which groups."""

import dataclasses
import types

import numpy as np
import pytest

from configs.sections.evaluation import EvaluateConfig
from trainer.comparison.comparing import ComparedRun, RunComparison
from trainer.comparison.differences import differences
from trainer.comparison.groups import EVERYONE, Group, GroupTable
from trainer.comparison.measured import MeasuredRun
from trainer.comparison.page import comparison_page
from trainer.comparison.text import compared_text, comparison_values
from trainer.evaluation.pointwise.figures import Bootstrap
from trainer.evaluation.segments.sums import SegmentSums

pytestmark = pytest.mark.any_python

TABLES = {
    "site": GroupTable("site <of> the user", "users"),
    "brand": GroupTable("brand of the item", "targets"),
}


def measured(shift: float) -> MeasuredRun:
    """A run with hr@5 of users and recall@5 of targets, by 30 sites and two brands, of which b1 is empty."""
    draw = np.random.default_rng(0).random(600)
    sums = {"": SegmentSums(1), "site": SegmentSums(30), "brand": SegmentSums(2)}
    segments = {"": np.zeros(600, np.int64), "site": np.arange(600) % 30, "brand": np.zeros(600, np.int64)}
    for table, own in sums.items():
        metrics = ("recall@1", "recall@5") if table == "brand" else ("hr@1", "hr@5", "recall@5")
        values = {name: place + draw + shift for place, name in enumerate(metrics)}
        own.add(segments[table], np.arange(600) % 256, np.ones(600), values)
    names = {"": [EVERYONE], "site": [f"s{number}" for number in range(30)], "brand": ["b0", "b1"]}
    figures = {
        Group("", table, name): found
        for table, own in sums.items()
        for name, found in zip(
            names[table], own.sampled(Bootstrap(EvaluateConfig(bootstrap=20))), strict=True
        )
    }
    return MeasuredRun(1, "newest", "full ranking", "users", figures, TABLES)


@pytest.fixture
def comparison() -> RunComparison:
    runs: list[ComparedRun] = []
    for name, shift in (("one", 0.0), ("two", 0.5)):
        contender = types.SimpleNamespace(
            name=name, config=types.SimpleNamespace(output=types.SimpleNamespace(path=name))
        )
        run = measured(shift)
        found = differences(runs[0].measured, run, 0.95) if runs else []
        runs.append(ComparedRun(contender, run, [], found))
    return RunComparison("test", runs, [], "hr@5", 0.95, 20)


def test_tables_of_groups(comparison):
    lines = compared_text(comparison).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("site <of> the user  users"))
    assert "hr@5" in lines[start] and "recall" not in lines[start]
    assert lines[start + 1].split()[:3] == ["s0", "20", "one"]
    assert lines[start + 2].split()[0] == "two" and lines[start + 2].split()[2] == "+0.5000"
    assert lines[start + 1 + 2 * 23] == "(7 further segments are in the JSON and the page)"
    assert lines[start + 2 * 22].split()[0] == "two" and lines[start + 2 * 21 + 1].split()[0] == "s28"
    start = next(place for place, line in enumerate(lines) if line.startswith("brand of the item  targets"))
    assert "recall@5" in lines[start], "targets have no HR, which is their Recall"
    assert lines[start + 1].split()[:3] == ["b0", "600", "one"]
    assert lines[start + 3].split() == ["b1", "0", "one", "-"], "no metric, and no line of the other run"
    assert any(line.endswith("32 segments are compared here.") for line in lines)


def test_pages_and_values_have_all_groups(comparison):
    page = comparison_page(comparison)
    assert "<h2>Segments: site &lt;of&gt; the user</h2>" in page
    for number in range(30):
        assert f"<h3>s{number} (20 users)</h3>" in page
    found = comparison_values(comparison)
    assert found["tables"]["brand"] == {"title": "brand of the item", "unit": "targets"}
    places = [(one["table"], one["group"]) for one in found["runs"][0]["metrics"]]
    assert len(set(places)) == len(places) == 33
    assert {one["table"] for one in found["runs"][1]["differences"]} == {"", "site", "brand"}


def test_a_run_without_tables(comparison):
    runs = [
        dataclasses.replace(run, measured=dataclasses.replace(run.measured, tables={}))
        for run in comparison.runs
    ]
    text = compared_text(dataclasses.replace(comparison, runs=runs))
    assert "site" not in text and "hr@5" in text
