"""The report of the doctor: on this machine, for a run, and when something is wrong."""

import json
import re
import socket
import subprocess
import sys

import pytest
import yaml
from google.cloud import tpu_v2 as tpu

from configs.load import parse_config
from tests.support.cluster_hosts import wait_for, workers
from tests.support.fake_tpu import FakeTpu
from tests.support.tiny_run import planted_document, write_planted
from trainer import cli
from trainer.commands import doctor
from trainer.preflight import doctor as preflight_doctor
from trainer.preflight.checks import Result


def lazytower(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "trainer.cli", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def document(tmp_path, **changes) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(planted_document(str(tmp_path)) | changes))
    return str(path)


@pytest.mark.slow
def test_this_machine_for_a_prepared_run(tmp_path):
    write_planted(str(tmp_path))
    done = lazytower("--config", document(tmp_path), "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["failed"] == [], done.stdout
    found = {check["name"]: check for check in report["checks"]}
    assert found["TensorFlow"]["found"].startswith("2.")
    assert found["dataset"]["found"] == f"{tmp_path}/dataset: 4,800 rows in train"
    assert str(tmp_path) in found["disk"]["found"]
    assert found["XLA on the CPU"]["found"] == "compiles"
    assert {check["status"] for check in report["checks"]} <= {"ok", "warn"}


@pytest.fixture
def doctor_of(monkeypatch, capsys):
    """Runs the command in this process, of its probes only those of some groups; (code, output, log)."""
    every = preflight_doctor._probes

    def call(*arguments: str, groups: tuple[str, ...]):
        def chosen(*args):
            return [probe for probe in every(*args) if probe[0] in groups]

        monkeypatch.setattr(preflight_doctor, "_probes", chosen)
        code = cli.run(cli.parse(["lazytower", "doctor", *arguments]))
        return code, *capsys.readouterr()

    return call


def test_what_fails_is_an_error_after_the_report(tmp_path, doctor_of):
    arguments = ("--config", document(tmp_path), "--set", "output.path=/sys/kernel/run")
    code, output, log = doctor_of(*arguments, groups=("dataset",))
    assert code == 2 and log.endswith("checks failed: disk\n")
    lines = output.splitlines()
    assert [line.split()[0] for line in lines if "disk:" in line] == ["fail"]
    assert [line for line in lines if line.startswith("warn  dataset:") and "not prepared yet" in line]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--set", "a=b"),
            "lazytower doctor: error: --set: changes a config; name the config with --config\n",
        ),
        (("--gcs", "bucket"), "lazytower doctor: error: argument --gcs: bucket does not start with gs://"),
        (("--config", "none.yaml"), "lazytower doctor: error: none.yaml: no such config file\n"),
    ],
)
def test_bad_arguments(arguments, message):
    done = lazytower(*arguments)
    assert done.returncode == 2 and done.stderr.startswith(message) and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_bucket(bucket):
    report = json.loads(bucket.lazytower("doctor", "--gcs", bucket.url, "--json"))
    [found] = [check for check in report["checks"] if check["name"] == "bucket"]
    assert found["status"] == "ok" and bucket.names() == []


def test_lines():
    results = [Result("disk", "warn", "5 GB", "make room"), Result("memory", "ok", "8 GB")]
    assert doctor.format_checks(results) == "warn  disk:    5 GB; make room\nok    memory:  8 GB"


def config(tmp_path, **changes):
    return parse_config(planted_document(str(tmp_path)) | changes, "test")


def test_probes_of_a_run(tmp_path):
    local = preflight_doctor._probes(config(tmp_path), [])
    assert local == [("tensorflow", ""), ("beam", ""), ("dataset", f"{tmp_path}/dataset")]
    remote = config(tmp_path, output={"path": "gs://b/run"}, export={"path": "gs://c/models"})
    assert preflight_doctor._probes(remote, ["gs://b"])[3:] == [
        ("bucket", "gs://b"),
        ("bucket", "gs://c/models"),
    ]
    tables = {"item": {"kind": "robe_z", "dim": 8, "size": 64, "block": 8}}
    assert preflight_doctor._probes(config(tmp_path, tables=tables), [])[0] == ("tensorflow", "item")


