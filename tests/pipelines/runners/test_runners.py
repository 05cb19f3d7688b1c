"""Runners other than the one in this process: the same dataset, and refusals before anything starts."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import pytest
import yaml

from configs.errors import ConfigError, DataError
from configs.system.processes import module_command
from configs.system.storage import is_remote
from pipelines.prepare import prepare
from pipelines.runners import checks, running
from pipelines.runners.checks import check_runner
from pipelines.runners.options import beam_options
from tests.pipelines.test_prepare import SPLITS, interactions, split_function, write_tsv
from tests.support.beam_clusters import stop
from tests.support.prepared import Reference, assert_matches, configure, content

ROWS = interactions(900, users=60, items=40, seed=5)
DATAFLOW = {
    "project": "abcdef",
    "region": "europe-west4",
    "temp_location": "gs://b/t",
    "sdk_container_image": "i",
}


def free_port() -> int:
    """Free now: another process may take it before it is used."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def serving(module: str, flag: str, directory):
    """Port of `python -m module`, which runs in a directory of its own until the block ends."""
    directory.mkdir()
    # The worker pool starts `python`.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": os.getcwd()}
    for _ in range(5):
        port = free_port()
        command = [sys.executable, "-m", module, f"{flag}={port}"]
        with open(directory / "log", "wb") as log:
            process = subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)
        try:
            if answers(process, port):
                yield port
                return
        finally:
            stop(process)
    raise AssertionError((directory / "log").read_text())


def answers(process: subprocess.Popen, port: int) -> bool:
    """Waits until the port accepts connections; False: the process has ended, perhaps for a taken port."""
    deadline = time.monotonic() + 300
    while process.poll() is None:
        assert time.monotonic() < deadline, "nobody listens"
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def job_server(tmp_path):
    module = "apache_beam.runners.portability.local_job_service_main"
    with serving(module, "--port", tmp_path / "job_server") as port:
        yield port


@pytest.fixture
def worker_pool(tmp_path):
    module = "apache_beam.runners.worker.worker_pool_main"
    with serving(module, "--service_port", tmp_path / "worker_pool") as port:
        yield port


