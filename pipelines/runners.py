"""What a runner needs before a job starts: flags of its own, and workers that see the files.

The driver, which is this process, lists the source and plans its ranges, holds the target against other
jobs, waits for the job, and publishes. Workers read the source and write inside the target. So both must
reach both.
"""

import importlib.util
import ipaddress
import json
import shlex
import socket
from logging import INFO, getLogger

from absl import logging

from configs.errors import ConfigError, DataError
from configs.system.processes import module_command
from configs.system.storage import is_remote
from pipelines.options import DEFAULT_RUNNER
from pipelines.sources.files import scheme_problem

_IMAGE = "an image that holds lazytower: docker/pipelines.Dockerfile makes one"
_CONNECT_SECONDS = 5.0
# What Beam would do without a word: end at once, before there is anything to publish.
_NOT_WAITING = {
    "no_wait_until_finish": "prepare publishes when the job has ended",
    "dry_run": "it runs nothing; --template_location writes the job down without running it",
    "output_executable_path": "it runs nothing, and prepare publishes what a job has written",
}


def on_dataflow(options) -> bool:
    """Whether the job is for Google's Dataflow."""
    from apache_beam.options.pipeline_options import StandardOptions

    return options.view_as(StandardOptions).runner.rpartition(".")[2].lower() in (
        "dataflowrunner",
        "dataflow",
        "testdataflowrunner",
    )


def template_location(options) -> str | None:
    """Where the job is written down in place of being run, which only Dataflow does; None: it runs."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    return options.view_as(GoogleCloudOptions).template_location if on_dataflow(options) else None


def check_runner(options, source, dataset) -> None:
    """Refuses what cannot end well, before the source is read or anything is written.

    Args:
      options: PipelineOptions, as pipelines.options.beam_options makes them.
      source, dataset: sections of a RunConfig.

    Raises:
      ConfigError: names the flag or the key.
    """
    if problem := scheme_problem(dataset.path):
        raise ConfigError(f"dataset.path: {dataset.path}: {problem}")
    for flag, reason in _NOT_WAITING.items():
        if options.get_all_options()[flag]:
            raise ConfigError(f"--{flag} does not go with prepare: {reason}; leave it out")
    if on_dataflow(options):
        _check_dataflow(options)
        _check_paths("elsewhere", source, dataset)
        _validated(options)  # last, because it looks at the bucket of --temp_location
    else:
        _check_paths(_place_of_workers(options, _validated(options)), source, dataset)


def make_runner(options):
    """The runner, when it is not enough to name it to Beam; else None.

    Beam starts worker processes by `python -m`, which imports from the working directory; see
    configs/system/processes.py.
    """
    from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

    if options.view_as(DirectOptions).direct_running_mode != "multi_processing":
        return None
    if options.view_as(StandardOptions).runner != DEFAULT_RUNNER:
        return None
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    command = shlex.join(module_command("apache_beam.runners.worker.sdk_worker_main"))

    class WorkerProcesses(FnApiRunner):
        """Beam's, which sets this attribute anew when it runs."""

        _default_environment = property(
            lambda self: SubprocessSDKEnvironment.from_command_string(command_string=command),
            lambda self, value: None,
        )

    return WorkerProcesses()


def run_to_end(pipeline, options) -> None:
    """Runs a pipeline, or writes its template; cancels the job when this process is interrupted.

    Raises:
      DataError: somebody else ended the job.
    """
    from apache_beam.runners.runner import PipelineState

    if on_dataflow(options):  # states and messages of the job
        getLogger("apache_beam.runners.dataflow.dataflow_runner").setLevel(INFO)
    result = pipeline.run()
    try:
        _show_address(result, options)
        state = result.wait_until_finish()
    except BaseException:
        _cancel(result)
        raise
    if state not in (PipelineState.DONE, None):
        raise DataError(f"the job ended as {state}; nothing is published. Run the same command again")


def _show_address(result, options) -> None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    if on_dataflow(options) and result.has_job:
        google = options.view_as(GoogleCloudOptions)
        logging.info(
            "the job: https://console.cloud.google.com/dataflow/jobs/%s/%s?project=%s",
            google.region,
            result.job_id(),
            google.project,
        )


