"""The daily job, with commands in place of the real ones: what becomes of days, and of interrupted ones."""

import json
import pathlib
import random
import shutil

import pytest

from configs.errors import UserError
from tests.support.fake_day import FakeCommands, Killed, daily_config, day_file, tree
from trainer import run_lock
from trainer.daily import job
from trainer.daily.record import DayFolder, days_path, read_days
from trainer.run_lock import lock_directory

pytestmark = pytest.mark.any_python

NAMES = [f"2023-12-{9 + number:02}" for number in range(6)]
FIGURES = dict(
    zip(NAMES, [(0.2, 0.0), (0.21, 0.2), (0.1, 0.2), (0.199, 0.2), (0.3, 0.2), (0.3, 0.3)], strict=True)
)


@pytest.fixture
def commands(monkeypatch) -> FakeCommands:
    made = FakeCommands(FIGURES)
    monkeypatch.setattr(job, "Children", made)
    return made


def run(root: pathlib.Path, number: int, name: str | None = None, **sections):
    return job.run_day(daily_config(root, **sections), [day_file(root, number)], name)


def versions(root: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (root / "run" / "export").glob("[0-9]*"))


def trained(root: pathlib.Path, name: str) -> list:
    return json.loads((root / "datasets" / "days" / name / "run" / "trained.json").read_text())


def test_days_follow_each_other(tmp_path, commands):
    first = run(tmp_path, 0)
    assert (first.name, first.base, first.source_run, first.accepted) == (NAMES[0], None, None, True)
    assert first.rows == {"train": 80, "valid": 10, "test": 10}
    second = run(tmp_path, 1)
    days = str(tmp_path / "datasets" / "days")
    assert second.base == f"{days}/{NAMES[0]}/dataset" and second.source_run == f"{days}/{NAMES[0]}/run"
    assert (second.value, second.served_value, second.accepted, second.version) == (0.21, 0.2, True, 2)
    assert trained(tmp_path, NAMES[1]) == [f"{days}/{NAMES[1]}/dataset", second.source_run, None]
    assert versions(tmp_path) == ["1", "2"]
    stages = ["prepare", "train", "evaluate", "evaluate", "export"]
    assert [command for command, _ in commands.done] == ["prepare", "train", "evaluate", "export", *stages]
    assert {name for _, name in commands.done[1:4]} == {f"shop-{NAMES[0]}"}


def test_a_worse_day_is_refused_and_the_next_one_starts_from_the_served_run(tmp_path, commands):
    for number in range(3):
        record = run(tmp_path, number)
    assert not record.accepted and record.version is None
    assert record.reason == (
        "ndcg@10 0.1000, the served model 0.2000 on the same rows: worse by 50.0%, day.tolerance is 2.0%"
    )
    assert versions(tmp_path) == ["2"]  # day.keep is 2
    record = run(tmp_path, 3)
    days = tmp_path / "datasets" / "days"
    assert record.base == str(days / NAMES[2] / "dataset")
    assert record.source_run == str(days / NAMES[1] / "run")
    assert record.accepted and "worse by 0.5%, within day.tolerance 2.0%" in record.reason
    # Its rows, those of the refused day, and the held-out rows of the day before that.
    assert trained(tmp_path, NAMES[3])[2] == pytest.approx(2.0)
    run(tmp_path, 4)
    assert trained(tmp_path, NAMES[4])[2] is None


def test_a_window_of_the_config_stays(tmp_path, commands):
    for number in range(3):
        run(tmp_path, number)
    run(tmp_path, 3, train={"window_days": 3.0})
    assert trained(tmp_path, NAMES[3])[2] == 3.0


def test_old_days_go_but_not_what_others_stand_on(tmp_path, commands):
    for number in range(5):
        run(tmp_path, number)
    days = {day.name: day for day in read_days(str(tmp_path / "datasets" / "days"))}
    assert list(days) == NAMES[:5]
    runs = [name for name, day in days.items() if pathlib.Path(day.run).exists()]
    assert runs == NAMES[3:5]
    assert all((pathlib.Path(day.dataset) / "dataset.json").exists() for day in days.values())
    # The versions of kept days: that of the second day went with its run.
    assert versions(tmp_path) == ["3", "4"]


def test_datasets_on_which_no_kept_day_stands_go(tmp_path, commands):
    for number in range(2):
        run(tmp_path, number)
    # As `prepare --compact` leaves it.
    path = tmp_path / "datasets" / "days" / NAMES[1] / "dataset" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": None}))
    for number in (2, 3):
        run(tmp_path, number)
    kept = sorted(p.parent.name for p in (tmp_path / "datasets" / "days").glob("*/dataset"))
    assert kept == NAMES[1:4]


