"""Reading a config: every mistake is one line that names the file and the dotted key."""

import pathlib

import pytest
import yaml

from configs.errors import ConfigError
from configs.load import dump_config, load_config
from tests.support.documents import delimited, document, feature

SHIPPED = sorted(pathlib.Path(__file__).parents[2].glob("configs/*.yaml"))


def error_of(tmp_path, content, overrides=()) -> str:
    """The error of a config with this content (document, text or bytes), the file named FILE."""
    path = tmp_path / "run.yaml"
    if isinstance(content, dict):
        content = yaml.safe_dump(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), overrides)
    return str(caught.value).replace(str(path), "FILE")


def loaded(tmp_path, overrides=(), **sections):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document(**sections)))
    return load_config(str(path), overrides)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_says_how_to_run_it(path):
    load_config(str(path))
    assert path.read_text().startswith("#") and f"configs/{path.name}" in path.read_text()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_dumped_config_is_the_same_config(path, tmp_path):
    config = load_config(str(path))
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(str(tmp_path / "again.yaml")) == config


def test_dump_keeps_letters_of_all_languages(tmp_path):
    config = loaded(tmp_path, source=delimited(roles={"user": "käyttäjä"}))
    assert "käyttäjä" in dump_config(config)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"trian": {}}, "FILE: trian: unknown key; did you mean train?"),
        (
            {"train": {"num_steps": 1, "batch_sze": 2}},
            "FILE: train.batch_sze: unknown key; did you mean batch_size?",
        ),
        ({"output": {"path": "x", "q": 1}}, "FILE: output.q: unknown key; known: path"),
        (
            {"dataset": {"path": "x", "split": {"kind": "leave_last_out", "min_row": 3}}},
            "FILE: dataset.split.min_row: unknown key; did you mean min_rows?",
        ),
        (
            {"dataset": {"path": "x", "split": {"kind": "leave_last_out", "test_fraction": 0.1}}},
            "FILE: dataset.split.test_fraction: unknown key; known: kind, min_rows",
        ),
        (
            {"source": delimited(features=[feature("age") | {"colum": "x"}])},
            "FILE: source.features.0.colum: unknown key; did you mean column?",
        ),
        (
            {"dataset": {"path": "x", "feature_ids": {"random": {"kind": "hash", "rows": 1, "row": 1}}}},
            "FILE: dataset.feature_ids.random.row: unknown key; did you mean rows?",
        ),
        ({"tables": {"user": {"dims": 3}}}, "FILE: tables.user.dims: unknown key; did you mean dim?"),
        (
            {"model": {"kind": "two_towr"}},
            "FILE: model.kind: 'two_towr' is unknown; allowed: 'two_tower', 'dot_bias', 'ranking'",
        ),
        (
            {"polyak": {"kind": "exponentail"}},
            "FILE: polyak.kind: Input should be 'exponential', 'uniform', 'tail_average' or 'none', found "
            "'exponentail'",
        ),
        ({"output": {}}, "FILE: output.path: missing; set it"),
        ({"output": {"path": ""}}, "FILE: output.path: String should have at least 1 character, found ''"),
        (
            {"output": {"path": "a::b"}},
            "FILE: output.path: '::' chains file systems in fsspec; use a path without it",
        ),
        ({"train": 5}, "FILE: train: must be a mapping of keys, found 5"),
        ({"model": ["two_tower"]}, "FILE: model: must be a mapping of keys, found ['two_tower']"),
        ({"tables": [1]}, "FILE: tables: must be a mapping of keys, found [1]"),
        (
            {"train": {"num_steps": "many"}},
            "FILE: train.num_steps: Input should be a valid integer, unable to parse string as an integer, "
            "found 'many'",
        ),
        (
            {"train": {"num_steps": 2**24 + 1}},
            "FILE: train.num_steps: Input should be less than or equal to 16777216, found 16777217",
        ),
        (
            {"evaluate": {"k": [5, 0]}},
            "FILE: evaluate.k.1: Input should be greater than or equal to 1, found 0",
        ),
        (
            {"optimizer": {"learning_rate": float("inf")}},
            "FILE: optimizer.learning_rate: Input should be a finite number, found inf",
        ),
        (
            {"train": {"num_steps": 1, "batch_size": True}},
            "FILE: train.batch_size: true and false (also written yes, no, on, off) are not allowed here, "
            "found True",
        ),
        (
            {"train": {"num_steps": 1, "seed": -1}},
            "FILE: train.seed: Input should be greater than or equal to 0, found -1",
        ),
    ],
)
def test_a_wrong_document_is_one_line(tmp_path, sections, message):
    assert error_of(tmp_path, document(**sections)) == message


