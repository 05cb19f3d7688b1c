"""`bench optimizers` at tiny sizes: every combination has a row, the files parse, the gradients are right."""

import csv
import itertools
import re
import sys
import types

import numpy as np
import pytest

from configs.system.pythons import missing_addons
from trainer import cli
from trainer.bench import timing
from trainer.commands import bench

pytestmark = pytest.mark.any_python

PEERS = ("lazytower", "keras", "keras_legacy", "tfa", "torch")
TINY = ["--rows", "300", "--dim", "8", "--batch", "16", "--steps", "2"]
# What needs only the packages that lazytower requires.
SUPPORTED = {("lazytower", name) for name in ("sgd", "adagrad", "adam", "lazy_adam", "sm3")}
SUPPORTED |= {("keras", name) for name in ("sgd", "adagrad", "adam")}
SUPPORTED |= set() if missing_addons() else {("tfa", "lazy_adam")}


def bench_run(*args: str) -> int:
    return bench.run(cli.parse(["lazytower", "bench", *args]))


def parsed(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_stands_alone(path) -> None:
    """No script, style, picture or font from elsewhere: plotly's own source is inside."""
    text = path.read_text(encoding="utf-8")
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text)
    assert tags and not [tag for tag in tags if re.search(r"\b(src|href)\s*=", tag)]
    assert "@import" not in text.split("</style>")[0] and 'id="plotly"' in text


@pytest.mark.slow
def test_every_combination_has_a_row(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    # Collecting garbage takes longer than measuring tables this small.
    monkeypatch.setattr(timing, "gc", types.SimpleNamespace(collect=lambda: 0))
    models, optimizers = ("full", "robe_1mb"), ("sgd", "adagrad", "adam", "lazy_adam", "sm3")
    assert bench_run("optimizers", *TINY, "--models", *models, "--output", str(tmp_path)) == 0
    rows = parsed(tmp_path / "optimizers.csv")
    keys = [(row["model"], row["optimizer"], row["by"]) for row in rows]
    assert keys == list(itertools.product(models, optimizers, PEERS))
    printed = capsys.readouterr().out.splitlines()
    for row in rows:
        by, optimizer = row["by"], row["optimizer"]
        legacy = by == "keras_legacy" and ("keras", optimizer) in SUPPORTED and row["model"] == "full"
        if (by, optimizer) in SUPPORTED or legacy:
            assert row["reason"] == "" and float(row["total_ms"]) > 0 and float(row["update_iqr"]) >= 0
            assert int(row["model_bytes"]) == (9600 if row["model"] == "full" else 1 << 20)
        else:
            assert row["reason"] and row["total_ms"] == row["model_bytes"] == "-"
        found = [line for line in printed if line.split()[:3] == [row["model"], optimizer, by]]
        assert len(found) == 1 and ("±" in found[0]) == (row["reason"] == "")
        assert not row["reason"] or any(line.startswith(f"-  {row['reason']}: ") for line in printed)
    assert_stands_alone(tmp_path / "optimizers.html")


def test_state_is_counted_whole(tmp_path):
    args = ["--models", "full", "--optimizers", "adam", "lazy_adam", "--peers", "lazytower", "keras", "tfa"]
    bench_run("optimizers", *TINY, *args, "--output", str(tmp_path))
    states = [row["state_bytes"] for row in parsed(tmp_path / "optimizers.csv") if not row["reason"]]
    # Adam by lazytower and Keras, lazy Adam by lazytower and TF-Addons; records keep their last step too.
    assert states == ["20400", "19200", "20400", *([] if missing_addons() else ["19200"])]


def test_without_addons_their_row_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.bench.cases.tables.missing_addons", lambda: "no TF-Addons here")
    args = ["--models", "full", "--optimizers", "lazy_adam", "--peers", "lazytower", "tfa"]
    assert bench_run("optimizers", *TINY, *args, "--output", str(tmp_path)) == 0
    ours, theirs = parsed(tmp_path / "optimizers.csv")
    assert (ours["reason"], theirs["reason"], theirs["total_ms"]) == ("", "no TF-Addons here", "-")


def test_the_public_faces_are_measured_when_asked_for(tmp_path):
    args = ["--models", "full", "--optimizers", "lazy_adam", "sm3"]
    faces = ["--peers", "lazytower_plain", "lazytower_keras"]
    bench_run("optimizers", *TINY, *args, *faces, "--output", str(tmp_path))
    rows = parsed(tmp_path / "optimizers.csv")
    assert [(row["state_bytes"], row["reason"]) for row in rows] == [
        *[("19200", "")] * 2,  # m and v
        ("1232", ""),
        ("-", "sm3 has no Keras form"),
    ]


def test_a_failing_peer_says_why_and_the_others_are_measured(tmp_path, monkeypatch):
    from trainer.bench.cases import tables

    def broken(*args, **kwargs):
        raise ValueError("no such kernel\nsecond line")

    monkeypatch.setattr(tables, "keras_case", broken)
    args = ["--models", "full", "--optimizers", "sgd", "--peers", "keras", "lazytower"]
    bench_run("optimizers", *TINY, *args, "--output", str(tmp_path))
    first, second = parsed(tmp_path / "optimizers.csv")
    assert first["reason"] == "ValueError: no such kernel" and second["reason"] == ""


@pytest.mark.parametrize("model", ["full", "robe_1mb"])
def test_ours_and_keras_take_the_same_step(model):
    """The gradients that are written out, repeated ids included, against automatic differentiation too."""
    import tensorflow as tf

    from configs.sections.tables import TableConfig
    from trainer.bench.cases import tables
    from trainer.bench.optimizers import robe_section

    robe = None if model == "full" else robe_section(1, 8)
    ours = tables.OurCase(50, robe or TableConfig(dim=8), "sgd", 16)
    keras = tables.keras_case(50, 8, "sgd", robe)
    storage = ours.table.storage
    before = tf.random.stateless_normal([storage.rows, storage.dim], [1, 2])
    storage.write_records(0, tf.pad(before, [[0, 0], [0, 1]]))
    keras.weight.assign(tf.reshape(before, keras.weight.shape))
    generator = np.random.default_rng(0)
    ids, labels = generator.integers(0, 50, [16, 2]), np.float32(generator.integers(0, 2, 16))
    with tf.GradientTape() as tape:
        *_, loss = keras._forward(tf.constant(ids), tf.constant(labels))
    slope = tf.convert_to_tensor(tape.gradient(loss, keras.weight.handle))
    for case in (ours, keras):
        case.update(case.gradient(case.forward(*case.inputs(ids, labels))))
    expected = tf.reshape(before, keras.weight.shape) - 1e-3 * slope
    np.testing.assert_allclose(keras.weight, expected, rtol=1e-6, atol=1e-8)
    after = tf.reshape(storage.read_records(tf.range(storage.rows))[:, :-1], expected.shape)
    np.testing.assert_allclose(after, expected, rtol=1e-6, atol=1e-8)


def test_torch_is_measured_when_importable(tmp_path):
    pytest.importorskip("torch")
    args = ["--models", "full", "robe_1mb", "--peers", "torch", "--output", str(tmp_path)]
    bench_run("optimizers", *TINY, *args)
    measured = [(r["model"], r["optimizer"]) for r in parsed(tmp_path / "optimizers.csv") if not r["reason"]]
    assert len(measured) == 7 and ("full", "lazy_adam") in measured


@pytest.mark.parametrize("wrong", [["--models", "robe_0mb"], ["--peers", "x"], ["--steps", "0"]])
def test_wrong_flags_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.parse(["lazytower", "bench", "optimizers", *wrong])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