def test_the_served_run_stays_however_many_days_are_refused(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(commands, "_figures", dict.fromkeys(NAMES, (0.1, 0.2)))
    for number in range(5):
        run(tmp_path, number)
    kept = sorted(p.parent.name for p in (tmp_path / "datasets" / "days").glob("*/run"))
    assert kept == [NAMES[0], NAMES[3], NAMES[4]] and versions(tmp_path) == ["1"]


def test_a_day_that_is_done_is_not_made_again(tmp_path, commands):
    record = run(tmp_path, 0)
    before, number = tree(tmp_path), len(commands.done)
    assert run(tmp_path, 0) == record
    assert tree(tmp_path) == before and len(commands.done) == number


def test_names(tmp_path, commands):
    assert run(tmp_path, 0, "monday").name == "monday"
    assert (tmp_path / "datasets" / "days" / "monday" / "dataset").exists()
    with pytest.raises(UserError, match="monday: there is a day of this name, of other files"):
        run(tmp_path, 1, "monday")
    with pytest.raises(UserError, match="--name tuesday: these files are the day monday already"):
        run(tmp_path, 0, "tuesday")
    for wrong in ("pending", ".lock", "a/b", ""):
        with pytest.raises(UserError, match="--name '"):
            run(tmp_path, 1, wrong)


def test_two_days_of_one_date(tmp_path, commands):
    run(tmp_path, 0)
    other = tmp_path / "late.csv"
    other.write_text("0")
    config = daily_config(tmp_path)
    with pytest.raises(UserError, match=f"{NAMES[0]}: there is a day of this name"):
        job.run_day(config, [str(other)])
    assert job.run_day(config, [str(other)], "late").name == "late"
    assert [day.name for day in read_days(days_path(config))] == [NAMES[0], "late"]


def test_a_source_without_times_needs_a_name(tmp_path, commands):
    roles = {"roles": {"user": "user", "item": "item"}}
    with pytest.raises(UserError, match="name it with --name"):
        run(tmp_path, 0, source=roles)
    with pytest.raises(UserError, match="reads no files"):
        job.run_day(daily_config(tmp_path, source={}).model_copy(update={"source": _planted()}), ["x"])
    with pytest.raises(UserError, match="day.metric: 'auc' is not a metric of this run"):
        run(tmp_path, 0, day={"metric": "auc"})
    assert not commands.done


def _planted():
    from configs.sections.source_kinds.synthetic import SyntheticSourceConfig

    return SyntheticSourceConfig(kind="synthetic", rows=10, users=2, items=2)


def test_one_day_at_a_time(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(run_lock, "_PATIENCE_SECONDS", 0.0)
    lock = lock_directory(str(tmp_path / "datasets" / "days"))
    try:
        with pytest.raises(UserError, match="a day is running"):
            run(tmp_path, 0)
    finally:
        lock.close()
    run(tmp_path, 0)


def test_an_interrupted_day_is_ended_before_the_next(tmp_path, commands):
    run(tmp_path, 0)
    commands.kill_at = 3  # training of the second day
    with pytest.raises(Killed):
        run(tmp_path, 1)
    commands.kill_at = None
    record = run(tmp_path, 2)
    assert [day.record.is_done for day in read_days(str(tmp_path / "datasets" / "days"))] == [True] * 3
    assert record.base.endswith(f"{NAMES[1]}/dataset") and record.source_run.endswith(f"{NAMES[1]}/run")


def test_a_failing_day_says_how_to_leave_it_out(tmp_path, commands, monkeypatch):
    def fail(config, _):
        raise UserError("no rows; write some")

    monkeypatch.setattr(commands, "_prepare", fail)
    with pytest.raises(UserError, match="^day pending: no rows; write some$"):
        run(tmp_path, 0)
    with pytest.raises(
        UserError, match=r"no rows; write some\. To leave this day out, delete .*/days/pending"
    ):
        run(tmp_path, 1)


def test_a_damaged_record_is_named(tmp_path, commands):
    run(tmp_path, 0)
    path = tmp_path / "datasets" / "days" / NAMES[0] / "day.json"
    for text in ("{", '{"format": 2}', "[]", path.read_text().replace("pruned", "served")):
        path.write_text(text)
        with pytest.raises(UserError, match=r"day\.json: not the record of a day"):
            run(tmp_path, 1)


def _undisturbed(root: pathlib.Path, commands) -> dict[str, bytes]:
    for number in range(4):
        run(root, number)
    return tree(root)


def test_deaths_at_any_moment_change_nothing(tmp_path, commands, monkeypatch):
    """Before and after each command, and before and after each change of a record."""
    root, copy = tmp_path / "days", tmp_path / "copy"
    root.mkdir()
    wanted = _undisturbed(root, commands)
    root.rename(copy)
    _die_at_writes(monkeypatch, commands)
    draw, deaths = random.Random(5), 0
    root.mkdir()
    for number in range(4):
        served = versions(root)
        commands.kill_at = draw.randrange(1, 4)
        while True:
            try:
                run(root, number)
            except Killed:
                deaths += 1
                assert set(versions(root)) >= set(served[-1:]), "the served version was taken away"
                commands.kill_at = draw.choice([None, *range(1, 24), *range(1, 24)])
            else:
                break
    assert deaths > 10
    assert tree(root) == wanted


@pytest.mark.parametrize("event", range(1, 40, 3))
def test_a_death_at_each_moment_of_a_day(tmp_path, commands, monkeypatch, event):
    run(tmp_path, 0)
    shutil.copytree(tmp_path, tmp_path.with_name("whole"))
    run(tmp_path, 1)
    wanted = tree(tmp_path)
    shutil.rmtree(tmp_path)
    tmp_path.with_name("whole").rename(tmp_path)
    _die_at_writes(monkeypatch, commands)
    commands.kill_at = event
    try:
        run(tmp_path, 1)
    except Killed:
        assert versions(tmp_path)
        commands.kill_at = None
        run(tmp_path, 1)
    else:
        assert event > 25
    assert tree(tmp_path) == wanted


def _die_at_writes(monkeypatch, commands) -> None:
    write, settle = DayFolder.write, DayFolder.settle

    def written(self, **changes):
        commands.event()
        write(self, **changes)
        commands.event()

    def settled(self):
        commands.event()
        settle(self)
        commands.event()

    monkeypatch.setattr(DayFolder, "write", written)
    monkeypatch.setattr(DayFolder, "settle", settled)