def _cancel(result) -> None:
    """It costs money, and nobody would publish what it writes."""
    from apache_beam.runners.runner import PipelineState

    try:
        if not PipelineState.is_terminal(result.state):
            logging.warning("cancelling the job, because this process ends")
            result.cancel()
    except Exception as error:  # whatever made waiting fail; that error is the one to show
        logging.warning("the job may still run, stop it yourself: %s", error)


def _check_dataflow(options) -> None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions, SetupOptions, WorkerOptions

    # Without the second Beam goes on without credentials.
    if not all(importlib.util.find_spec(name) for name in ("google.cloud.dataflow", "google_auth_httplib2")):
        raise ConfigError("--runner DataflowRunner needs Google's clients; pip install 'lazytower[gcp]'")
    google = options.view_as(GoogleCloudOptions)
    for flag, what in (
        ("project", "the project that pays"),
        ("region", "the region of the workers, such as europe-west4"),
        ("temp_location", "a gs:// directory for Dataflow's own files"),
    ):
        if not getattr(google, flag):
            raise ConfigError(f"--{flag} is missing: --runner DataflowRunner needs {what}")
    # Beam makes a bucket of its own when these are no places in one.
    for flag in ("temp_location", "staging_location", "template_location"):
        path = getattr(google, flag)
        if path and not path.startswith("gs://"):
            raise ConfigError(f"--{flag} {path}: Dataflow cannot reach it; use gs://")
    setup = options.view_as(SetupOptions)
    if not (options.view_as(WorkerOptions).sdk_container_image or setup.setup_file or setup.extra_packages):
        raise ConfigError(f"--sdk_container_image is missing: workers run in {_IMAGE}")


def _validated(options):
    """The runner, after Beam's own checks of its options."""
    from apache_beam.options.pipeline_options import StandardOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.runner import create_runner

    name = options.view_as(StandardOptions).runner
    try:
        runner = create_runner(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--runner {name}: {error}") from None
    if errors := PipelineOptionsValidator(options, runner).validate():
        raise ConfigError("; ".join(" ".join(str(error).split()) for error in errors) + f" (--runner {name})")
    return runner


def _place_of_workers(options, runner) -> str:
    """here (this process and its children), other processes (of this machine) or elsewhere."""
    from apache_beam.options.pipeline_options import PortableOptions
    from apache_beam.runners.portability.portable_runner import PortableRunner

    if not isinstance(runner, PortableRunner):
        return "here"
    portable = options.view_as(PortableOptions)
    kind = portable.environment_type
    if not kind:  # Beam would take containers, and an image without lazytower
        raise ConfigError(
            "--environment_type is missing: LOOPBACK (workers in this process), EXTERNAL (a worker pool), "
            "PROCESS or DOCKER"
        )
    image = portable.environment_config or portable.lookup_environment_option("docker_container_image")
    if kind == "DOCKER" and not image:
        raise ConfigError(f"--environment_config is missing: workers run in {_IMAGE}")
    if portable.job_endpoint:
        _check_endpoint(portable.job_endpoint)
    elif type(runner) is PortableRunner:
        raise ConfigError("--job_endpoint is missing: --runner PortableRunner needs a job server's HOST:PORT")
    if kind == "LOOPBACK":
        return "here"
    # A job server elsewhere starts workers elsewhere, or finds a pool beside each of them.
    on_this_machine = _is_loopback(portable.job_endpoint or "")
    if kind == "EXTERNAL":
        on_this_machine = on_this_machine and _is_loopback(_pool_address(portable))
    return "other processes" if on_this_machine and kind in ("EXTERNAL", "PROCESS") else "elsewhere"


def _check_endpoint(endpoint: str) -> None:
    """Asks whether somebody listens; Beam would wait for five minutes."""
    if endpoint == "embed":  # a job server inside this process
        return
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--job_endpoint {endpoint}: must be HOST:PORT of a job server")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"--job_endpoint {endpoint}: no job server answers there ({error})") from None


def _pool_address(portable) -> str:
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


def _check_paths(place: str, source, dataset) -> None:
    paths = [("source.paths", path) for path in getattr(source, "paths", [])]
    for key, path in [*paths, ("dataset.path", dataset.path)]:
        if place == "here" or is_remote(path):
            continue
        if place == "elsewhere":
            raise ConfigError(f"{key}: {path} is on this machine, where workers cannot reach it; use gs://")
        if not path.startswith("/"):
            raise ConfigError(
                f"{key}: {path} is relative to this process's directory, and workers have another; "
                "begin it with /"
            )
