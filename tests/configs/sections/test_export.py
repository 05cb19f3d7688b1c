"""The export.index section: kinds, defaults and refusals."""

import pytest

from configs.errors import ConfigError
from configs.load import dump_config, load_config, parse_config
from configs.sections.export import BruteForceIndexConfig, ScannIndexConfig
from tests.support.documents import document


def index(**keys):
    """The index of a config with this section."""
    return parse_config(document(export={"index": keys} if keys else {}), "FILE").export.index


def test_an_export_without_index_is_brute_force():
    assert index() == index(kind="brute_force") == BruteForceIndexConfig()
    assert index(kind="scann") == ScannIndexConfig(kind="scann")


def test_a_config_with_scann_is_dumped_and_read_again(tmp_path):
    config = parse_config(document(export={"index": {"kind": "scann", "leaves": 30}}), "FILE")
    path = tmp_path / "run.yaml"
    path.write_text(dump_config(config))
    assert load_config(str(path)) == config
    assert load_config(str(path), ["export.index.leaves_to_search=30"]).export.index.leaves_to_search == 30
    assert load_config(str(path), ["export.index.kind=brute_force"]).export.index == BruteForceIndexConfig()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "scann", "leafs": 3}, "FILE: export.index.leafs: unknown key"),
        ({"kind": "brute_force", "leaves": 3}, "FILE: export.index.leaves: unknown key"),
        ({"kind": "faiss"}, "brute_force.*scann"),
        ({"kind": "scann", "leaves": 5, "leaves_to_search": 6}, "leaves_to_search: 6 exceeds leaves 5"),
        ({"kind": "scann", "min_recall": 1.1}, "export.index.min_recall"),
        ({"kind": "scann", "reorder": 0}, "export.index.reorder"),
    ],
)
def test_mistakes_are_named(keys, message):
    with pytest.raises(ConfigError, match=message):
        index(**keys)
