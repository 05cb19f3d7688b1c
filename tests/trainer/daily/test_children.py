"""Commands of a day as processes: their exit codes, and signals."""

import os
import signal
import subprocess
import sys
import time

import pytest

from configs.errors import Stopped, UserError
from configs.system.lease import LeaseHeld
from trainer.daily import children
from trainer.daily.children import Children
from trainer.run_lock import lock_directory

pytestmark = pytest.mark.any_python


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a program in place of a sub-command."""
    monkeypatch.setattr(
        children, "module_command", lambda module, *arguments: [sys.executable, "-c", *arguments]
    )

    def of(program: str) -> None:
        lock = lock_directory(str(tmp_path))
        try:
            with Children(lock) as made:
                made.run(program)
        finally:
            lock.close()

    return of


def test_exit_codes(run):
    run("pass")
    with pytest.raises(UserError, match="failed, see above"):
        run("raise SystemExit(2)")
    with pytest.raises(Stopped, match="rerun the same command to continue"):
        run("raise SystemExit(75)")
    with pytest.raises(UserError, match="was killed by SIGKILL"):
        run("import os; os.kill(os.getpid(), 9)")


def test_a_signal_is_passed_on_and_ends_the_day(run, tmp_path):
    note = tmp_path / "note"
    before = signal.getsignal(signal.SIGTERM)
    program = (
        "import os, signal, time\n"
        f"def end(*_): open({str(note)!r}, 'w').close(); raise SystemExit(75)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"os.kill({os.getpid()}, signal.SIGTERM)\n"
        "time.sleep(60)"
    )
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        run(program)
    assert note.exists() and signal.getsignal(signal.SIGTERM) == before


_PARENT = """
import sys
from trainer.daily import children
from trainer.run_lock import lock_directory
children.module_command = lambda module, *arguments: [sys.executable, "-c", *arguments]
with children.Children(lock_directory(sys.argv[1])) as made:
    made.run("import sys, time; print('started', file=sys.stderr, flush=True); time.sleep(60)")
"""


def test_commands_do_not_outlive_a_killed_day(tmp_path):
    """And its lock is free again as soon as they are gone."""
    command = [sys.executable, "-c", _PARENT, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "started\n"
    with pytest.raises(LeaseHeld):
        lock_directory(str(tmp_path))
    process.kill()
    assert process.stderr.read() == ""  # ends when the last process has closed it
    process.wait()
    for _ in range(200):
        try:
            lock_directory(str(tmp_path)).close()
            return
        except LeaseHeld:
            time.sleep(0.01)
    pytest.fail("the lock is still held")
