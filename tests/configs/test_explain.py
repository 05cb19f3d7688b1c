"""--explain: every key of the schema, with default, allowed values and description."""

import typing

from pydantic import BaseModel

from configs.explain import explain
from configs.load import section_types
from configs.schema import RunConfig

LINES = explain().splitlines()


def all_sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        for section in section_types(field.annotation):
            found |= all_sections(section)
    return found


def line_of(key: str) -> str:
    return next(line for line in LINES if line.startswith(key + "  "))


def test_every_field_of_every_section_is_described():
    keys = {line.split("  ")[0].rpartition(".")[2] for line in LINES}
    for section in all_sections(RunConfig):
        for name, field in section.model_fields.items():
            assert (field.alias or name) in keys
            assert field.description, f"{section.__name__}.{name} has no description"


def test_every_number_has_a_bound():
    free = {"min_label", "positive", "label_threshold", "clip"}  # labels and values are the user's own
    for section in all_sections(RunConfig):
        for name, field in section.model_fields.items():
            forms = {field.annotation, *typing.get_args(field.annotation)}
            if forms & {int, float} and name not in free:
                assert field.metadata, f"{section.__name__}.{name} takes any number"


def test_lines():
    assert line_of("train.num_steps") == (
        "train.num_steps  [None]  (int, >= 1, <= 16777216)  Steps of the run; give either this or num_epochs."
    )
    assert line_of("output.path").startswith("output.path  [required]  (str)  Run directory")
    assert line_of("init.from").startswith("init.from  [required]  (str)  Directory of the run")
    assert line_of("evaluate.protocol").startswith(
        "evaluate.protocol  ['full']  (full | sampled)  full: rank all items"
    )
    assert line_of("dataset.split(leave_last_out).min_rows").endswith("have all rows in train.")
    assert line_of("tables(table).*.optimizer(lazy_adam).beta_1").startswith(
        "tables(table).*.optimizer(lazy_adam).beta_1  [0.9]  (float, >= 0, < 1)"
    )
    assert line_of("source(jsonl).features(list).*.of").split("  ")[1:3] == [
        "[None]",
        "(user | item | context)",
    ]
    assert line_of("source(tfrecord).compression").startswith(
        "source(tfrecord).compression  ['auto']  (auto | none | gzip | zlib)  Compression of whole files"
    )
    assert line_of("source(parquet).sides(tfrecord).*.compression").split("  ")[1] == "['auto']"
    for side in ("", ".sides(bigquery).*"):
        for name in ("table", "query", "project", "row_restriction"):
            assert line_of(f"source(bigquery){side}.{name}").split("  ")[1:3] == ["[None]", "(str)"]
        assert line_of(f"source(bigquery){side}.snapshot_time").split("  ")[1:3] == ["[None]", "(time)"]
    assert line_of("source(jsonl).sides(parquet).*.of").split("  ")[1:3] == ["[required]", "(user | item)"]


def test_no_line_twice():
    keys = [line.split("  ")[0] for line in LINES]
    assert len(keys) == len(set(keys))
