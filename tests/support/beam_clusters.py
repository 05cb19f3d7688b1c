"""Flink and Spark on this machine: a master, two worker processes, and Beam's job server, all real.

    python -m tests.support.beam_clusters flink lazytower prepare --config run.yaml

starts Flink, runs the command with the flags for it appended, and stops what it started. Java and Maven come
from PATH, the jars from Maven Central, once; see docs/prepare.md.
"""

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping

from configs.system.processes import bound_command, module_command
from tests.support.jars import MissingToolError, class_path

_START_SECONDS = 180
# Java 17 hides what Flink and Spark look into; their own start scripts say the same.
_OPENED = "lang lang.invoke lang.reflect io net nio text time util util.concurrent util.concurrent.atomic"
_OPENS = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _OPENED.split()]
_OPENS += [f"--add-opens=java.base/sun.{name}=ALL-UNNAMED" for name in ("nio.ch", "security.action")]
# Each worker of Flink has one slot. A job has about 60 steps, each with buffers of its own: network.*.
_FLINK = """
jobmanager.rpc.address: localhost
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: localhost
rest.address: localhost
rest.port: {rest}
taskmanager.host: localhost
taskmanager.bind-host: localhost
taskmanager.numberOfTaskSlots: 1
taskmanager.cpu.cores: 1
taskmanager.memory.task.heap.size: 512m
taskmanager.memory.task.off-heap.size: 0
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.network.min: 192m
taskmanager.memory.network.max: 192m
taskmanager.memory.managed.size: 256m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 192m
taskmanager.memory.jvm-overhead.max: 192m
classloader.resolve-order: parent-first
io.tmp.dirs: {directory}
"""


@contextlib.contextmanager
def flink(directory: pathlib.Path, environment: dict[str, str] | None = None) -> Iterator[list[str]]:
    """A job manager, two task managers with one slot each, and a job server.

    Args:
      directory: exists; gets logs and temporary files.
      environment: of all processes, and of the Python workers that they start; None: this process's.

    Yields:
      Flags of `lazytower prepare`.
    """
    rpc, rest, job = (free_port() for _ in range(3))
    conf = directory / "conf"
    conf.mkdir()
    (conf / "config.yaml").write_text(_FLINK.format(rpc=rpc, rest=rest, directory=directory))
    java = ["java", "-Xmx1g", *_OPENS, "-cp", ":".join(class_path("flink"))]
    runtime, config = "org.apache.flink.runtime", ["--configDir", str(conf)]
    with contextlib.ExitStack() as started:
        processes = _Processes(started, directory, environment or os.environ)
        processes.start(
            "master", [*java, f"{runtime}.entrypoint.StandaloneSessionClusterEntrypoint", *config]
        )
        for number in (1, 2):
            processes.start(f"worker{number}", [*java, f"{runtime}.taskexecutor.TaskManagerRunner", *config])
        server = ["org.apache.beam.runners.flink.FlinkJobServerDriver", f"--flink-master=localhost:{rest}"]
        processes.start("job_server", [*java, *server, *_job_server_flags(directory, job)])
        processes.wait(lambda: _flink_slots(rest) == 2)
        processes.wait(lambda: _listens(job))
        yield ["--runner=FlinkRunner", "--parallelism=2", *_flags(directory, job)]


