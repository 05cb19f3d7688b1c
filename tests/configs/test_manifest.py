"""dataset.json: what is missing or wrong is reported in one line with the file and the key."""

import json

import pytest

from configs.errors import ConfigError, DataError
from configs.manifest import Dataset, load_dataset

FILES = {"rows": 2, "files": [{"path": "train/0", "rows": 2, "bytes": 9, "crc32c": "00000000"}]}
SPLIT = {**FILES, "min_timestamp": 1, "max_timestamp": 2, "positives": 2}
TABLE = {"ids": "vocab", "rows": 3, "oov": 2, "keys": 2}
MANIFEST = {
    "fingerprint": "f",
    "source_fingerprint": "s",
    "history_length": 0,
    "has_weight": False,
    "splits": {"train": SPLIT, "valid": SPLIT, "test": SPLIT},
    "tables": {"user": TABLE, "item": TABLE | {"rows": 4}},
    "features": {},
    "users": FILES,
    "items": FILES,
    "source_rows": 6,
    "rejected": {},
    "source": {},
    "dataset": {},
}


def error_of(tmp_path, content) -> str:
    path = tmp_path / "dataset.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(DataError) as caught:
        load_dataset(str(tmp_path))
    return str(caught.value).replace(str(path), "FILE")


def test_a_manifest_loads_and_knows_its_place(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(MANIFEST))
    dataset = load_dataset(f"{tmp_path}/")
    assert dataset.path == str(tmp_path)
    assert dataset.file_path(dataset.splits["train"].files[0]) == f"{tmp_path}/train/0"
    assert dataset.table_rows("history") == dataset.table_rows("item") == 4
    assert "path" not in dataset.model_dump()
    assert Dataset(**json.loads(dataset.model_dump_json()), path=dataset.path) == dataset


@pytest.mark.parametrize("place", ["", "none", "file/inside"])
def test_no_manifest(tmp_path, place):
    (tmp_path / "file").write_text("")
    path = f"{tmp_path}/{place}".rstrip("/")
    with pytest.raises(DataError) as caught:
        load_dataset(path)
    assert str(caught.value) == (
        f"{path}: no dataset here (dataset.json, which is written last, is missing). "
        "Run `lazytower prepare` with this config first."
    )


def test_a_place_that_cannot_be_read(tmp_path):
    (tmp_path / "dataset.json").mkdir()
    with pytest.raises(DataError, match="dataset.json: cannot be read"):
        load_dataset(str(tmp_path))
    with pytest.raises(ConfigError, match="^nowhere://x/dataset.json: Protocol not known: nowhere; use"):
        load_dataset("nowhere://x")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1]", b"null"])
def test_what_is_not_a_json_object(tmp_path, content):
    message = error_of(tmp_path, content)
    assert message.startswith("FILE: not valid JSON (") and message.endswith("Run `lazytower prepare` again.")
    assert "\n" not in message


@pytest.mark.parametrize("name", sorted(set(MANIFEST)))
def test_a_missing_field_is_named(tmp_path, name):
    manifest = {key: value for key, value in MANIFEST.items() if key != name}
    assert error_of(tmp_path, manifest) == f"FILE: {name}: Field required. Run `lazytower prepare` again."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rowz": 1}, "rowz: Extra inputs are not permitted"),
        ({"format": 4}, "format: Input should be 3"),
        ({"history_length": "long"}, "history_length: Input should be a valid integer"),
        ({"history_of": "later"}, "history_of: Input should be 'earlier' or 'others'"),
        ({"splits": {"train": SPLIT, "valid": SPLIT}}, "splits.test is missing"),
        ({"tables": {"user": TABLE}}, "tables.item is missing"),
        ({"users": FILES | {"x": 1}}, "users.x: Extra inputs are not permitted"),
    ],
)
def test_a_field_that_breaks_the_contract_is_named(tmp_path, change, message):
    assert error_of(tmp_path, MANIFEST | change).startswith(f"FILE: {message}")


@pytest.mark.parametrize("older", [1, 2])
def test_an_older_dataset_is_refused_with_the_command_that_rebuilds_it(tmp_path, older):
    message = error_of(tmp_path, MANIFEST | {"format": older})
    assert message == (
        f"FILE: written by an older version (format {older}; this one reads 3). "
        "Run `lazytower prepare --overwrite` with this config to rebuild it. "
        "Runs trained on it must be trained again; their exports can still be used."
    )


def test_datasets_from_before_there_was_a_choice_have_histories_of_earlier_rows():
    for length, of in ((4, "earlier"), (0, None)):
        dataset = Dataset(**MANIFEST | {"history_length": length})
        assert dataset.section["history_of"] == of and "history_of" not in dataset.dataset
    assert dataset.history_of == "earlier"
    others = Dataset(**MANIFEST | {"history_length": 4, "history_of": "others"})
    assert others.section["history_of"] == "others"


def test_a_model_of_positives_trains_on_their_files():
    some = Dataset(**MANIFEST | {"positives": SPLIT | {"rows": 1}})
    assert some.training_split(positives_only=True).rows == 1
    assert some.training_split(positives_only=False).rows == 2
    assert Dataset(**MANIFEST).training_split(positives_only=True).rows == 2
    assert len(some.record_files) == 6 and len(Dataset(**MANIFEST).record_files) == 5


def forged(*path, value) -> dict:
    document = json.loads(json.dumps(MANIFEST))
    inner = document
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return document


@pytest.mark.parametrize(
    "content",
    [
        *(
            forged("splits", "train", "files", 0, "path", value=path)
            for path in (
                "/etc/passwd",
                "../../other",
                "train/../../x",
                "",
                "train//x",
                "gs://b/x",
                "a\0b",
                "./x",
            )
        ),
        forged("splits", "train", "files", 0, "rows", value=-1),
        forged("splits", "train", "files", 0, "rows", value=10**40),
        forged("splits", "train", "files", 0, "bytes", value=1e300),
        forged("tables", "user", "rows", value=2**60),
        forged("tables", "user", "rows", value="many"),
        forged("block_rows", value=0),
        forged("splits", value=[]),
        forged("format", value=99),
        forged("unknown" * 100, value=1),
        b"[" * 100_000,
        b'{"source_rows": ' + b"9" * 10_000 + b"}",
        b"\xff\xfe",
        b"null",
    ],
    ids=range(21),
)
def test_a_forged_manifest_is_one_line(tmp_path, content):
    text = error_of(tmp_path, content)
    assert text.startswith("FILE: ") and "\n" not in text and len(text) < 2000
