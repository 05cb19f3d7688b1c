"""The version is the same everywhere."""

import json
import pathlib
import re
import subprocess
import sys

from trainer.commands import doctor
from trainer.version import VERSION

ROOT = pathlib.Path(__file__).parents[2]


def test_setup_py_reads_it_without_importing_lazytower(tmp_path):
    code = (
        "import runpy, sys, setuptools; setuptools.setup = lambda **given: print(given['version'], "
        "given['py_modules'], 'trainer' in sys.modules); runpy.run_path(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(ROOT / "setup.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{VERSION} ['lazytower_entry'] False\n", done.stderr


def test_setup_py_works_before_the_source_is_there(tmp_path):
    """Images install what it requires in a separate layer."""
    (tmp_path / "setup.py").write_text((ROOT / "setup.py").read_text())
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "0", done.stderr


def test_the_command_prints_it():
    done = subprocess.run([sys.executable, "-m", "trainer", "--version"], capture_output=True, text=True)
    assert done.stdout == f"lazytower {VERSION}\n" and re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_doctor_reports_it(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "diagnose", lambda config, buckets: [])
    arguments = type("Arguments", (), {"config": None, "overrides": [], "gcs": [], "json": True})
    assert doctor.run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["version"] == VERSION