@contextlib.contextmanager
def spark(directory: pathlib.Path, environment: dict[str, str] | None = None) -> Iterator[list[str]]:
    """A master, two workers with one core each, and a job server; as `flink`."""
    port, page, job = (free_port() for _ in range(3))
    jars = directory / "jars"  # a worker starts executors with the jars of its SPARK_HOME
    jars.mkdir()
    for jar in class_path("spark"):
        (jars / os.path.basename(jar)).symlink_to(jar)
    java = ["java", "-Xmx1g", *_OPENS, "-cp", f"{jars}/*"]
    here = {"SPARK_HOME": str(directory), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_SCALA_VERSION": "2.12"}
    deploy, address = "org.apache.spark.deploy", f"spark://localhost:{port}"
    with contextlib.ExitStack() as started:
        processes = _Processes(started, directory, {**(environment or os.environ), **here})
        master = ["--host", "localhost", "--port", str(port), "--webui-port", str(page)]
        processes.start("master", [*java, f"{deploy}.master.Master", *master])
        processes.wait(lambda: _listens(port))
        for number in (1, 2):
            work = ["--cores", "1", "--memory", "1g", "--host", "localhost", "--webui-port", "0"]
            work += ["--work-dir", str(directory / f"work{number}"), address]
            processes.start(f"worker{number}", [*java, f"{deploy}.worker.Worker", *work])
        properties = [
            "-Dspark.executor.memory=768m",
            "-Dspark.ui.enabled=false",
            "-Dspark.default.parallelism=2",
        ]
        server = ["org.apache.beam.runners.spark.SparkJobServerDriver", f"--spark-master-url={address}"]
        processes.start(
            "job_server", [*java[:1], *properties, *java[1:], *server, *_job_server_flags(directory, job)]
        )
        processes.wait(lambda: _spark_workers(page) == 2)
        processes.wait(lambda: _listens(job))
        yield ["--runner=SparkRunner", *_flags(directory, job)]


CLUSTERS = {"flink": flink, "spark": spark}


def free_port() -> int:
    """Free now: another process may take it before it is used."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class _Processes:
    """Processes with logs NAME.log in a directory, which the stack ends."""

    def __init__(self, stack: contextlib.ExitStack, directory: pathlib.Path, environment: Mapping[str, str]):
        self._stack, self._directory, self._environment = stack, directory, environment
        self._running: dict[str, subprocess.Popen] = {}

    def start(self, name: str, command: list[str]) -> None:
        with open(self._directory / f"{name}.log", "wb") as log:
            self._running[name] = subprocess.Popen(
                bound_command(command, signal.SIGTERM),
                cwd=self._directory,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        self._stack.callback(stop, self._running[name])

    def wait(self, ready: Callable[[], bool]) -> None:
        """Waits until something is ready, or a process has ended, or time is up."""
        deadline = time.monotonic() + _START_SECONDS
        while not ready():
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name}: {(self._directory / f'{name}.log').read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cluster does not start; see the logs in {self._directory}")
            time.sleep(0.2)


def stop(process: subprocess.Popen) -> None:
    """Ends a process, by force if it does not end within 20 s."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _job_server_flags(directory: pathlib.Path, port: int) -> list[str]:
    artifacts = f"--artifacts-dir={directory / 'artifacts'}"
    return [
        f"--job-port={port}",
        "--artifact-port=0",
        "--expansion-port=0",
        "--job-host=localhost",
        artifacts,
    ]


def _flags(directory: pathlib.Path, port: int) -> list[str]:
    """Flags for a job server, and for SDK workers that Flink and Spark start with this Python."""
    worker = directory / "sdk_worker"
    command = shlex.join(module_command("pipelines.runners.sdk_worker"))
    worker.write_text(
        f'#!/bin/sh\nexec {command} "$@" 2>> {shlex.quote(str(directory / "sdk_workers.log"))}\n'
    )
    worker.chmod(0o755)
    config = json.dumps({"command": str(worker)})
    return [
        f"--job_endpoint=localhost:{port}",
        "--environment_type=PROCESS",
        f"--environment_config={config}",
    ]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("localhost", port), 1).close()
        return True
    return False


def _answer(port: int, path: str) -> dict:
    with contextlib.suppress(OSError):
        with urllib.request.urlopen(f"http://localhost:{port}/{path}", timeout=5) as answer:
            return json.load(answer)
    return {}


def _flink_slots(port: int) -> int:
    return _answer(port, "overview").get("slots-total", 0)


def _spark_workers(port: int) -> int:
    return _answer(port, "json/").get("aliveworkers", 0)


def main() -> int:
    """Runs a command on a cluster; see the module's docstring."""
    name, command = sys.argv[1] if sys.argv[1:] else "", sys.argv[2:]
    if name not in CLUSTERS or not command:
        print(__doc__)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # stops the cluster too
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as directory:
        with CLUSTERS[name](pathlib.Path(directory)) as flags:
            code = subprocess.run([*command, *flags]).returncode
        if code:  # logs would be gone with the directory
            other = shutil.ignore_patterns("jars", "artifacts", "work?")
            print(f"logs: {shutil.copytree(directory, f'{directory}-logs', ignore=other)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MissingToolError as error:
        sys.exit(str(error))
