"""Checks before a job starts: that the runner's flags are complete, and that its workers can see the files.

The driver, which is this process, lists the source and plans its ranges, holds the target against other
jobs, waits for the job, and publishes. Workers read the source and write inside the target. Both must reach
both.
"""

import importlib.util
import ipaddress
import json
import socket
from typing import TYPE_CHECKING

from configs.errors import ConfigError
from configs.sections.dataset import DatasetConfig
from configs.sections.sources import SourceConfig
from configs.system.storage import is_remote
from pipelines.runners.job_servers import check_job_server, check_process, master_address
from pipelines.runners.running import on_dataflow, template_location

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
    from apache_beam.runners.runner import PipelineRunner

_IMAGE = "an image with lazytower; build one with docker/pipelines.Dockerfile"
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 20.0
# Flags with which Beam would silently return before there is anything to publish, or run another kind of job.
_REFUSED = {
    "no_wait_until_finish": "the command must wait for the job in order to publish",
    "dry_run": "it runs nothing; use --template_location to write a template",
    "output_executable_path": "it runs nothing, so there would be nothing to publish",
    "streaming": "a source has an end",
}


def check_runner(options: "PipelineOptions", source: SourceConfig, dataset: DatasetConfig) -> None:
    """Refuses jobs that would fail, before the source is read or anything is written.

    Args:
      options: PipelineOptions, as pipelines.runners.options.beam_options makes them.
      source, dataset: sections of a RunConfig.

    Raises:
      ConfigError: names the flag or the key.
    """
    check_job(options, _paths(source, dataset))


def check_job(
    options: "PipelineOptions", paths: list[tuple[str, str]], command: str = "prepare", template: bool = True
) -> None:
    """As check_runner, of any job.

    Args:
      paths: (key or flag, path) of what workers read and write.
      command: for messages.
      template: whether the job can be written as a template.
    """
    for flag, reason in _REFUSED.items():
        if options.get_all_options()[flag]:
            raise ConfigError(f"--{flag} cannot be used with {command}: {reason}; remove it")
    if not template and template_location(options):
        raise ConfigError(f"--template_location cannot be used with {command}; remove it")
    if on_dataflow(options):
        _check_dataflow(options)
        _check_paths("elsewhere", paths)
        _validated(options)  # last, because it accesses the bucket of --temp_location
    else:
        _check_paths(_place_of_workers(options, _validated(options)), paths)


def _check_dataflow(options: "PipelineOptions") -> None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions, SetupOptions, WorkerOptions

    # Without the second one Beam silently uses no credentials.
    if not all(importlib.util.find_spec(name) for name in ("google.cloud.dataflow", "google_auth_httplib2")):
        raise ConfigError("--runner DataflowRunner needs Google's clients; run pip install 'lazytower[gcp]'")
    google = options.view_as(GoogleCloudOptions)
    for flag, what in (
        ("project", "the project that is billed"),
        ("region", "the region of the workers, such as europe-west4"),
        ("temp_location", "a gs:// directory for Dataflow's own files"),
    ):
        if not getattr(google, flag):
            raise ConfigError(f"--{flag} is missing; set {what}")
    # If these are not in a bucket, Beam creates one.
    for flag in ("temp_location", "staging_location", "template_location"):
        path = getattr(google, flag)
        if path and not path.startswith("gs://"):
            raise ConfigError(f"--{flag} {path}: Dataflow cannot reach it; use gs://")
    setup = options.view_as(SetupOptions)
    if not (options.view_as(WorkerOptions).sdk_container_image or setup.setup_file or setup.extra_packages):
        raise ConfigError(f"--sdk_container_image is missing: workers run in {_IMAGE}")


