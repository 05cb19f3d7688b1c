"""The predict command: what it prints, and what it says when it cannot."""

import json

import pytest

from tests.support.ranking_runs import as_request, held_out_records, ranking_export
from tests.support.tiny_run import tiny_export, tiny_run
from trainer.cli import parse, run

pytestmark = pytest.mark.any_python


@pytest.fixture(scope="module")
def model():
    return ranking_export("owners")


def _ask(capsys, command, *flags):
    """(exit code, standard output, standard error)."""
    code = run(parse(["lazytower", command, *flags]))
    out, err = capsys.readouterr()
    return code, out, err


def test_flags_and_lines_give_the_same_predictions(model, capsys, tmp_path):
    line = as_request(held_out_records(owners=True)[0])
    flags = ["--user", line["user"], "--item", line["item"], "--history", ",".join(line["history"])]
    for name in ("c0", "c1", "c2", "n0", "n1"):
        flags += ["--set_feature", f"{name}={line[name]}"]
    if line["tags"]:
        flags += ["--set_feature", f"tags={','.join(line['tags'])}"]
    code, out, _ = _ask(capsys, "predict", "--model", model, *flags, "--json")
    assert code == 0
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(line) + "\n{}\n\n")
    from_file = _ask(capsys, "predict", "--model", model, "--requests", str(path), "--json")[1].splitlines()
    first, empty = map(json.loads, from_file)
    assert list(first) == ["click", "buy"] and json.loads(out) == pytest.approx(first, abs=1e-6)
    assert first != empty
    table = _ask(capsys, "predict", "--model", model, "--requests", str(path))[1].splitlines()
    assert table[0] == f"{model}: clicks, step 4, average weights"
    assert table[1].split() == ["row", "click", "buy"]
    assert table[3].split() == ["2", f"{empty['click']:.6f}", f"{empty['buy']:.6f}"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            [],
            "nothing to predict; describe a row with --set_feature NAME=VALUE, or rows with --requests; the",
        ),
        (
            ["--set_feature", "color=red"],
            "the flags: color: the model does not read it; it reads user, item,",
        ),
        (["--set_feature", "n0=much"], "the flags: n0: expected a finite number, found 'much'"),
        (["--set_feature", "n0"], "--set_feature n0: expected NAME=VALUE"),
        (["--set_feature", "user=3"], "--set_feature user=3: user is not a feature; use --user"),
        (["--set_feature", "n0=1e300"], "the flags: n0: expected a finite number, found '1e300'"),
        (["--requests", "none.jsonl"], "--requests none.jsonl: cannot be read"),
        (["--requests", "none.jsonl", "--user", "3"], "--requests: the file says all of a request"),
        (["--set", "train.seed=3"], "--set train.seed=3: changes a config; replace --model by --config"),
    ],
)
def test_errors_are_one_line(model, capsys, flags, message):
    code, out, err = _ask(capsys, "predict", "--model", model, *flags)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"lazytower predict: error: {message}")


def test_a_bad_line_is_named(model, capsys, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n0": 1}\n{"n0": "x"}\n')
    _, _, err = _ask(capsys, "predict", "--model", model, "--requests", str(path))
    assert f"{path}:2: n0: expected a finite number, found 'x'" in err


def test_models_of_the_other_family(model, capsys):
    plain = tiny_export("plain")
    _, _, err = _ask(capsys, "predict", "--model", plain, "--user", "1")
    assert (
        f"{plain}: a retrieval model: `lazytower predict` asks ranking models; use `lazytower recommend`"
        in err
    )
    code, _, err = _ask(capsys, "recommend", "--model", model, "--users", "1")
    assert code == 2 and err.count("\n") == 1
    assert (
        f"{model}: a ranking model: `lazytower recommend` asks retrieval models; use `lazytower predict`"
        in err
    )


def test_configs_of_the_other_family(capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(tiny_run("plain").config.model_dump(mode="json")))
    _, _, err = _ask(capsys, "predict", "--config", str(path), "--user", "1")
    assert err == (
        f"lazytower predict: error: {path}: model.kind two_tower: `lazytower predict` asks ranking models; "
        "use `lazytower recommend`\n"
    )
