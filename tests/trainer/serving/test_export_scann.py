"""Export, verification and `recommend` with ScaNN; what is reported where it is not installed."""

import functools
import importlib.util
import json
import os
from unittest import mock

import pytest
import tensorflow as tf

from configs.errors import ConfigError, ExportError
from configs.load import parse_config
from tests.support.replays import golden_of, replay_here
from tests.support.tiny_run import USERS, tiny_export, tiny_model, tiny_run
from trainer.cli import parse, run
from trainer.evaluation.trained import open_trained
from trainer.serving import export as export_module
from trainer.serving.export import export, replay_golden
from trainer.serving.replay import Difference, load, replay
from trainer.serving.versions import versions

pytestmark = [pytest.mark.any_python, pytest.mark.slow]

needs_scann = pytest.mark.skipif(importlib.util.find_spec("scann") is None, reason="scann is not installed")
USER_KEYS = [f"ü{i}".encode() for i in range(USERS)]


def _into(kind, directory, max_k=1000, **index):
    """The tiny run's config with ScaNN and another export directory."""
    document = tiny_run(kind).config.model_dump(mode="json")
    document["export"] |= {"path": str(directory), "max_k": max_k, "index": {"kind": "scann", **index}}
    return parse_config(document, kind)


def _metadata(path):
    with open(f"{path}/assets.extra/lazytower.json", encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Function from a kind to its export with an index that looks everywhere, made once; a fresh process
    verifies that of `plain`."""

    @functools.cache
    def path(kind):
        config = _into(kind, tmp_path_factory.mktemp(kind), leaves=4, leaves_to_search=4)
        verify = replay_golden if kind == "plain" else replay_here
        with mock.patch.object(export_module, "replay_golden", verify):
            return export(config)

    return path


@needs_scann
@pytest.mark.parametrize("kind", ["plain", "hash"])
def test_an_index_that_looks_everywhere_answers_as_brute_force(kind, exported, capsys):
    """Golden examples verify the export too. Under hashed ids many rows may not be recommended."""
    path = exported(kind)
    facts = _metadata(path)["index"]
    assert facts["recall@10"] == 1.0 and 0 < facts["recall_users"] <= USERS
    assert (facts["leaves"], facts["leaves_to_search"]) == (4, 4) and "scann" in facts["needs"]
    found, exact = (
        model.signatures["serving_default"](user=tf.constant(USER_KEYS))
        for model in (tf.saved_model.load(path), tiny_model(kind))
    )
    assert (found["items"].numpy() == exact["items"].numpy()).all()
    code = run(parse(["lazytower", "recommend", "--model", path, "--users", "ü3", "--k", "3"]))
    assert code == 0 and "user ü3" in capsys.readouterr().out


@needs_scann
def test_an_index_that_finds_too_little_is_not_published(tmp_path):
    # Two candidates from two leaves; for longer lists more leaves are searched.
    config = _into("plain", tmp_path, 1, min_recall=1.0, leaves=16, leaves_to_search=1, reorder=1)
    with pytest.raises(ExportError, match=r"finds 0\.\d+ of the exact best 1 items, export.index.min_recall"):
        export(config)
    assert versions(str(tmp_path)) == []


@needs_scann
def test_the_replay_of_an_approximate_index_notices_differences(exported, tmp_path):
    config = _into("plain", tmp_path, leaves=4, leaves_to_search=4)
    path, trained = exported("plain"), open_trained(config)
    golden = golden_of(trained)
    signatures = load(path)
    replay(signatures, golden)
    before = json.dumps(golden)
    for tamper, message in [
        (lambda g, first: first["banned"].append(first["extended"][0][0]), "one that is excluded"),
        (lambda g, first: first["extended"][0].__setitem__(1, first["extended"][0][1] + 0.1), "expected"),
        (lambda g, first: g["approximate"].__setitem__("least_recall", 1.01), "of the best items"),
    ]:
        golden = json.loads(before)
        tamper(golden, golden["recommend"][0]["answers"][2])
        with pytest.raises(Difference, match=message):
            replay(signatures, golden)


@pytest.fixture
def no_scann(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "scann" else find(name, *args)
    )


def test_export_without_the_package_says_how_to_get_it(tmp_path, no_scann, monkeypatch):
    monkeypatch.setattr("trainer.evaluation.trained.open_trained", None)  # nothing is opened before
    with pytest.raises(ConfigError, match=r"requires the package scann, .* run pip install 'scann==1\.4\.2'"):
        export(_into("plain", tmp_path / "new"))
    assert not os.path.exists(tmp_path / "new")


def test_recommend_without_the_package_says_how_to_get_it(tmp_path, no_scann, capsys):
    metadata = _metadata(tiny_export("plain"))
    os.makedirs(tmp_path / "assets.extra")
    (tmp_path / "saved_model.pb").write_text("")
    metadata["index"] = {"kind": "scann"}
    (tmp_path / "assets.extra/lazytower.json").write_text(json.dumps(metadata))
    code = run(parse(["lazytower", "recommend", "--model", str(tmp_path)]))
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1
    assert "exported with export.index.kind: scann, requires the package scann" in err
