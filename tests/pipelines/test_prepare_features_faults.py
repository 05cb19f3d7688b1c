"""Features of columns of the interactions: rows and vocabulary files that are refused, and bare cases."""

import pytest

from configs.errors import DataError
from tests.support.prepared import read_rejected, read_rows, run

pytestmark = pytest.mark.any_python

TEXT = "user,item,tags,w,n\nu,i,a|b,1|2,1\n"


def tiny(tmp_path, feature: dict, text: str, ids=None, **keys):
    (tmp_path / "a.csv").write_bytes(text.encode())
    source = {"kind": "delimited", "paths": [f"{tmp_path}/a.csv"], "features": [feature], **keys}
    dataset = {"path": f"{tmp_path}/out", "split": {"kind": "random"}, "feature_ids": ids or {}}
    return run(source, dataset)


TAGS = {"name": "tags", "of": "item", "kind": "list", "separator": "|", "weights": "w"}
NUMBER = {"name": "n", "of": "item", "kind": "numeric"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("feature", "row", "reason", "hint"),
    [
        (TAGS, "u,i,a|b,1,1", "weight_count_tags", "each key of the list needs one weight"),
        (TAGS, "u,i,a,,1", "weight_count_tags", "each key of the list needs one weight"),
        (TAGS, "u,i,a|b,1|x,1", "bad_weight_tags", "a weight must be a number"),
        (TAGS, "u,i,a|b,1|inf,1", "not_finite_weight_tags", ""),
        (TAGS, "u,i,a|b,1|1e39,1", "not_finite_weight_tags", ""),
        (TAGS, "u,i,a|b,1|-1,1", "negative_weight_tags", "weights must be at least 0"),
        (TAGS, "u,i,a|b\x02,1|1,1", "control_character_in_tags", "check separator"),
        (TAGS, 'u,i,"a\nb",1,1', "newline_in_key", ""),
        (NUMBER, "u,i,a,1,", "bad_n", "set the feature's missing to accept empty values"),
        (NUMBER, "u,i,a,1,x", "bad_n", "it must be a number"),
        (NUMBER | {"transform": ["log1p"]}, "u,i,a,1,-1", "outside_log1p_n", "log1p takes numbers above -1"),
        (NUMBER | {"buckets": {"quantiles": 3}}, "u,i,a,1,x", "bad_n", "it must be a number"),
    ],
)
def test_faults_of_a_row_are_one_line(tmp_path, feature, row, reason, hint):
    with pytest.raises(DataError) as caught:
        tiny(tmp_path, feature, TEXT + row + "\n")
    text = str(caught.value)
    assert f"a.csv:3: {reason}: " in text and hint in text and "\n" not in text, text
    dataset = tiny(tmp_path, feature, TEXT * 9 + TEXT + row + "\n", max_rejected_fraction=0.5)
    assert [found["reason"] for found in read_rejected(dataset)] == [reason]


def test_a_clip_before_a_logarithm_allows_every_number(tmp_path):
    feature = NUMBER | {"transform": [{"clip": [0, 100]}, "log1p", "standardize"]}
    dataset = tiny(tmp_path, feature, TEXT + "u,i,a,1,-5\n" + "u,j,a,1,7\nu,k,a,1,9\n")
    assert not dataset.rejected


def test_lists_without_any_key(tmp_path):
    dataset = tiny(tmp_path, TAGS, TEXT.partition("\n")[0] + "\nu,i,,,1\nu,j,,,1\nv,i,,,1\nv,k,NULL,1,1\n")
    assert dataset.tables["tags"].rows == 1 and dataset.features["tags"].coverage == 0
    rows = [row for info in dataset.splits.values() for row in read_rows(dataset, info.files)]
    assert {row["tags"] for row in rows} == {()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\na\n", "{}:3: duplicate key 'a', first in line 1; remove one"),
        ("a\n\nb\n", "{}:2: empty line; remove it"),
        ("a\r\nb \r\n", "{}:2: 'b ' is 'b' after cleaning, so no key would match; write it so, or set "),
        ("a\n17.0\n", "{}:2: '17.0' is '17' after cleaning"),
        ("", "{}: no keys; write one key a line"),
        ("a\nb\0\n", "{}:2: contains a carriage return or NUL; remove it"),
        (b"a\n\xff\n", "{}:2: not UTF-8; convert the file to UTF-8"),
        (None, "{}: no such file; check dataset.feature_ids"),
    ],
)
def test_faults_of_a_vocabulary_file_are_one_line(tmp_path, text, message):
    path = tmp_path / "words.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    ids = {"tags": {"kind": "given", "path": str(path)}}
    with pytest.raises(DataError) as caught:
        tiny(tmp_path, TAGS, TEXT, ids)
    assert str(caught.value).startswith(message.format(path)) and "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_vocabulary_may_have_a_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(b"\xef\xbb\xbfb\r\na")
    dataset = tiny(tmp_path, TAGS, TEXT, {"tags": {"kind": "given", "path": str(path)}})
    found = read_rows(dataset, dataset.tables["tags"].files)
    assert [row["key"] for row in found] == [b"b", b"a"]