@pytest.mark.slow
def test_a_cluster(tmp_path, doctor_of):
    with workers(2, tmp_path) as (worker,):
        wait_for("waiting for a driver", worker.log, worker.process)
        path = document(tmp_path, device={"kind": "cluster", "hosts": worker.addresses})
        code, output, _ = doctor_of("--config", path, groups=("cluster",))
        assert code == 0 and re.search(r"\nok +workers: +1 workers accept connections\n", output)
        assert re.search(rf"\nok +cluster: +2 hosts of one version, .* and {tmp_path}/run\n", output)
        assert not list((tmp_path / "run").iterdir())
        with socket.create_server(("127.0.0.1", int(worker.addresses[0].rpartition(":")[2]))):
            code, output, _ = doctor_of("--config", path, groups=("cluster",))
        assert code == 0 and re.search(r"\nwarn +cluster: +not asked, .*: a run is using them", output)
    code, output, log = doctor_of("--config", path, groups=("cluster",))
    assert code == 2 and log.endswith("checks failed: workers, cluster\n")
    assert f"no connection to host 1 at {worker.addresses[1]} (connection refused)" in output


TPU = {"kind": "tpu", "slice": "v4-8"}
NAMED = {"name": "mine", "zone": "us-east5-b", "project": "shop"}


@pytest.mark.parametrize(
    ("device", "wanted", "asked"),
    [
        ({"kind": "cpu"}, False, False),
        (TPU, True, False),
        (TPU | NAMED, False, True),
        (TPU | {"name": "grpc://10.0.0.2:8470"}, False, True),
    ],
)
def test_only_a_run_on_this_machines_tpu_wants_chips(tmp_path, device, wanted, asked):
    run = config(tmp_path, device=device)
    assert preflight_doctor._machine(run).chip_wanted == wanted
    assert ("named_tpu" in [group for group, _ in preflight_doctor._probes(run, [])]) == asked


def test_a_run_on_a_tpu_that_is_not_here(tmp_path, doctor_of):
    code, output, _ = doctor_of("--config", document(tmp_path, device=TPU), "--json", groups=())
    report = json.loads(output)
    assert code == 2 and report["failed"] == ["TensorFlow wheel", "TPU chip"]
    found = {check["name"]: check for check in report["checks"]}
    assert "only tensorflow-tpu drives chips" in found["TensorFlow wheel"]["fix"]
    assert found["TPU chip"]["found"] == "none" and "run on a TPU VM" in found["TPU chip"]["fix"]


def test_a_run_on_a_tpu_of_another_machine(tmp_path, monkeypatch, doctor_of):
    service = FakeTpu(tmp_path, {})
    monkeypatch.setenv("TPU_EMULATOR_HOST", service.address)
    name = "projects/shop/locations/us-east5-b/nodes/mine"
    service.nodes[name] = tpu.Node(
        state=tpu.Node.State.READY, network_endpoints=[tpu.NetworkEndpoint(ip_address="10.0.0.2")]
    )
    try:
        path = document(tmp_path, device=TPU | NAMED)
        code, output, _ = doctor_of("--config", path, groups=("named_tpu",))
        assert code == 0 and re.search(r" named TPU: +mine: grpc://10.0.0.2:8470\n", output)
        service.nodes[name].state = tpu.Node.State.CREATING
        code, output, log = doctor_of("--config", path, groups=("named_tpu",))
        assert code == 2 and log.endswith("checks failed: named TPU\n")
        assert "device.name: TPU mine in projects/shop/locations/us-east5-b is still CREATING" in output
    finally:
        service.close()