def _validated(options: "PipelineOptions") -> "PipelineRunner":
    """The runner, after Beam's own checks of its options."""
    from apache_beam.options.pipeline_options import PortableOptions, StandardOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.runner import create_runner

    portable = options.view_as(PortableOptions)
    if portable.environment_type == "PROCESS" and not portable.environment_options:
        check_process(portable.environment_config)
    name = options.view_as(StandardOptions).runner
    try:
        runner = create_runner(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--runner {name}: {error}") from None
    if errors := PipelineOptionsValidator(options, runner).validate():
        raise ConfigError("; ".join(" ".join(str(error).split()) for error in errors) + f" (--runner {name})")
    return runner


def _place_of_workers(options: "PipelineOptions", runner: "PipelineRunner") -> str:
    """here (this process and its children), other processes (of this machine) or elsewhere."""
    from apache_beam.options.pipeline_options import PortableOptions
    from apache_beam.runners.portability.portable_runner import PortableRunner

    if not isinstance(runner, PortableRunner):
        return "here"
    portable = options.view_as(PortableOptions)
    kind = portable.environment_type
    check_job_server(options)
    if not kind:  # Beam would use containers of an image without lazytower
        raise ConfigError(
            "--environment_type is missing; set LOOPBACK (workers in this process), EXTERNAL (a worker "
            "pool), PROCESS or DOCKER"
        )
    image = portable.environment_config or portable.lookup_environment_option("docker_container_image")
    if kind == "DOCKER" and not image:
        raise ConfigError(f"--environment_config is missing: workers run in {_IMAGE}")
    _check_staged(options, kind)
    if portable.job_endpoint:
        _check_endpoint(portable.job_endpoint)
    elif type(runner) is PortableRunner:
        raise ConfigError(
            "--job_endpoint is missing; set HOST:PORT of a job server for --runner PortableRunner"
        )
    if kind == "LOOPBACK":
        return "here"
    # A remote job server starts remote workers, or uses a worker pool on each of their machines.
    on_this_machine = _is_loopback(master_address(options) or portable.job_endpoint or "")
    if kind == "EXTERNAL":
        on_this_machine = on_this_machine and _is_loopback(_pool_address(portable))
    return "other processes" if on_this_machine and kind in ("EXTERNAL", "PROCESS") else "elsewhere"


def _check_staged(options: "PipelineOptions", kind: str) -> None:
    """Refuses packages for workers that install none."""
    from apache_beam.options.pipeline_options import SetupOptions

    if kind not in ("LOOPBACK", "PROCESS"):
        return
    for flag in ("setup_file", "requirements_file", "extra_packages"):
        if getattr(options.view_as(SetupOptions), flag):
            raise ConfigError(
                f"--{flag.removesuffix('s')}: workers of --environment_type={kind} install nothing; "
                "remove it, and install the package where the workers run"
            )


def _check_endpoint(endpoint: str) -> None:
    """Checks that a job server answers; Beam would wait for minutes."""
    if endpoint == "embed":  # a job server inside this process
        return
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--job_endpoint {endpoint}: not HOST:PORT of a job server; correct it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"--job_endpoint {endpoint}: no job server answers there ({error}); start it, or correct "
            "the address"
        ) from None
    import grpc

    with grpc.insecure_channel(endpoint) as channel:
        ready = grpc.channel_ready_future(channel)
        try:
            ready.result(_ANSWER_SECONDS)
        except grpc.FutureTimeoutError:
            ready.cancel()  # or closing the channel would wait for it
            raise ConfigError(
                f"--job_endpoint {endpoint}: what listens there does not speak gRPC as a job server does, or "
                "a proxy is between; correct the address, or name the host in the variable no_grpc_proxy"
            ) from None


def _pool_address(portable: "PortableOptions") -> str:
    config = portable.environment_config
    if config and config.lstrip().startswith("{"):
        return json.loads(config).get("url", "")
    return config or portable.lookup_environment_option("external_service_address")


def _is_loopback(address: str) -> bool:
    host = address.rpartition("://")[2].rpartition(":")[0].strip("[]") or address
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "embed")


def _paths(source: SourceConfig, dataset: DatasetConfig) -> list[tuple[str, str]]:
    paths = [("source.paths", path) for path in getattr(source, "paths", [])]
    paths += [("source.sides.paths", path) for side in source.sides for path in getattr(side, "paths", [])]
    paths += [("dataset.base", dataset.base)] if dataset.base else []
    return [*paths, ("dataset.path", dataset.path)]


def _check_paths(place: str, paths: list[tuple[str, str]]) -> None:
    for key, path in paths:
        if place == "here" or is_remote(path):
            continue
        if place == "elsewhere":
            raise ConfigError(f"{key}: {path} is on this machine, but the workers are not; use gs://")
        if not path.startswith("/"):
            raise ConfigError(
                f"{key}: {path} is relative to this process's directory, which workers do not share; "
                "use an absolute path"
            )
