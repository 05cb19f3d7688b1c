"""`lazytower submit`: a dry run touches nothing, and a wheel is what the checkout is."""

import argparse
import io
import os
import pathlib
import zipfile

import pytest

from configs.errors import UserError
from configs.load import dump_config, parse_config
from configs.system.processes import ROOT
from tests.support.documents import document
from trainer.commands import submit
from trainer.jobs import stage, wheel
from trainer.jobs.record import JobRecord, JobState
from trainer.launchers import LAUNCHERS


def everything(directory: pathlib.Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_a_dry_run_prints_the_request_and_the_script_and_touches_nothing(cloud):
    before, objects, asked = (
        everything(cloud.directory),
        cloud.bucket.names(),
        len(cloud.bucket.store.requests),
    )
    output, log = cloud.lazytower("submit", "--config", cloud.config, "--dry_run")
    assert everything(cloud.directory) == before and cloud.bucket.names() == objects
    assert len(cloud.bucket.store.requests) == asked and cloud.tpu.requests == [], "nobody was asked"
    assert '"queuedResourceId": "planted-' in output and '"acceleratorType": "v6e-4"' in output
    assert "--- startup-script\n#!/bin/bash" in output and "class Machine:" in output
    assert "lazytower-0.1.0-py3-none-any.whl" in output and "constraints.txt" not in output


def test_a_dry_run_here_prints_the_command(tmp_path):
    config = parse_config(document(output={"path": str(tmp_path / "run")}), "x")
    text = stage.dry_run(config)
    assert f"{ROOT} trainer.vm '{{" in text and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "start"),
    [("Shop_2.v1", "shop-2-v1-"), ("7days", "run-7days-"), ("__", "run-"), ("x" * 60, "x" * 24 + "-")],
)
def test_job_ids_are_names_that_a_slice_may_have(name, start):
    path = stage.new_path(parse_config(document(name=name), "x"))
    job = path.rpartition("/")[2]
    assert os.path.isabs(path) and job.startswith(start)
    slice_name = f"{job}-1000"
    assert (
        len(slice_name) <= 63 and slice_name.replace("-", "").isalnum() and slice_name == slice_name.lower()
    )
    assert stage.new_path(parse_config(document(name=name), "x")) != path


def test_what_is_staged(cloud):
    config = cloud.load()
    path = stage.stage(config)
    job = path.rpartition("/")[2]
    names = {name.removeprefix(f"run/jobs/{job}/") for name in cloud.bucket.names(f"run/jobs/{job}/")}
    wheel_file = "lazytower-0.1.0-py3-none-any.whl"
    assert names == {"config.yaml", "job.json", "events/000001.json", wheel_file}
    assert cloud.bucket.read(f"run/jobs/{job}/config.yaml").decode() == dump_config(config)
    facts = JobRecord(path).facts
    assert (facts["wheel"], facts["chips"], facts["price_per_chip_hour"]) == (wheel_file, 4, 2.7)


def test_the_exact_set_of_packages_is_staged_where_it_is_installed(cloud):
    (cloud.directory / "exact.txt").write_text("numpy==2.4.6\n")
    config = cloud.load("launch.python=null", f"launch.constraints={cloud.directory}/exact.txt")
    job = stage.stage(config).rpartition("/")[2]
    assert cloud.bucket.read(f"run/jobs/{job}/constraints.txt") == b"numpy==2.4.6\n"
    cpu = cloud.load("launch.python=null")
    assert b"tensorflow==2.20.0" in wheel.read_constraints(cpu)


def test_the_wheel_is_of_the_checkout_which_stays_as_it_is():
    root = pathlib.Path(wheel.__file__).parents[2]
    before = _names(root)
    name, content = wheel.make_wheel(parse_config(document(launch=cloud_section()), "x"))
    assert _names(root) == before
    packed = zipfile.ZipFile(io.BytesIO(content))
    for module in ("trainer/vm/program.py", "trainer/launchers/cloud_tpu.py", "configs/sections/launch.py"):
        assert packed.read(module) == (root / module).read_bytes()
    assert name.endswith(".whl") and not [n for n in packed.namelist() if n.startswith("tests/")]


def _names(root: pathlib.Path) -> list[str]:
    """What lies in the checkout, but for what tools and other tests keep there, under names with a dot."""
    return sorted(name for name in os.listdir(root) if not name.startswith("."))


def cloud_section(**keys) -> dict:
    return {"kind": "cloud_tpu", "project": "p", "zone": "us-east5-b", "slice": "v6e-4", **keys}


def test_without_a_checkout_a_wheel_must_be_named(monkeypatch, tmp_path):
    monkeypatch.setattr(wheel, "_CHECKOUT", str(tmp_path))
    config = parse_config(document(launch=cloud_section()), "x")
    with pytest.raises(UserError, match="launch.wheel: missing, and lazytower is installed without the"):
        wheel.make_wheel(config)
    with pytest.raises(UserError, match="launch.constraints: .*constraints-cpu.txt cannot be read"):
        wheel.read_constraints(config)
    named = parse_config(document(launch=cloud_section(wheel=f"{tmp_path}/none.whl")), "x")
    with pytest.raises(UserError, match="launch.wheel: .*none.whl cannot be read .No such file"):
        wheel.make_wheel(named)


def test_every_launcher_has_its_section_and_the_other_way_round():
    given = ({}, cloud_section(), {"kind": "kubernetes", "image": "x"})
    sections = {parse_config(document(launch=section), "x").launch.kind for section in given}
    assert set(LAUNCHERS) == sections


@pytest.mark.slow
def test_a_refusal_for_good_is_seen_at_once(cloud):
    import grpc

    from tests.support.fake_tpu import Fault

    denied = Fault(grpc.StatusCode.PERMISSION_DENIED, "Permission 'tpu.nodes.create' denied")
    cloud.tpu.faults["CreateQueuedResource"] = [denied]
    output, log = cloud.lazytower("submit", "--config", cloud.config, code=2)
    assert output == "" and "error: permission denied" in log and "roles/tpu.admin" in log
    [job] = {name.split("/")[2] for name in cloud.bucket.names("run/jobs/")}
    assert cloud.history(f"gs://bucket/run/jobs/{job}") == ["submitted", "requesting", "stopping", "failed"]


@pytest.mark.parametrize("outcome", [KeyboardInterrupt(), JobState("queued"), JobState("succeeded")])
def test_what_was_staged_gets_a_supervisor_unless_it_is_over(outcome, tmp_path, monkeypatch, capsys):
    """An interrupted submit may have asked for a slice already."""

    def start(path):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    config = tmp_path / "run.yaml"
    config.write_text(dump_config(parse_config(document(output={"path": str(tmp_path / "run")}), "x")))
    supervised = []
    monkeypatch.setattr("trainer.jobs.checks.check_all", lambda config: (config, []))
    monkeypatch.setattr(submit, "stage", lambda config: "/jobs/one")
    monkeypatch.setattr(submit, "start_job", start)
    monkeypatch.setattr(submit, "start_supervisor", lambda path: (supervised.append(path), "log"))
    args = argparse.Namespace(config=str(config), overrides=[], dry_run=False)
    if isinstance(outcome, BaseException):
        with pytest.raises(KeyboardInterrupt):
            submit.run(args)
    else:
        assert submit.run(args) == 0
    over = outcome == JobState("succeeded")
    assert supervised == ([] if over else ["/jobs/one"])
    assert capsys.readouterr().out == ("" if over else "/jobs/one\n")