def test_every_mistake_has_its_own_line(tmp_path):
    message = error_of(tmp_path, document(output={"pth": "x"}))
    assert message.splitlines() == [
        "FILE: output.path: missing; set it",
        "FILE: output.pth: unknown key; did you mean path?",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a: 1\nb: 2\na: 3\n",
            "FILE: not valid YAML: duplicate key 'a' in \"FILE\", line 3, column 1",
        ),
        (
            "a:\n  {b: 1, b: 2}",
            "FILE: not valid YAML: duplicate key 'b' in \"FILE\", line 2, column 10",
        ),
        (
            "? [a]\n: 1\n",
            "FILE: not valid YAML: keys must be text, this one is a mapping or a list in "
            '"FILE", line 1, column 3',
        ),
        ("day: 2026-13-01", "FILE: not valid YAML: month must be in 1..12"),
        ("", "FILE: must be a mapping of sections, found nothing"),
        ("- train", "FILE: must be a mapping of sections, found list"),
        ("train", "FILE: must be a mapping of sections, found str"),
        ("[" * 1000, "FILE: not valid YAML: nested too deeply"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, content, message):
    assert error_of(tmp_path, content) == message


@pytest.mark.parametrize(
    "content", ["a: [1", "a: &x {b: *x}", "a: !!python/object:os.system x", b"\xff\x00\x12", b"\x1f\x8b"]
)
def test_what_is_not_yaml_is_said_in_one_line(tmp_path, content):
    message = error_of(tmp_path, content)
    assert message.startswith("FILE: not valid YAML: ") and "\n" not in message


def test_files_that_cannot_be_read(tmp_path):
    cases = {
        str(tmp_path / "none.yaml"): "no such config file",
        str(tmp_path): "is a directory, not a config file",
        "nowhere://run.yaml": "Protocol not known: nowhere; use a local path or gs://",
    }
    for path, message in cases.items():
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize("text", ["1e-3", "1.e-3", "1.0e-3", "+1E-03", "0.001", ".001"])
def test_numbers_as_people_write_them(tmp_path, text):
    config = loaded(tmp_path, [f"optimizer.learning_rate={text}"])
    assert config.optimizer.learning_rate == 1e-3


def test_home_is_expanded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    config = loaded(tmp_path, ["output.path=~/run", "dataset.path=~/data"])
    assert (config.output.path, config.dataset.path) == ("/somewhere/run", "/somewhere/data")


def test_a_config_in_a_bucket_is_read_by_the_api_that_all_buckets_speak(bucket):
    """gcsfs reads its switch when it is imported, and a config in a bucket imports it first."""
    bucket.write("run.yaml", yaml.safe_dump(document()).encode())
    code = "import os; from configs.load import load_config; load_config('gs://bucket/run.yaml');"
    process = bucket.start("-c", code + "print(os.environ['GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT'])")
    output, log = process.communicate(timeout=900)
    assert (output, process.returncode) == ("false\n", 0), log


def doubling(levels: int) -> str:
    """A document of a few lines that stands for 9 ** levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "content",
    [
        doubling(9),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: " + "[" * 5000 + "]" * 5000,
        "a: " + "9" * 100_000,
        "name: 0x" + "f" * 100_000,
        "name: " + "9" * 4000,
        "source: {kind: " + "z" * 100_000 + "}",
        "".join(f"k{i}: 1\n" for i in range(5000)),
        "? " + "k" * 100_000 + "\n: 1",
        "source: [" + "1, " * 50_000 + "]",
        doubling(4) + "\nsource: *a3",
    ],
    ids=range(12),
)
def test_no_document_makes_a_long_error(tmp_path, content):
    text = error_of(tmp_path, content)
    assert "FILE: " in text and all(len(line) < 1200 for line in text.splitlines())
    assert text.count("\n") <= 20


@pytest.mark.parametrize(
    "override", ["a.²=1", "a.99999999999=1", "name=" + "[" * 5000, "name=" + "z" * 10**6]
)
def test_no_override_makes_a_long_error(tmp_path, override):
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / "none.yaml"), [override])
    text = error_of(tmp_path, {"a": [1]}, [override])
    assert max(map(len, text.splitlines())) < 1200, caught.value


def test_a_few_aliases_are_what_they_stand_for(tmp_path):
    path = tmp_path / "run.yaml"
    text = yaml.safe_dump(document()) + "\ntables: {user: &t {dim: 4}, item: *t}\n"
    path.write_text(text)
    assert load_config(str(path)).table("item").dim == 4
