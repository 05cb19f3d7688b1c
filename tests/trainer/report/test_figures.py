"""Figures as HTML, as JSON, and as a browser draws them."""

import base64
import gzip
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from trainer.bench.results.page import bars, lines
from trainer.bench.timing import PHASES
from trainer.report import page
from trainer.report.figures import Curve, figure, fragment, plotly_source

pytestmark = pytest.mark.any_python

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


def test_the_library_is_the_one_that_its_name_says():
    source = gzip.decompress(base64.b64decode(plotly_source())).decode()
    assert "plotly.js (basic - minified) v4.1.1" in source and "MIT license" in source


def test_what_is_no_number_is_a_gap_and_no_text_ends_the_element():
    values = (1.5, float("nan"), float("inf"), None, np.float64(2.5))
    made = fragment("f", [{"y": values, "name": "</script><b>"}], {"height": 100})
    assert made.count("<") == 6 and made.count("</script>") == 1
    text = re.search(r">({.*})<", made)[1]
    [trace] = json.loads(text)["data"]
    assert trace == {"y": [1.5, None, None, None, 2.5], "name": "</script><b>"}


def sections() -> list[str]:
    """One figure of each kind."""
    phases = {
        f"{phase}_{kind}": 2.0
        for phase in ("forward", "gradient", "update", "total")
        for kind in ("ms", "iqr")
    }
    rows = [{"by": "a", "batch": size, "reason": "", **phases} for size in (64, 128)]
    return [
        figure(
            "curve",
            "Loss",
            [Curve("a & b", [1, 2, 3], [3.0, None, 1.0]), Curve("c", [1], [2.0], dashed=True)],
        ),
        bars("bars", "Phases", rows, ["by", "batch"]),
        lines("lines", "Steps", rows, "batch", "by", "total_ms"),
        '<button data-figure="curve" data-axis="xaxis">log</button>',
    ]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium in PATH")
def test_a_browser_draws_every_figure(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page.page("Run", "", sections(), plotly_source()))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    options.append(f"--user-data-dir={tmp_path / 'profile'}")
    done = subprocess.run([BROWSER, *options, path.as_uri()], capture_output=True, text=True, timeout=300)
    drawn = done.stdout.split('<script type="text/plain"')[0]
    assert "needs a browser" not in drawn, drawn[:3000]
    parts = re.split(r'<div id="(curve|bars|lines)"', drawn)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    assert found.keys() == {"curve", "bars", "lines"}
    assert all("main-svg" in part for part in found.values()), done.stderr[-2000:]
    traces = {name: len(re.findall(r'class="trace (?:scatter|bars)', part)) for name, part in found.items()}
    assert traces == {"curve": 2, "bars": len(PHASES), "lines": 1}
