"""prepare on real clusters of Flink and Spark, on this machine: the bytes of the in-process runner.

CI runs each cluster once; scripts/beam_clusters.sh runs both with files on disk and in a bucket.
"""

import os

import pytest

from pipelines.prepare import prepare
from tests.pipelines.runners.test_runners import ROWS, compare
from tests.pipelines.test_prepare import write_tsv
from tests.support.beam_clusters import CLUSTERS
from tests.support.jars import MissingToolError, class_path
from tests.support.prepared import configure, content

BOTH = bool(os.environ.get("BEAM_CLUSTERS_BOTH"))
SPLIT = {"kind": "leave_last_out", "min_rows": 4}


@pytest.fixture
def start(tmp_path):
    """Starts a cluster by its name; a context manager of its flags."""
    directory = tmp_path / "cluster"
    directory.mkdir()

    def started(name: str, environment: dict[str, str] | None = None):
        try:
            class_path(name)
        except MissingToolError as error:
            pytest.skip(str(error))
        return CLUSTERS[name](directory, environment)

    yield started
    for log in sorted(directory.glob("*.log")):  # shown if the test fails
        print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flink", "spark"] if BOTH else ["flink"])
def test_files_on_a_shared_disk(tmp_path, start, name):
    with start(name) as flags:
        compare(tmp_path, flags)
    assert "sdk harness starting" in (tmp_path / "cluster" / "sdk_workers.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flink", "spark"] if BOTH else ["spark"])
def test_files_in_a_bucket(tmp_path, bucket, start, name):
    options = {"split": SPLIT, "history_length": 3, "num_shards": 3}
    local = write_tsv(tmp_path / "in.tsv", ROWS)
    here = configure(local, options | {"path": str(tmp_path / "here")})
    prepare(here.source, here.dataset)
    bucket.write("in.tsv", (tmp_path / "in.tsv").read_bytes())
    there = configure(local | {"paths": ["gs://bucket/in.tsv"]}, options | {"path": "gs://bucket/out"})
    (tmp_path / "run.yaml").write_text(there.model_dump_json())
    # Google's hosts are behind a proxy here, and gRPC would look for the job server there too.
    bucket.environment |= {"PYTHONPATH": os.getcwd(), "no_grpc_proxy": "localhost,127.0.0.1"}
    with start(name, bucket.environment) as flags:
        bucket.lazytower("prepare", "--config", str(tmp_path / "run.yaml"), *flags)
    expected = content(tmp_path / "here")
    assert {name.removeprefix("out/") for name in bucket.names("out/")} == set(expected)
    for name in set(expected) - {"dataset.json"}:  # it names the source's file
        assert bucket.read(f"out/{name}") == expected[name], name
