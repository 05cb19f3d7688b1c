"""Steps that run in processes of their own: buckets, datasets, and what a dead process leaves."""

import importlib
import json
import subprocess
import sys

import pytest

from tests.support.tiny_dataset import Row, write_dataset
from trainer.preflight import probes
from trainer.preflight.checks import CheckedMachine
from trainer.preflight.doctor import complete, diagnose
from trainer.preflight.probes import GROUPS, Broken, ProbeStep


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_failed_step_ends_its_group(monkeypatch, capsys):
    def broken(argument):
        raise ValueError(f"bad {argument}\nin two lines")

    steps = (
        ProbeStep("first", str.upper, "x"),
        ProbeStep("second", broken, "fix it"),
        ProbeStep("third", str, "x"),
    )
    monkeypatch.setitem(GROUPS, "beam", steps)
    probes.main("beam", "abc")
    assert lines(capsys) == [
        {"step": "first", "status": "ok", "found": "ABC", "fix": ""},
        {"step": "second", "status": "fail", "found": "ValueError: bad abc in two lines", "fix": "fix it"},
    ]


def test_warnings_do_not_end_a_group(monkeypatch, capsys):
    def warned(argument):
        raise Broken("slow", "use another", "warn")

    monkeypatch.setitem(GROUPS, "beam", (ProbeStep("first", warned, "x"), ProbeStep("second", str, "x")))
    probes.main("beam", "abc")
    assert [line["status"] for line in lines(capsys)] == ["warn", "ok"]


def test_dataset(tmp_path, capsys):
    path = str(tmp_path / "dataset")
    probes.main("dataset", path)
    [missing] = lines(capsys)
    assert missing["status"] == "warn" and "lazytower prepare" in missing["fix"]
    write_dataset(path, [Row(b"u", b"i", "train"), Row(b"u", b"j", "train"), Row(b"u", b"k", "test")])
    probes.main("dataset", path)
    [found] = lines(capsys)
    assert (found["status"], found["found"]) == ("ok", f"{path}: 2 rows in train")
    (tmp_path / "dataset/dataset.json").write_text("{")
    probes.main("dataset", path)
    assert lines(capsys)[0]["status"] == "fail"


def test_bucket(bucket, capsys):
    bucket.write("run/kept", b"x")
    probes.main("bucket", f"{bucket.url}/run")
    [result] = lines(capsys)
    assert (result["status"], result["found"]) == ("ok", f"{bucket.url}/run: written, read, deleted")
    assert bucket.names() == ["run/kept"]


def test_buckets_that_do_not_exist(bucket, capsys):
    probes.main("bucket", "gs://no-such-bucket/run")
    [result] = lines(capsys)
    assert result["status"] == "fail" and result["found"].startswith("gs://no-such-bucket/run: ")


@pytest.mark.parametrize(
    ("code", "words"), [(401, "gcloud auth application-default login"), (403, "roles/storage.objectUser")]
)
def test_refusals_name_what_to_do(monkeypatch, capsys, code, words):
    from gcsfs.retry import HttpError

    def refused(path, content):
        raise HttpError({"code": code, "message": "refused"})

    monkeypatch.setattr("configs.system.storage.write_bytes", refused)
    probes.main("bucket", "gs://bucket")
    [result] = lines(capsys)
    assert result["status"] == "fail" and words in result["fix"] and "refused" in result["found"]


def test_a_python_without_addons_does_without(monkeypatch, capsys):
    """Nothing but `engine: tfa` needs TF-Addons, so what comes after it is still tried."""
    importlib.import_module("trainer.addons")  # imported under the patch, it would keep it
    reason = "TF-Addons has no release for Python 3.13"
    monkeypatch.setattr("configs.system.pythons.missing_addons", lambda: reason)
    steps = [step for step in GROUPS["tensorflow"] if step.name in ("TF-Addons", "TFRS")]
    monkeypatch.setitem(GROUPS, "tensorflow", tuple(steps))
    probes.main("tensorflow", "")
    first, second = lines(capsys)
    assert first["status"] == second["status"] == "ok" and first["fix"] == ""
    assert first["found"] == f"none: {reason}; only engine: tfa needs it"


@pytest.mark.slow
def test_keras_3_is_noticed():
    script = "import os; os.environ['TF_USE_LEGACY_KERAS'] = '0'; from trainer.preflight.probes import main; "
    script += "main('tensorflow', '')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=900)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["status"] for result in results] == ["ok", "fail"]
    assert "Keras 3" in results[1]["found"] and "TF_USE_LEGACY_KERAS" in results[1]["fix"]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (
            "import os, sys; sys.stderr.write('libtpu: no\\n\\n'); sys.stderr.flush(); os.abort()",
            "libtpu: no",
        ),
        ("raise ImportError('half a wheel')", "ImportError: half a wheel"),
        ("import sys; sys.exit(3)", "the process died (exit code 3): no output"),
    ],
)
def test_a_tensorflow_that_cannot_be_imported(tmp_path, monkeypatch, code, found):
    (tmp_path / "tensorflow.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    results = {result.name: result for result in diagnose(machine=CheckedMachine(output=str(tmp_path)))}
    assert results["TensorFlow"].status == "fail" and found in results["TensorFlow"].found
    if "abort" in code:
        assert "the process died (SIGABRT)" in results["TensorFlow"].found
    assert results["TFRS"].found == "not tried" and results["TFRS"].status == "fail"
    assert results["Apache Beam"].status == "ok"


def test_every_step_has_a_result():
    steps = tuple(ProbeStep(name, str, f"fix {name}") for name in "abcd")
    told = {"a": {"status": "warn", "found": "", "fix": ""}, "b": {"status": "fail", "found": "", "fix": ""}}
    results = complete(steps, told, "")
    assert [(result.name, result.status) for result in results] == [
        ("a", "warn"),
        ("b", "fail"),
        ("c", "fail"),
        ("d", "fail"),
    ]
    assert [result.fix for result in results[2:]] == ["fix b first"] * 2
    died = complete(steps, {"a": told["a"]}, "it died")
    assert [result.found for result in died] == ["", "it died", "not tried", "not tried"]
    assert [result.fix for result in died[1:]] == ["fix b", "fix b first", "fix b first"]


@pytest.mark.slow
def test_a_tensorflow_that_hangs(tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("trainer.preflight.doctor._SECONDS", 5)
    results = {result.name: result for result in diagnose(machine=CheckedMachine(output=str(tmp_path)))}
    assert results["TensorFlow"].found == "no answer in 5 s"
