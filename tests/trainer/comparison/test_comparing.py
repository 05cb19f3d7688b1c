"""Runs beside each other: a better one wins, another seed is noise, and others are refused."""

import json

import pytest

from configs.errors import UserError
from configs.load import parse_config
from tests.support.ranking_runs import ranking_run
from tests.support.tiny_run import planted_document, tiny_run, write_planted
from trainer.cli import parse
from trainer.cli import run as run_command
from trainer.comparison.contenders import config_differences, load_contenders
from trainer.training.run import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, str]:
    """Two seeds of one config, and a run that has hardly begun."""
    root = tmp_path_factory.mktemp("compared")
    write_planted(str(root))
    found = {}
    for name, steps, seed in (("good", 100, 0), ("seed", 100, 1), ("short", 4, 0)):
        document = planted_document(str(root))
        document["train"] |= {"num_steps": steps, "seed": seed}
        document["evaluate"] = {"every_steps": 50, "k": [5], "by": ["activity"] if name == "seed" else []}
        document["output"] = {"path": str(root / name)}
        train(parse_config(document, name))
        found[name] = str(root / name)
    return found


def compared(capsys, tmp_path, *arguments: str) -> tuple[int, str, str]:
    line = ["lazytower", "compare", *arguments, "--html", str(tmp_path / "page.html")]
    code = run_command(parse(line))
    text = capsys.readouterr()
    return code, text.out, text.err


def test_a_better_run_wins_and_a_seed_is_noise(runs, capsys, tmp_path):
    code, out, _ = compared(capsys, tmp_path, runs["short"], runs["good"], runs["seed"], "--json")
    assert code == 0
    found = json.loads(out)
    assert [run["run"] for run in found["runs"]] == ["short", "good", "seed"]
    for run in found["runs"][1:]:
        verdicts = {d["metric"]: d["verdict"] for d in run["differences"] if d["group"] == "all"}
        assert verdicts["ndcg@5"] == verdicts["recall@5"] == "better"
    assert found["keys"]["train.num_steps"] == [4, 100, 100] and found["keys"]["train.seed"] == [0, 0, 1]
    assert not any(key.startswith(("output", "source")) for key in found["keys"])
    code, out, _ = compared(capsys, tmp_path, runs["good"], runs["seed"], "--json")
    verdicts = [d["verdict"] for d in json.loads(out)["runs"][1]["differences"] if d["group"] == "all"]
    assert verdicts == ["noise"] * 4


def test_segments_are_those_of_the_first_run(runs, capsys, tmp_path):
    def segments(*arguments: str) -> dict:
        code, out, _ = compared(capsys, tmp_path, *arguments, "--json")
        assert code == 0
        found = json.loads(out)
        for run in found["runs"]:
            places = [(one["task"], one["table"], one["group"]) for one in run["metrics"]]
            assert len(set(places)) == len(places) and {table for _, table, _ in places} == {
                "",
                *found["tables"],
            }
        places = {(one["table"], one["group"], one["metric"]) for one in found["runs"][1]["differences"]}
        for one in found["runs"][0]["metrics"]:
            for metric in {"hr@5", "recall@5", "ndcg@5", "mrr"} & set(one):
                assert (one["table"], one["group"], metric) in places
        return found["tables"]

    activity = {
        "activity/users": {"title": "train rows of the user", "unit": "users"},
        "activity/items": {"title": "train rows of the target item", "unit": "targets"},
    }
    assert segments(runs["seed"], runs["good"]) == activity
    assert list(segments(runs["good"], runs["seed"])) == ["activity/users"]
    asked = segments(runs["good"], runs["seed"], "--set", "evaluate.by=[age, activity]")
    assert list(asked) == ["activity/users", "age/users", "age/items", "activity/items"]


def test_text_and_page(runs, capsys, tmp_path):
    by = ("--set", "evaluate.by=[activity]")
    code, out, _ = compared(capsys, tmp_path, runs["good"], runs["short"], "--split", "valid", *by)
    assert code == 0
    lines = out.splitlines()
    assert ["train.num_steps", "100", "4"] in [line.split() for line in lines]
    heading = next(line for line in lines if line.startswith("valid"))
    assert heading.split() == [
        "valid",
        "run",
        "value",
        "difference",
        "from",
        "to",
        "is",
        "users",
        "+",
        "users",
        "-",
    ]
    columns = ["run", "ndcg@5", "difference"]
    for title, rest in (
        ("train rows of the user", ["users", *columns, "users", "+", "users", "-"]),  # too few for intervals
        ("train rows of the target item", ["targets", *columns, "from", "to", "is"]),
    ):
        place = next(place for place, line in enumerate(lines) if line.startswith(title))
        assert lines[place].removeprefix(title).split() == rest
        assert lines[place + 1].split("  ")[0].replace(",", "").split()[0].isdigit()
        assert lines[place + 2].split()[0] == "short"
    assert "full ranking" in out and "each of which counts by itself" in out
    page = (tmp_path / "page.html").read_text()
    for text in ("Comparison of good and short", "What differs in the configs", "train.num_steps", "Loss"):
        assert text in page
    for title in ("train rows of the user", "train rows of the target item"):
        assert f"<h2>Segments: {title}</h2>" in page
    assert page.count("<summary>All metrics of each segment</summary>") == 2
    assert page.count('class="figure"') >= 2 and page.count("Metrics by step on valid") == 1


def test_refusals(runs):
    def refused(*names: str, overrides: tuple[str, ...] = ()) -> str:
        with pytest.raises(UserError) as error:
            load_contenders([runs.get(name, name) for name in names], overrides)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert refused("good") == "compare takes at least two runs; name another one"
    assert "named twice" in refused("good", "good")
    assert "has no config.yaml" in refused("good", "/nowhere")
    tiny, ranking = tiny_run("plain").config.output.path, ranking_run("keys").output.path
    assert "were trained on different datasets" in refused("good", tiny, overrides=("evaluate.k=[5]",))
    assert refused("good", ranking).startswith("model.family: retrieval in ")


def test_other_protocols_are_refused(runs, tmp_path):
    document = planted_document(runs["good"].rpartition("/")[0])
    document["evaluate"]["k"] = [7]
    other = tmp_path / "other.yaml"
    other.write_text(json.dumps(document | {"output": {"path": str(tmp_path / "other")}}))
    with pytest.raises(UserError, match=r"evaluate.k: \[5\] in .*good, but \[7\] in .*other.*; pass --set"):
        load_contenders([runs["good"], str(other)], ())
    same = load_contenders([runs["good"], str(other)], ["evaluate.k=[5]"])
    keys = dict(config_differences(same))
    assert keys["train.num_steps"] == [100, 60] and "evaluate.k" not in keys
