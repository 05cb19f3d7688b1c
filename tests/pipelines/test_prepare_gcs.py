"""prepare with its source and its dataset in a bucket: the same files as on a disk."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.errors import DataError
from configs.manifest import load_dataset
from configs.system.lease import Lease
from pipelines.publish import PREVIOUS
from pipelines.stages.files import DIRECTORIES
from pipelines.workspace import workspace
from tests.support.prepared import content, run
from tests.support.tf_examples import write_examples

pytestmark = pytest.mark.any_python

ROLES = {"user": "u", "item": "i", "timestamp": "t"}
ROWS = [{"u": f"u{n % 7}", "i": f"i{n * n % 11}", "t": 1000 + n} for n in range(300)]


def write_source(path, kind: str) -> dict:
    """Writes ROWS as two files in a directory; returns the section."""
    path.mkdir()
    for part in range(2):
        rows = ROWS[part * 150 : part * 150 + 150]
        name = path / f"part-{part}"
        if kind == "parquet":
            parquet.write_table(pa.Table.from_pylist(rows), name, row_group_size=40)
        elif kind == "jsonl":
            name.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif kind == "tfrecord":
            write_examples(name, rows)
        else:
            text = "u\ti\tt\n" + "".join("{u}\t{i}\t{t}\n".format(**row) for row in rows)
            name.with_suffix(".gz" if kind == "gzip" else "").write_bytes(
                gzip.compress(text.encode()) if kind == "gzip" else text.encode()
            )
    section = {"kind": kind, "paths": [f"{path}/part-*"], "roles": ROLES}
    if kind in ("parquet", "jsonl", "tfrecord"):
        return section
    return section | {"kind": "delimited", "delimiter": "\t"}


@pytest.mark.parametrize(
    "kind",
    [
        "parquet",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("delimited", "gzip", "jsonl", "tfrecord")),
    ],
)
def test_sources_of_all_kinds(bucket, tmp_path, kind):
    source = write_source(tmp_path / "raw", kind)
    for path in (tmp_path / "raw").iterdir():
        bucket.write(f"raw/{path.name}", path.read_bytes())
    dataset = {"split": {"kind": "leave_last_out"}, "num_shards": 2}
    sizes = {"chunk_bytes": 700, "user_shards": 3}
    run(source, dataset | {"path": str(tmp_path / "out")}, **sizes)
    remote = {**source, "paths": ["gs://bucket/raw/part-*"]}
    for seed in (1, 0):  # the second replaces the first
        run(remote, dataset | {"path": "gs://bucket/out", "seed": seed}, **sizes)
    local = content(tmp_path / "out")
    names = {name.removeprefix("out/") for name in bucket.names("out/")}
    replaced = {
        f"{part}/{json.loads(bucket.read('out/' + PREVIOUS))['fingerprint'][:8]}" for part in DIRECTORIES
    }
    assert {name for name in names if name.rpartition("-")[0] not in replaced} == {*local, PREVIOUS}
    for name in set(local) - {"dataset.json"}:
        assert bucket.read(f"out/{name}") == local[name]
    assert load_dataset("gs://bucket/out").fingerprint == load_dataset(str(tmp_path / "out")).fingerprint


def test_two_jobs_do_not_write_one_dataset(bucket):
    bucket.write("out/.prepare-dead/spool/file", b"of a killed job")
    other = Lease("gs://bucket/out/.prepare.lock", renew_seconds=0.2)
    with pytest.raises(DataError, match="another `lazytower prepare` is writing it .host .*, pid "):
        with workspace("gs://bucket/out"):
            pass
    other.close()
    with workspace("gs://bucket/out") as (path, _):
        assert path.startswith("gs://bucket/out/.prepare-")
        assert bucket.names() == ["out/.prepare.lock"], "the killed job's files are gone"
    assert bucket.names() == []
