"""`bench compare` on two small files; tests/trainer/bench/test_users25m.py has files of a run."""

from trainer import cli
from trainer.bench.results.figures import Figure, write_figures


def compare(*paths) -> int:
    return cli.run(cli.parse(["lazytower", "bench", "compare", *map(str, paths)]))


def test_ratios_and_what_differs(tmp_path, capsys):
    for name, seconds, machine in (("old", 2.0, "a"), ("new", 1.0, "b")):
        figures = [Figure("run", "machine", "", machine), Figure("train", "time", "s", seconds)]
        write_figures(str(tmp_path / name), figures)
    assert compare(tmp_path / "old", tmp_path / "new") == 0
    title, line, note = capsys.readouterr().out.splitlines()
    assert (
        title.split()[-3:] == ["new", "/", "old"] and line.split() == "train time s 2.00 1.00 0.500".split()
    )
    assert note == "-  run: machine: a before, b now"


def test_files_without_a_common_figure(tmp_path, capsys):
    write_figures(str(tmp_path / "old"), [Figure("train", "time", "s", 1.0)])
    write_figures(str(tmp_path / "new"), [Figure("export", "time", "s", 1.0)])
    assert compare(tmp_path / "old", tmp_path / "new") == 2
    assert "have no figure in common; repeat the same stages" in capsys.readouterr().err
