"""The summary that a job leaves for its command: it is read back unchanged, and reading it runs no code."""

import json
import pathlib
import pickle

import numpy as np
import pytest

from configs.dataset_parts import DistributionInfo
from configs.errors import DataError
from pipelines.sources.reader import Reject
from pipelines.stages.files import WrittenFile
from pipelines.stages.ids import TableIds
from pipelines.stages.plan import Plan
from pipelines.stages.stats import Stats
from pipelines.statistics.moments import Moments
from pipelines.summary import dump_summary, load_summary

SPREAD = {"age": DistributionInfo(values=5, empty=1, boundaries=[2.0], counts=[1, 3])}


def content() -> bytes:
    stats = Stats()
    stats.rows, stats.kept = np.int64(7), 5
    stats.add_rejects([Reject(0, "events.csv", 3, "bad_label", "x")])
    tables = {"user": TableIds(3, 4, 1, {0: np.arange(2)})}
    info = {"rows": 5, "bytes": 100, "crc32c": "0" * 8}
    files = [
        WrittenFile("train", 1, info, -3, 9, {"age": Moments(5, 0.1, 2.5)}),
        WrittenFile("train", 0, info),
    ]
    moments = {"age": Moments(5, 2.5, 3.5)}
    plan = Plan(None, (4, 5), {"user": ["b"]}, 2, 5)
    return dump_summary(stats, plan, tables, {"age": [1.5, 3.0]}, moments, SPREAD, files)


def test_it_comes_back():
    stats, plan, tables, quantiles, moments, distributions, files = load_summary(content(), "summary.json")
    assert (stats.rows, stats.kept, stats.rejected["bad_label"], stats.fatal) == (7, 5, 1, None)
    assert plan == Plan(None, (4, 5), {}, 2, 5)
    assert tables == {"user": TableIds(3, 4, 1, {})}
    assert quantiles == {"age": [1.5, 3.0]}
    assert moments == {"age": Moments(5, 2.5, 3.5)}
    assert distributions == SPREAD
    assert [file.number for file in files] == [0, 1]
    assert files[1].moments["age"] == Moments(5, 0.1, 2.5) and files[1].min_timestamp == -3


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the summary ran code",))


def changed(*path, value) -> bytes:
    document = json.loads(content())
    inner = document
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "torn",
    [
        pickle.dumps(Bomb()),
        b"",
        content()[:-20],
        b"[" * 100_000,
        b"null",
        b"{}",
        b'{"stats": [], "plan": {}, "tables": {}, "files": []}',
        changed("stats", "rows", value="many"),
        changed("stats", "merge", value="many"),
        changed("plan", "cuts", value=[1]),
        changed("tables", "user", value=None),
        changed("quantiles", value=[1]),
        changed("files", 0, "directory", value="../.."),
        changed("files", 0, "number", value="../../x"),
    ],
    ids=range(14),
)
def test_what_is_torn_or_forged_is_one_line(torn):
    with pytest.raises(
        DataError, match=r"^gs://b/summary.json: not a valid job summary .*rerun the same command$"
    ):
        load_summary(torn, "gs://b/summary.json")


def test_nothing_is_unpickled():
    """Only Beam's runner moves pickles, through its own channels."""
    root = pathlib.Path(__file__).parents[2]
    for package in ("configs", "pipelines", "trainer"):
        for path in (root / package).rglob("*.py"):
            text = path.read_text()
            assert "import pickle" not in text and "allow_pickle" not in text.replace(
                "allow_pickle=False", ""
            )
