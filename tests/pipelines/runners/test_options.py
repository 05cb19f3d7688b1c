"""Runners and Beam's flags."""

import subprocess
import sys

import pytest
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

from configs.errors import ConfigError
from pipelines.runners.options import beam_options, worker_threads


@pytest.mark.parametrize("name", [None, "DirectRunner", "directrunner", "FnApiRunner"])
def test_the_local_runner_is_named(name):
    options = beam_options(name, [])
    assert options.view_as(StandardOptions).runner == "FnApiRunner"
    assert worker_threads(options) >= 1


def test_flags_reach_beam():
    flags = [
        "--direct_running_mode=multi_processing",
        "--direct_num_workers",
        "2",
        "--temp_location=gs://b/t",
    ]
    options = beam_options(None, flags)
    assert options.view_as(DirectOptions).direct_num_workers == 2
    assert worker_threads(options) == 1


@pytest.mark.parametrize("name", ["DaskRunner", "dask", "apache_beam.runners.dask.dask_runner.DaskRunner"])
def test_dask_is_refused_with_its_reason(name):
    with pytest.raises(ConfigError, match="silently loses"):
        beam_options(name, [])


def test_unknown_runner_and_flags_are_one_line():
    for runner, flags, message in (
        ("Foo", [], "--runner Foo: no such runner; use one of "),
        (None, ["--num_worker=3"], "--num_worker=3: neither"),
        (None, ["stray"], "stray: neither"),
        (None, ["--direct_num_workers=x"], "invalid int value: 'x'"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            beam_options(runner, flags)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", [["prepare"], ["bench"], ["bench", "prepare"]])
def test_help_answers_at_once(command):
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "trainer.cli", *command, "--help"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and "usage" in done.stdout
    for heavy in ("apache_beam", "tensorflow", "pyarrow", "pydantic"):
        assert f" {heavy}\n" not in done.stderr
