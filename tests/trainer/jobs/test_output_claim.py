"""The job that writes a directory is found, wherever its record is."""

import pathlib

import pytest

from trainer.jobs.output_claim import claim_output, last_job
from trainer.jobs.record import JobRecord

pytestmark = pytest.mark.any_python


def job(staging: pathlib.Path, name: str, output: str, *events: str, directory: str = "/") -> JobRecord:
    facts = {"output": output, "directory": directory, "submitted": f"2026-11-27T19:00:0{name[-1]}Z"}
    record = JobRecord.create(str(staging / name), facts)
    for event in events:
        record.append(event, 1)
    return record


def test_one_that_runs_comes_before_newer_ones(tmp_path):
    output = str(tmp_path / "run")
    assert last_job(output, f"{tmp_path}/jobs") is None
    job(tmp_path / "jobs", "b-1", output, "failed")
    second = job(tmp_path / "jobs", "a-2", output, "cancelled")
    job(tmp_path / "jobs", "c-9", str(tmp_path / "other"))
    assert last_job(output, f"{tmp_path}/jobs").path == second.path, "by time, not by name"
    alive = job(tmp_path / "jobs", "b-0", output, "running")
    assert last_job(output, f"{tmp_path}/jobs").path == alive.path


def test_its_path_is_that_of_its_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = job(tmp_path / "run" / "jobs", "a-1", "run", directory=str(tmp_path))
    assert last_job("run", "run/jobs").path == found.path == f"{tmp_path}/run/jobs/a-1"


def test_it_is_found_by_its_claim_and_without_one(tmp_path):
    output = str(tmp_path / "run")
    killed = job(tmp_path / "jobs", "a-1", output)  # `submit` died before the claim
    assert last_job(output, f"{tmp_path}/jobs").path == killed.path
    killed.append("cancelled", 0)
    elsewhere = job(tmp_path / "other_jobs", "a-2", output)
    assert last_job(output, f"{tmp_path}/jobs").path == killed.path
    claim_output(output, elsewhere)
    assert last_job(output, f"{tmp_path}/jobs").path == elsewhere.path


def test_one_without_readable_facts_is_none(tmp_path):
    output = str(tmp_path / "run")
    found = job(tmp_path / "jobs", "a-1", output, "running")
    claim_output(output, found)
    pathlib.Path(found.path, "job.json").write_text("{")
    assert last_job(output, f"{tmp_path}/jobs") is None
