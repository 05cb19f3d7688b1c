"""report.html: one file, no network, everything escaped, the run's figures in it."""

import html.parser
import json
import re

import pytest

from configs.errors import DataError
from trainer.report import page as report_page
from trainer.report.document import write_report
from trainer.report.facts import checkpoint_facts, training_seconds
from trainer.report.figures import MAX_POINTS, Curve, figure, smoothed

PROTOCOL = "full ranking of 1,000 items"
EVIL = "<script>alert('1')</script>"


class Page(html.parser.HTMLParser):
    """Elements, text by element and the references that a browser would load."""

    def __init__(self, content):
        super().__init__()
        self.opened, self.references, self.text, self.scripts, self._stack = [], [], [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.opened.append(tag)
        self._stack.append(tag)
        self.references += [v for k, v in attributes if k in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag):
        while self._stack and self._stack.pop() != tag:
            pass

    def handle_data(self, data):
        inside = self._stack[-1] if self._stack else ""
        (self.scripts if inside == "script" else self.text).append(data)


def _line(kind, step, **values):
    return {"step": step, "time": 1.79e9 + step, "kind": kind} | values


def _evaluation(step, scorer="model", weights="average", split="valid", **values):
    names = {"split": split, "scorer": scorer, "weights": weights, "protocol": PROTOCOL}
    return _line("evaluate", step, **names, users=1234567, seconds=1.2, **values)


def _run():
    lines = [_line("run", 0, event="start", hosts=1)]
    for step in range(100, 1001, 100):
        train = {"loss": 100.0 / step, "learning_rate": 0.001, "examples_per_second": 123456.7}
        lines.append(_line("train", step, **train, input_wait_share=0.02, peak_rss_bytes=3 * 2**30))
    for step in (500, 1000):
        lines.append(_evaluation(step, **{"hr@10": step / 4000, "ndcg@10": step / 8000}))
        lines.append(_evaluation(step, weights="raw", **{"hr@10": step / 5000, "ndcg@10": step / 9000}))
    lines.append(_evaluation(1000, "popularity", None, **{"hr@10": 0.0625, "ndcg@10": 0.03125}))
    return [*lines, _line("run", 1000, event="end")]


def _write(run_dir, lines=(), dataset=None, tables=(), config="name: my-run\n"):
    if lines:
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = write_report(str(run_dir), dataset, list(tables), config)
    assert path == f"{run_dir}/report.html"
    return (run_dir / "report.html").read_text()


def _figures(content):
    """{element id: (traces, layout)}, the JSON that plotly.js is given."""
    found = re.findall(r'<script type="application/json" data-plot="([^"]+)">(.*?)</script>', content)
    plots = {identity: json.loads(text) for identity, text in found}
    assert len(plots) == len(found) and all(f'<div id="{identity}" ' in content for identity in plots)
    return {identity: (plot["data"], plot["layout"]) for identity, plot in plots.items()}


def test_figures_hold_the_runs_numbers(tmp_path):
    figures = _figures(_write(tmp_path, _run()))
    [loss] = figures["loss"][0]
    assert loss["x"] == list(range(100, 1001, 100))
    assert loss["y"] == [100.0 / step for step in loss["x"]]
    metrics = {layout["title"]["text"]: traces for traces, layout in figures.values() if "title" in layout}
    average, raw, popularity = metrics["HR@10"]
    assert (average["name"], average["x"], average["y"]) == ("model average", [500, 1000], [0.125, 0.25])
    assert (raw["name"], raw["y"]) == ("model raw", [0.1, 0.2])
    assert popularity["line"]["dash"] == "dash"
    assert (popularity["x"], popularity["y"]) == ([500, 1000], [0.0625, 0.0625])
    assert metrics["NDCG@10"][0]["y"] == [0.0625, 0.125]
    assert metrics["Examples per second"][0]["y"] == [123456.7] * 10
    assert metrics["Learning rate"][0]["y"] == [0.001] * 10


def test_page_has_its_final_figures_and_sections(tmp_path):
    tables = [{"name": "user", "rows": 25000001, "bytes": 3 * 2**30, "rows_touched_share": 0.98765}]
    page = Page(_write(tmp_path, _run(), tables=tables))
    for text in (
        "my-run",
        "HR@10, valid",
        "0.2500",
        "123,457",
        "3 GiB",
        "25,000,001",
        "98.77 %",
        "1,234,567",
    ):
        assert text in page.text, text
    for title in (
        "Loss",
        "Ranking metrics",
        "Final evaluation",
        "Embedding tables",
        "Dataset",
        "Configuration",
    ):
        assert title in page.text
    assert f"valid: {PROTOCOL}" in page.text
    assert "16 min 40 s" in page.text  # 1,000 seconds from start to end


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    content = _write(tmp_path, _run())
    page = Page(content)
    assert page.references == []
    assert not {"link", "img", "iframe", "base"} & set(page.opened)
    style = re.search(r"<style>(.*?)</style>", content, re.S).group(1)
    assert "url(" not in style and "@import" not in style
    assert content.count('id="plotly"') == 1 and len(content) < 700_000


def test_everything_from_data_is_escaped(tmp_path):
    lines = [
        *_run(),
        _evaluation(1000, split=EVIL, scorer=EVIL, **{f"{EVIL}@10": 0.5}),
        _evaluation(1000, weights=EVIL, **{"hr@10": 0.5}),
        _line("train", 1100, **{EVIL: 1.5}),
        _line("run", 1100, event=EVIL, **{EVIL: EVIL}),
    ]
    dataset = {"splits": {EVIL: {"rows": 1}}, "tables": {EVIL: {"ids": EVIL}}, "rejected": {EVIL: 1}}
    content = _write(
        tmp_path, lines, dataset, [{"name": EVIL, EVIL: EVIL}], f'name: "{EVIL}"\nlabel: "{EVIL}"\n'
    )
    page = Page(content)
    assert "alert('1')</script>" not in content
    assert page.opened.count("script") == 2 + len(_figures(content))  # plotly.js, ours, one per figure
    assert page.opened.count("section") == 8
    assert EVIL in page.text  # it is shown as it is
    assert f'name: "{EVIL}"\nlabel: "{EVIL}"\n' in page.text


def test_empty_run(tmp_path):
    content = _write(tmp_path, config="")
    page = Page(content)
    assert tmp_path.name in page.text  # the directory names a run that has no name
    assert page.text.count("No evaluations recorded yet.") == 2
    assert "No summary of the dataset." in page.text
    assert page.scripts == [] and len(content) < 20_000


def test_single_point(tmp_path):
    lines = [
        _line("train", 100, loss=0.5),
        _evaluation(100, **{"hr@10": 0.25}),
        _evaluation(100, "popularity", None, **{"hr@10": 0.5}),
    ]
    figures = _figures(_write(tmp_path, lines))
    assert figures["loss"][0][0]["mode"] == "lines+markers"
    model, baseline = figures["metric-0-0"][0]
    assert (model["x"], model["y"]) == ([100], [0.25])
    assert baseline["x"] == [0, 100]  # a level line has a length


def test_split_evaluated_once_stands_in_the_table_only(tmp_path):
    lines = [*_run(), _evaluation(1000, split="test", cold_targets=4321, **{"hr@10": 0.375})]
    page = Page(_write(tmp_path, lines))
    assert "Evaluated only once: see Final evaluation." in page.text
    assert "0.3750" in page.text and "HR@10, test" in page.text
    assert "Cold targets" in page.text and "4,321" in page.text


def test_repeated_evaluation_counts_once_and_the_last_one(tmp_path):
    lines = [_evaluation(100, **{"hr@10": 0.1}), _evaluation(100, **{"hr@10": 0.2})]
    [model] = _figures(_write(tmp_path, lines))["metric-0-0"][0]
    assert (model["x"], model["y"]) == ([100], [0.2])


def test_loss_that_is_not_finite_is_a_gap_and_a_warning(tmp_path):
    lines = [_line("train", step, loss=None if step == 3 else 1.0) for step in range(1, 31)]
    content = _write(tmp_path, lines)
    raw, mean = _figures(content)["loss"][0]
    assert raw["y"][2] is None and mean["y"][2] is None and mean["y"][3] == pytest.approx(1.0)
    assert "The loss was not finite at 1 recorded step, first at step 3." in Page(content).text


def test_a_healthy_run_has_no_warnings(tmp_path):
    assert 'class="warn"' not in _write(tmp_path, _run())


def test_what_figures_mean_stands_in_words(tmp_path):
    lines = [_line("train", step, loss=8.4 - step / 1e5) for step in (10, *range(100, 1001, 100))]
    lines.append(_line("run", 0, event="finding", finding="polyak.decay 0.999 averages too much"))
    lines.append(_evaluation(1000, split="test", **{"hr@10": 0.05, "ndcg@10": 0.02}))
    lines.append(_evaluation(1000, split="test", weights="raw", **{"hr@10": 0.2, "ndcg@10": 0.1}))
    lines.append(_evaluation(1000, "popularity", None, split="test", **{"hr@10": 0.06, "ndcg@10": 0.03}))
    end = _line("run", 1000, event="end")
    content = _write(tmp_path, [*lines, end])
    assert content.count('class="warn"') == 4
    for words in (
        "polyak.decay 0.999 averages too much",
        "The loss barely changed, from 8.4",
        "test: The averaged weights are worse than the raw weights (hr@10 0.0500 against 0.2000)",
        "test: The model is no better than popularity",
    ):
        assert words in content
    unfinished = _write(tmp_path, lines)
    assert unfinished.count('class="warn"') == 1, "a run that goes on may still get better"


def test_dataset_summary(tmp_path):
    dataset = {
        "source_rows": 21200000,
        "splits": {"train": {"rows": 20000263, "files": [{}, {}], "min_timestamp": 0, "max_timestamp": None}},
        "tables": {"item": {"ids": "hash", "rows": 59048, "oov": None}},
        "rejected": {"missing_role": 1717},
        "users": {"rows": 138493, "files": []},
        "source": {"sides": [{"paths": ["films.csv"]}]},
        "sides": [{"of": "item", "rows": 4321, "rejected": {"bad_year": 5}, "missing": 2468}],
    }
    text = Page(_write(tmp_path, dataset=dataset)).text
    for value in (
        "21,200,000",
        "20,000,263",
        "2",
        "1970-01-01 00:00:00 UTC",
        "59,048",
        "missing_role",
        "1,717",
        "138,493",
        *("films.csv", "4,321", "2,468"),
    ):
        assert value in text, value


def test_damaged_metrics_are_an_error_and_the_old_report_stays(tmp_path):
    old = _write(tmp_path, _run())
    (tmp_path / "metrics.jsonl").write_text('garbage\n{"step": 1}\n')
    with pytest.raises(DataError, match="line 1"):
        write_report(str(tmp_path), None, [], "")
    assert (tmp_path / "report.html").read_text() == old
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl", "report.html"}


def test_time_between_runs_is_not_run_time():
    lines = [
        {"time": 100, "kind": "run", "event": "start"},
        {"time": 160, "kind": "train"},
        {"time": 5000, "kind": "run", "event": "resume"},
        {"time": 5010, "kind": "evaluate"},
        {"time": 5020, "kind": "run", "event": "end"},
        {"time": 90000, "kind": "evaluate"},
    ]
    assert training_seconds(lines) == 80
    assert training_seconds([]) == 0


def test_long_curves_are_thinned_but_keep_their_spikes():
    values = [1.0] * 100_000
    values[51_234] = 9.0
    content = figure("f", "", [Curve("loss", range(100_000), values)])
    [trace] = _figures(content)["f"][0]
    assert len(trace["x"]) <= MAX_POINTS + 2
    assert trace["x"][trace["y"].index(9.0)] == 51_234
    assert trace["x"] == sorted(trace["x"]) and trace["x"][-1] == 99_999


def test_smoothing_keeps_a_level_curve_level():
    curve = smoothed(Curve("loss", range(200), [3.0] * 200), "smoothed")
    assert curve.values == pytest.approx([3.0] * 200)


@pytest.mark.parametrize(
    "value, key, text",
    [
        (1234567, "", "1,234,567"),
        (0.123456, "", "0.1235"),
        (0.00031234567, "", "0.0003123"),
        (12345.678, "", "12,346"),
        (0, "", "0"),
        (0.5, "input_wait_share", "50 %"),
        (41 * 2**30 + 2**29, "peak_rss_bytes", "41.50 GiB"),
        (12, "bytes", "12 B"),
        (11.234, "seconds", "11.23 s"),
        (3725, "eval_seconds", "1 h 02 min"),
        (0, "time", "1970-01-01 00:00:00 UTC"),
        (1e40, "timestamp", "1e+40"),
        (True, "", "yes"),
        (None, "bytes", "–"),
        (float("nan"), "bytes", "not finite"),
        ([10, 20], "", "10, 20"),
        ({"a": 1}, "", "a: 1"),
    ],
)
def test_numbers_read_well(value, key, text):
    assert report_page.number(value, key).replace("1.000e+40", "1e+40") == text


def test_labels_read_well():
    names = ["ndcg@10", "weight_norm_p99", "peak_rss_bytes", "rows_touched_share", "loss"]
    labels = [report_page.label(name) for name in names]
    assert labels == ["NDCG@10", "Weight norm p99", "Peak RSS size", "Rows touched", "Loss"]


def test_checkpoints_are_summed_up(tmp_path):
    def saved(kind, number):
        facts = {"rows": number, "bytes": number, "blocked_seconds": number, "written_seconds": 9.0}
        return {"step": 1, "time": 1, "kind": "run", "event": "checkpoint", "checkpoint": kind} | facts

    lines = [
        saved("full", 2048),
        *(saved("increment", number) for number in (2, 8, 5)),
        {"step": 1, "time": 9, "kind": "run", "event": "resume", "restore_seconds": 1.5, "bytes": 4096},
    ]
    full, increment, restored = checkpoint_facts(lines)
    assert (full["count"], full["bytes"], full["blocked_seconds"]) == (1, 2048, 2048)
    assert (increment["count"], increment["bytes"], increment["blocked_seconds"]) == (3, 5, 5)
    assert restored == {"checkpoints": "restored", "count": 1, "bytes": 4096, "restore_seconds": 1.5}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(str(tmp_path), None, [], "name: x")
    text = (tmp_path / "report.html").read_text()
    for part in ("<h3>Checkpoints</h3>", "Blocked seconds", "Restore seconds", "2 KiB"):
        assert part in text, part
    assert text.count("increment") == 1, "one row for all increments"
    assert checkpoint_facts([]) == []
