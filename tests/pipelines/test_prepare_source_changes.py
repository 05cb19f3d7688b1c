"""Files that are edited, cut, swapped or deleted while `prepare` runs: detected, or without any effect.

Each trial draws a kind of source, a change and the moment of it from a seed. Afterwards either nothing is
published and one line names a changed file, or the dataset equals that of the content before or after.
"""

import gzip
import os
import random
import shutil
import threading

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.errors import DataError
from pipelines.sources import identity, text
from pipelines.sources import parquet as parquet_source
from pipelines.sources.listing import files
from tests.support.prepared import run
from tests.support.tf_examples import write_examples

pytestmark = pytest.mark.any_python

KINDS = ("delimited", "gzip", "jsonl", "parquet", "tfrecord")
MOMENTS = ("listed", "looked", "checksum", "count", "read", "piece", "end")
SIZES = {"chunk_bytes": 350, "chunk_rows": 20, "user_shards": 2, "threads": 1}
SECTION = {"split": {"kind": "leave_last_out"}, "num_shards": 1}


def rows(rng: random.Random, count: int = 50) -> list[dict]:
    return [{"user": f"u{rng.randrange(9)}", "item": f"i{rng.randrange(10, 99)}"} for _ in range(count)]


def encode(kind: str, found: list[dict], path) -> None:
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(found), path, row_group_size=20)
        return
    if kind == "tfrecord":
        write_examples(path, found)
        return
    form = '{{"user": "{user}", "item": "{item}"}}' if kind == "jsonl" else "{user},{item}"
    lines = [] if kind == "jsonl" else ["user,item"]
    data = "".join(line + "\n" for line in [*lines, *(form.format(**row) for row in found)]).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if kind == "gzip" else data)


def write(kind: str, rng: random.Random, directory) -> dict:
    """Three files; returns the section."""
    directory.mkdir()
    for number in range(3):
        encode(kind, rows(rng), directory / f"part-{number}")
    return {"kind": "delimited" if kind == "gzip" else kind, "paths": [f"{directory}/part-*"]}


# Each changes a file; the function that it returns, or None, undoes it at a later moment.
def edit(path, rng, kind):
    data = path.read_bytes()
    digits = [i for i in range(len(data) - 4, 0, -1) if data[i - 1 : i] == b"i" and data[i : i + 1].isdigit()]
    at = rng.choice(digits) if digits and kind in ("delimited", "jsonl") else rng.randrange(len(data))
    path.write_bytes(data[:at] + b"7" + data[at + 1 :])


def edit_in_place_and_restore(path, rng, kind):
    before, data = os.stat(path), path.read_bytes()
    edit(path, rng, kind)

    def restore():
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return restore


def edit_and_keep_times(path, rng, kind):
    before = os.stat(path)
    edit(path, rng, kind)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def append(path, rng, kind):
    with open(path, "ab") as file:
        file.write(b"u1,i1\n" if kind == "delimited" else path.read_bytes())


def cut(path, rng, kind):
    os.truncate(path, rng.randrange(path.stat().st_size))


def empty(path, rng, kind):
    path.write_bytes(b"")


def replace(path, rng, kind):
    encode(kind, rows(rng), path.with_name("new"))
    os.replace(path.with_name("new"), path)


def swap(path, rng, kind):
    other = next(p for p in sorted(path.parent.glob("part-*")) if p != path)
    os.rename(path, path.with_name("held"))
    os.rename(other, path)
    os.rename(path.with_name("held"), other)


def swap_and_swap_back(path, rng, kind):
    swap(path, rng, kind)
    return lambda: swap(path, rng, kind)


def delete(path, rng, kind):
    path.unlink()


def delete_and_restore(path, rng, kind):
    os.rename(path, path.with_name("held"))
    return lambda: os.rename(path.with_name("held"), path)


def become_link(path, rng, kind):
    encode(kind, rows(rng), path.with_name("target"))
    path.unlink()
    path.symlink_to("target")


def touch(path, rng, kind):
    os.utime(path)


def hard_link(path, rng, kind):
    os.link(path, path.with_name("backup"))


def add_a_file(path, rng, kind):
    encode(kind, rows(rng), path.with_name("part-9"))


CHANGES = (
    edit, edit_in_place_and_restore, edit_and_keep_times, append, cut, empty, replace, swap,
    swap_and_swap_back, delete, delete_and_restore, become_link, touch, hard_link, add_a_file,
)  # fmt: skip


class Moment:
    """Calls functions when the job passes a moment for the n-th time."""

    def __init__(self, name: str, number: int, *actions):
        self._name, self._number, self._actions = name, number, list(actions)
        self._lock = threading.Lock()

    def passed(self, name: str) -> None:
        with self._lock:
            if name != self._name:
                return
            self._number -= 1
            if self._number < 0 and self._actions:
                later = self._actions.pop(0)()
                self._actions += [later] if later else []

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Puts itself between the steps of the job."""

        def around(owner, name, before=None, after=None):
            function = getattr(owner, name)

            def wrapped(*args, **options):
                if before:
                    self.passed(before)
                result = function(*args, **options)
                if after:
                    self.passed(after)
                return result

            patch.setattr(owner, name, wrapped)

        around(files, "list_files", after="listed")
        around(identity, "with_content", after="checksum")
        around(identity, "check_unchanged", before="end")
        for reader in (text.TextReader, parquet_source.Reader):
            around(reader, "ranges", after="looked")
            around(reader, "count", before="count")
            patch.setattr(reader, "read", self._reading(reader.read))

    def _reading(self, function):
        def read(*args):
            self.passed("read")
            generator = function(*args)
            while True:
                try:
                    piece = next(generator)
                except StopIteration as end:
                    return end.value
                self.passed("piece")
                yield piece

        return read


def trial(seed: int, directory) -> str:
    """Raises AssertionError: a change was neither detected nor harmless. Returns the outcome."""
    rng = random.Random(seed)
    kind, change = rng.choice(KINDS), rng.choice(CHANGES)
    source = write(kind, rng, directory / "in")
    shutil.copytree(directory / "in", directory / "kept")
    path = directory / "in" / f"part-{rng.randrange(3)}"
    name = rng.choice(MOMENTS)
    moment = Moment(name, rng.randrange(6 if name in ("count", "read", "piece") else 1),
                    lambda: change(path, rng, kind))  # fmt: skip
    what = f"seed {seed}: {change.__name__} of {kind} at {name}"
    with pytest.MonkeyPatch.context() as patch:
        moment.watch(patch)
        try:
            found = run(source, SECTION | {"path": str(directory / "out")}, **SIZES).fingerprint
        except DataError as error:
            assert "\n" not in str(error) and str(directory / "in") in str(error), f"{what}: {error}"
            assert not (directory / "out").exists(), what
            return "noticed"
    kept = source | {"paths": [f"{directory}/kept/part-*"]}
    if found != run(kept, SECTION | {"path": str(directory / "before")}, **SIZES).fingerprint:
        after = run(source, SECTION | {"path": str(directory / "after")}, **SIZES).fingerprint
        assert found == after, what
    return "harmless"


@pytest.mark.parametrize("seed", range(8))
def test_a_change_is_noticed_or_harmless(tmp_path, seed):
    trial(seed, tmp_path)


@pytest.mark.parametrize(
    "number", [pytest.param(12, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.torture)]
)
def test_many_changes(tmp_path, number):
    outcomes = []
    for seed in range(100, 100 + number):
        directory = tmp_path / str(seed)
        directory.mkdir()
        outcomes.append(trial(seed, directory))
    assert min(outcomes.count("noticed"), outcomes.count("harmless")) > number // 10
