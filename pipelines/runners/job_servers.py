"""Flink and Spark: what is checked of Beam's job server, which translates a job for them."""

import dataclasses
import json
import os
import re
import shutil
from typing import TYPE_CHECKING

from configs.errors import ConfigError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_CACHE_MILLIS = 60_000
_WORKER = "lazytower-beam-worker"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Names of Beam's flags for a kind of cluster."""

    master: str
    """Of its address."""
    jar: str
    """Of the job server that Beam starts if there is no --job_endpoint."""
    uber_jar: str
    """Of the way without a job server."""
    local: str
    """Pattern of masters inside the job server."""


CLUSTERS = {
    "flinkrunner": Cluster(
        "flink_master", "flink_job_server_jar", "flink_submit_uber_jar", local=r"\[(auto|local)\]"
    ),
    "sparkrunner": Cluster(
        "spark_master_url", "spark_job_server_jar", "spark_submit_uber_jar", local=r"local(\[.*\])?"
    ),
}


def cluster_of(options: "PipelineOptions") -> Cluster | None:
    """The kind of cluster that the runner's name says."""
    from apache_beam.options.pipeline_options import StandardOptions

    name = (options.view_as(StandardOptions).runner or "").rpartition(".")[2].lower()
    return CLUSTERS.get(name) or CLUSTERS.get(f"{name}runner")


def keep_workers(options: "PipelineOptions") -> None:
    """Makes Python workers wait a minute for the job's next step, unless --environment_cache_millis says
    otherwise. By default each of the 60 steps starts Python anew.

    Raises:
      ConfigError: the flag is not a number.
    """
    from apache_beam.options.pipeline_options import PortableOptions

    portable = options.view_as(PortableOptions)
    given = str(portable.environment_cache_millis)
    if not given.isdecimal():
        raise ConfigError(f"--environment_cache_millis {given}: not a number of milliseconds; correct it")
    if int(given) == 0:
        portable.environment_cache_millis = _CACHE_MILLIS


def check_job_server(options: "PipelineOptions") -> None:
    """Checks what Beam needs for a job server of its own, which it starts if there is no --job_endpoint.

    Raises:
      ConfigError: names the flag, or the program that is missing.
    """
    from apache_beam.options.pipeline_options import JobServerOptions, PortableOptions

    cluster, given = cluster_of(options), options.get_all_options()
    if cluster is None:
        return
    if given[cluster.uber_jar]:
        raise ConfigError(f"--{cluster.uber_jar} is not supported; remove it, and Beam starts a job server")
    if options.view_as(PortableOptions).job_endpoint:
        return
    java = options.view_as(JobServerOptions).job_server_java_launcher
    if not shutil.which(java):
        raise ConfigError(
            f"{java} is not installed, and Beam's job server needs it; install Java 17, or set "
            "--job_endpoint to HOST:PORT of a job server"
        )
    jar = given[cluster.jar]
    if jar and "://" not in jar and not os.path.isfile(jar):
        raise ConfigError(f"--{cluster.jar} {jar}: no such file; correct it")


def master_address(options: "PipelineOptions") -> str:
    """HOST:PORT of the cluster's master; "localhost" if the cluster is inside the job server; "" if only the
    job server knows."""
    from apache_beam.options.pipeline_options import PortableOptions

    cluster = cluster_of(options)
    if cluster is None or options.view_as(PortableOptions).job_endpoint:
        return ""
    master = options.get_all_options()[cluster.master].strip()
    return "localhost:0" if re.fullmatch(cluster.local, master) else master.rpartition("://")[2].rstrip("/")


def check_process(config: str | None) -> None:
    """Checks --environment_config of --environment_type=PROCESS.

    Raises:
      ConfigError: it names no program.
    """
    fix = f'set {{"command": "/path/of/{_WORKER}"}}, as installed on the workers\' machines'
    if not config:
        raise ConfigError(f"--environment_config is missing; {fix}")
    try:
        command = json.loads(config)["command"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"--environment_config {config}: not an object with a command; {fix}") from None
    if not isinstance(command, str) or not command:
        raise ConfigError(f"--environment_config: the command {command!r} is not a program's path; {fix}")


def failure_reason(text: str) -> str:
    """The line of a failed job's message that says why.

    Args:
      text: of the error that waiting raised; may hold Python's traceback on the worker, and Java's.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    python = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b(: |$)", line)]
    reason = python[-1] if python and "Traceback" in text else lines[0] if lines else "no reason was given"
    return re.sub(r"^configs\.errors\.\w+: ", "", reason)
