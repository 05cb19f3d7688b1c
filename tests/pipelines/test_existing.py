"""When a dataset is "already prepared": the source's content decides, and the dataset must be whole."""

import hashlib
import json
import os
import shutil

import pytest

from configs.errors import DataError
from configs.manifest import load_dataset
from pipelines.existing import find_existing
from pipelines.prepare import prepare
from tests.support.prepared import configure

pytestmark = pytest.mark.any_python

TEXT = "user,item\n" + "".join(f"u{i % 7},i{i % 11}\n" for i in range(60))


class World:
    """A source of two files and the dataset made of it."""

    def __init__(self, path):
        self.path, self.out = path, path / "out"
        self.source = {"kind": "delimited", "paths": [f"{path}/*.csv"]}
        for name in ("a.csv", "b.csv"):
            (path / name).write_text(TEXT)
        self.prepare()

    def prepare(self, overwrite=False, **source):
        config = configure(self.source | source, {"path": str(self.out), "split": {"kind": "random"}})
        return prepare(config.source, config.dataset, overwrite=overwrite)

    def made_again(self) -> bool:
        before = os.stat(self.out / "dataset.json").st_mtime_ns
        self.prepare()
        return os.stat(self.out / "dataset.json").st_mtime_ns != before

    def refusal(self, **source) -> str:
        with pytest.raises(DataError) as caught:
            self.prepare(**source)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def test_an_edit_of_the_same_size_is_another_source(world):
    path = world.path / "b.csv"
    before = os.stat(path)
    path.write_text(TEXT.replace("u3,", "u4,"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` or rsync would leave it
    assert f"other content of {path}, which has changed since; pass --overwrite" in world.refusal()
    before = load_dataset(str(world.out)).fingerprint
    assert world.prepare(overwrite=True).fingerprint != before
    assert not world.made_again()


def test_the_same_content_is_the_same_source(world):
    path = world.path / "a.csv"
    os.utime(path)
    assert not world.made_again()
    shutil.copy(path, world.path / "copy")
    os.replace(world.path / "copy", path)
    assert not world.made_again()


def test_what_differs_is_named(world):
    (world.path / "c.csv").write_text(TEXT)
    assert f"other files: {world.path}/c.csv is new; pass --overwrite" in world.refusal()
    os.remove(world.path / "c.csv")
    os.rename(world.path / "b.csv", world.path / "b")
    assert f"other files: {world.path}/b.csv is missing now" in world.refusal()
    os.rename(world.path / "b", world.path / "b.csv")
    assert "another source (source.quote differs)" in world.refusal(quote="'")
    assert not world.made_again()


def test_order_is_a_part_of_the_source(tmp_path):
    world = World(tmp_path)
    names = [f"{tmp_path}/b.csv", f"{tmp_path}/a.csv"]
    assert "another source (source.paths differs)" in world.refusal(paths=names)


def test_a_dataset_from_before_further_labels_is_the_requested_one(world):
    """Older dataset.json files lack the keys of ranking models, and mean their defaults."""
    path = world.out / "dataset.json"
    document = json.loads(path.read_text())
    for key in ("labels", "keep_negatives", "thinned"):
        del document[key]
    for info in document["splits"].values():
        del info["labels"]
    del document["source"]["roles"]["labels"]
    for key in ("counted_rows", "keep_negatives"):
        del document["dataset"][key]
    files = [[info["path"], info["bytes"], info["content"]] for info in document["source_files"]]
    text = json.dumps([document["source"], files], sort_keys=True)
    assert document["source_fingerprint"] == hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(document))
    assert not world.made_again()
    found = load_dataset(str(world.out))
    assert found.labels == [] and found.keep_negatives == 1 and not found.has_label


@pytest.mark.parametrize("directory, damage", [("train", "gone"), ("users", "cut"), ("items", "flipped")])
def test_a_damaged_dataset_is_made_again(world, damage, directory, caplog):
    before = load_dataset(str(world.out))
    path = next((world.out / directory).iterdir())
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        changed = data[:-1] if damage == "cut" else data[:30] + bytes([data[30] ^ 1]) + data[31:]
        path.write_bytes(changed)
    assert world.made_again()
    assert str(path) in caplog.text and "preparing the dataset again" in caplog.text
    assert path.read_bytes() == data and load_dataset(str(world.out)).fingerprint == before.fingerprint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 3}', b"\xff"])
def test_a_torn_document_is_no_dataset(tmp_path, content, caplog):
    (tmp_path / "dataset.json").write_bytes(content)
    assert find_existing(str(tmp_path), None, [], None) is None
    assert "preparing the dataset again" in caplog.text


def test_a_dataset_of_another_version_is_not_replaced_unasked(tmp_path):
    (tmp_path / "dataset.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="format 99, this one writes .*pass --overwrite"):
        find_existing(str(tmp_path), None, [], None)


def test_a_bucket_knows_generations_and_checksums(bucket):
    source = {"kind": "delimited", "paths": ["gs://bucket/raw/*.csv"]}
    dataset = {"path": "gs://bucket/out", "split": {"kind": "random"}}
    bucket.write("raw/a.csv", TEXT.encode())
    config = configure(source, dataset)
    prepare(config.source, config.dataset)
    document = bucket.read("out/dataset.json")
    bucket.write("raw/a.csv", TEXT.encode())  # another generation of the same bytes
    prepare(config.source, config.dataset)
    assert bucket.read("out/dataset.json") == document
    bucket.write("raw/a.csv", TEXT.replace("u3,", "u4,").encode())
    with pytest.raises(DataError, match="other content of gs://bucket/raw/a.csv, which has changed since"):
        prepare(config.source, config.dataset)
    bucket.write("raw/a.csv", TEXT.encode())
    name = bucket.names("out/train/")[0]
    bucket.write(name, bucket.read(name)[:-1] + b"x")
    found = prepare(config.source, config.dataset)
    assert found.fingerprint == json.loads(document)["fingerprint"]


def test_a_bucket_that_changes_while_it_is_read(bucket, monkeypatch):
    """Even with the same bytes it is another generation, and which one was read is unknown."""
    from pipelines.sources.text import TextReader

    read = TextReader.read

    def and_write(self, *args):
        bucket.write("raw/a.csv", TEXT.replace("u3,", "u4,").encode())
        return read(self, *args)

    bucket.write("raw/a.csv", TEXT.encode())
    monkeypatch.setattr(TextReader, "read", and_write)
    config = configure({"kind": "delimited", "paths": ["gs://bucket/raw/a.csv"]}, {"path": "gs://bucket/out"})
    with pytest.raises(DataError, match="gs://bucket/raw/a.csv: has changed since it was listed"):
        prepare(config.source, config.dataset)
    assert bucket.names("out/") == []


@pytest.mark.parametrize("roles", [{"timestamp": "time"}, {}])
def test_a_dataset_from_before_the_choice_of_histories_is_one_of_earlier_rows(tmp_path, roles):
    lines = [f"u{i % 7},i{i % 11},{i}\n" for i in range(60)]
    (tmp_path / "in.csv").write_text("user,item,time\n" + "".join(lines))
    source = {"kind": "delimited", "paths": [str(tmp_path / "in.csv")], "roles": roles}
    section = {"path": str(tmp_path / "out"), "split": {"kind": "random"}, "history_length": 3}
    earlier = configure(source, section | {"history_of": "earlier"})
    prepare(earlier.source, earlier.dataset)
    path = tmp_path / "out" / "dataset.json"
    document = json.loads(path.read_text())
    del document["history_of"], document["dataset"]["history_of"]
    path.write_text(json.dumps(document))
    before = os.stat(path).st_mtime_ns
    config = configure(source, section)
    if roles:
        assert prepare(config.source, config.dataset).history_of == "earlier"
    else:
        with pytest.raises(DataError, match="other dataset settings; pass --overwrite"):
            prepare(config.source, config.dataset)
        assert prepare(earlier.source, earlier.dataset).history_of == "earlier"
    assert os.stat(path).st_mtime_ns == before