def lazytower(*arguments: str, cwd) -> str:
    """Runs the command line, which must succeed; returns its log."""
    done = subprocess.run([sys.executable, "-m", "trainer.cli", *arguments], capture_output=True, text=True,
                          cwd=cwd, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def ordered(source: dict) -> tuple[dict, dict, Reference]:
    """Source, split, and what is to be made of ROWS by time."""
    split = {"kind": "leave_last_out", "min_rows": 4}
    return source, split, Reference(ROWS, min_rows=4, history_length=3)


def unordered(source: dict) -> tuple[dict, dict, Reference]:
    """Source, split, and what is to be made of ROWS without their times."""
    source["roles"] = {name: column for name, column in source["roles"].items() if name != "timestamp"}
    rows = [row | {"timestamp": row["row"]} for row in ROWS]
    split_of = split_function("random", rows, seed=0)
    reference = Reference(rows, split_of, history_length=3, second=1, timed=False, history_of="others")
    return source, SPLITS["random"], reference


def compare(tmp_path, flags: list[str], world=ordered) -> None:
    """prepare through the command line with flags: the bytes of the in-process runner, and the right rows."""
    source, split, reference = world(write_tsv(tmp_path / "in.tsv", ROWS))
    source["features"] = [{"name": "stars", "column": "rating", "of": "item", "kind": "numeric"}]
    dataset = {"path": str(tmp_path / "here"), "split": split}
    config = configure(source, dataset | {"history_length": 3, "num_shards": 3})
    written = prepare(config.source, config.dataset)
    assert_matches(written, reference)
    (tmp_path / "run.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    there = tmp_path / "there"
    log = lazytower("prepare", "--config", "run.yaml", "--set", f"dataset.path={there}", *flags, cwd=tmp_path)
    assert f"{there}: prepared" in log and "rows read 900" in log
    expected, found = content(str(tmp_path / "here")), content(str(there))
    path = str(tmp_path / "here").encode(), str(there).encode()
    expected["dataset.json"] = expected["dataset.json"].replace(*path)
    assert len(expected) > 6 and found == expected
    assert [name for name in os.listdir(tmp_path) if "prepare-" in name] == []


@pytest.mark.slow
def test_worker_processes(tmp_path):
    flags = "--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"
    compare(tmp_path, flags.split())


@pytest.mark.slow
def test_job_server_and_worker_pool(tmp_path, job_server, worker_pool):
    flags = f"--runner=PortableRunner --job_endpoint=localhost:{job_server} --environment_type=EXTERNAL"
    compare(tmp_path, [*flags.split(), f"--environment_config=localhost:{worker_pool}"], unordered)
    log = (tmp_path / "worker_pool" / "log").read_text()
    assert "Starting worker with command" in log, "a process of the pool did the work"


@pytest.mark.slow
def test_job_server_and_workers_in_this_process(tmp_path, job_server):
    flags = f"--runner=PortableRunner --job_endpoint=localhost:{job_server} --environment_type=LOOPBACK"
    compare(tmp_path, flags.split())


def sections(source="gs://b/*.csv", dataset="gs://b/out"):
    config = configure({"kind": "delimited", "paths": [source]}, {"path": dataset})
    return config.source, config.dataset


def refused(match: str, runner: str, flags: list[str], *paths: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        check_runner(beam_options(runner, flags), *sections(*paths))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", DATAFLOW)
def test_dataflow_names_the_flag_that_is_missing(missing):
    flags = [f"--{name}={value}" for name, value in DATAFLOW.items() if name != missing]
    refused(f"^--{missing} is missing", "DataflowRunner", flags)


def test_dataflow_sees_no_local_files():
    flags = [f"--{name}={value}" for name, value in DATAFLOW.items()]
    for runner in (
        "DataflowRunner",
        "dataflow",
        "apache_beam.runners.dataflow.dataflow_runner.DataflowRunner",
    ):
        refused("^source.paths: raw/a.csv is on this machine", runner, flags, "raw/a.csv")
        refused("^dataset.path: /data/out is on this machine", runner, flags, "gs://b/a.csv", "/data/out")
    for name in ("temp_location", "staging_location", "template_location"):
        refused(f"--{name} /tmp/x: Dataflow cannot reach it", "dataflow", [*flags, f"--{name}=/tmp/x"])


def test_nothing_is_written_when_the_runner_is_refused(tmp_path):
    (tmp_path / "in.csv").write_text("user,item\nu,i\n")
    source, dataset = sections(str(tmp_path / "in.csv"), str(tmp_path / "out"))
    flags = [f"--{name}={value}" for name, value in DATAFLOW.items()]
    with pytest.raises(ConfigError):
        prepare(source, dataset, beam_options("DataflowRunner", flags))
    assert os.listdir(tmp_path) == ["in.csv"]


@pytest.mark.parametrize(
    "flag", ["--no_wait_until_finish", "--dry_run=True", "--output_executable_path=x.jar"]
)
def test_prepare_must_wait(flag):
    refused(f"{flag.partition('=')[0]} cannot be used with prepare", "FnApiRunner", [flag])


def test_a_job_server_must_be_there():
    endpoint = "--job_endpoint=localhost:1"  # below all ports that programs are given; nothing listens there
    refused("^--environment_type is missing; set LOOPBACK", "PortableRunner", [])
    refused("^--environment_type is missing; set LOOPBACK", "FlinkRunner", [])
    loopback = "--environment_type=LOOPBACK"
    refused("^--job_endpoint is missing", "PortableRunner", [loopback])
    refused("not HOST:PORT", "PortableRunner", [loopback, "--job_endpoint=x"])
    refused("no job server answers there", "PortableRunner", [loopback, endpoint])
    refused("^--environment_config is missing", "PortableRunner", ["--environment_type=DOCKER", endpoint])
    refused(
        "external_service_address is required", "PortableRunner", ["--environment_type=EXTERNAL", endpoint]
    )


def test_what_listens_must_be_a_job_server(monkeypatch):
    monkeypatch.setattr(checks, "_ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"--job_endpoint=localhost:{server.getsockname()[1]}"
        refused(
            "does not speak gRPC .*no_grpc_proxy$",
            "PortableRunner",
            ["--environment_type=LOOPBACK", endpoint],
        )


@pytest.mark.parametrize(
    "server, flags, place",
    [
        ("localhost:1", "--environment_type=LOOPBACK", "here"),
        ("far:1", "--environment_type=LOOPBACK", "here"),
        ("localhost:1", "--environment_type=EXTERNAL --environment_config=127.0.0.1:2", "other processes"),
        (
            "[::1]:1",
            '--environment_type=EXTERNAL --environment_config={"url":"localhost:2"}',
            "other processes",
        ),
        ("localhost:1", "--environment_type=EXTERNAL --environment_config=far:2", "elsewhere"),
        ("far:1", "--environment_type=EXTERNAL --environment_config=localhost:2", "elsewhere"),
        ("localhost:1", '--environment_type=PROCESS --environment_config={"command":"x"}', "other processes"),
        ("far:1", '--environment_type=PROCESS --environment_config={"command":"x"}', "elsewhere"),
        ("localhost:1", "--environment_type=DOCKER --environment_config=image", "elsewhere"),
    ],
)
def test_who_sees_the_files(monkeypatch, server, flags, place):
    monkeypatch.setattr(checks, "_check_endpoint", lambda endpoint: None)
    options = beam_options("PortableRunner", [f"--job_endpoint={server}", *flags.split()])
    check_runner(options, *sections())
    for path in ("gs://b/x", "/data/x", "x"):
        fits = is_remote(path) or place == "here" or (place == "other processes" and path[0] == "/")
        with contextlib.nullcontext() if fits else pytest.raises(ConfigError, match="^source.paths: "):
            check_runner(options, *sections(path))


def test_a_job_that_others_ended_publishes_nothing():
    class Result:
        def wait_until_finish(self):
            return "CANCELLED"

    class Pipeline:
        def run(self):
            return Result()

    with pytest.raises(DataError, match="the job ended as CANCELLED; nothing is published"):
        running.run_to_end(Pipeline(), beam_options(None, []))


@pytest.mark.slow
def test_worker_processes_import_nothing_from_the_working_directory(tmp_path):
    """Beam starts them by `python -m`, which would import from the working directory."""
    for name in ("yaml", "pipelines", "configs", "apache_beam"):
        (tmp_path / f"{name}.py").write_text(f"open('ran-{name}', 'w').close()\n")
    document = {
        "source": {"kind": "synthetic", "rows": 300, "users": 9, "items": 8},
        **{"dataset": {"path": "out"}, "train": {"num_steps": 1}, "output": {"path": "x"}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    command = module_command("trainer.cli", "prepare", "--config", "run.yaml", *flags)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("ran-*")) and (tmp_path / "out" / "dataset.json").exists()
