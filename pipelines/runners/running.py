"""Running a job: the runner, waiting for its end, cancelling it."""

import shlex
from logging import INFO, getLogger
from typing import TYPE_CHECKING

from absl import logging

from configs.errors import DataError
from configs.system.processes import module_command
from pipelines.runners.job_servers import failure_reason
from pipelines.runners.options import DEFAULT_RUNNER

if TYPE_CHECKING:
    from apache_beam import Pipeline
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.runners.runner import PipelineResult


def on_dataflow(options: "PipelineOptions") -> bool:
    """Whether the job is for Google's Dataflow."""
    from apache_beam.options.pipeline_options import StandardOptions

    return options.view_as(StandardOptions).runner.rpartition(".")[2].lower() in (
        "dataflowrunner",
        "dataflow",
        "testdataflowrunner",
    )


def template_location(options: "PipelineOptions") -> str | None:
    """Where the job's template is written instead of running the job (Dataflow only); None: the job runs."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    return options.view_as(GoogleCloudOptions).template_location if on_dataflow(options) else None


def make_runner(options: "PipelineOptions") -> "FnApiRunner | None":
    """The runner if Beam needs an object; None: its name is enough.

    Beam starts worker processes with `python -m`, which imports from the working directory; see
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
        """Beam's runner with a fixed environment, which it would otherwise reset when it runs."""

        _default_environment = property(
            lambda self: SubprocessSDKEnvironment.from_command_string(command_string=command),
            lambda self, value: None,
        )

    return WorkerProcesses()


def run_to_end(pipeline: "Pipeline", options: "PipelineOptions") -> None:
    """Runs a pipeline, or writes its template; cancels the job when this process is interrupted.

    Raises:
      DataError: the job was ended from outside, or failed on a cluster; nothing is published.
    """
    from apache_beam.runners.portability.portable_runner import PipelineResult
    from apache_beam.runners.runner import PipelineState

    if on_dataflow(options):  # logs the job's states and messages
        getLogger("apache_beam.runners.dataflow.dataflow_runner").setLevel(INFO)
    result = pipeline.run()
    try:
        _show_address(result, options)
        state = result.wait_until_finish()
    except RuntimeError as error:
        _cancel(result)
        if not isinstance(result, PipelineResult):
            raise
        reason = failure_reason(str(error))
        raise DataError(f"the job failed on the workers: {reason} (the job server's log has more)") from error
    except BaseException:
        _cancel(result)
        raise
    if state not in (PipelineState.DONE, None):
        raise DataError(f"the job ended as {state}; nothing is published. Rerun the same command")


def _show_address(result: "PipelineResult", options: "PipelineOptions") -> None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    if on_dataflow(options) and result.has_job:
        google = options.view_as(GoogleCloudOptions)
        logging.info(
            "Dataflow job: https://console.cloud.google.com/dataflow/jobs/%s/%s?project=%s",
            google.region,
            result.job_id(),
            google.project,
        )


def _cancel(result: "PipelineResult") -> None:
    """Cancels a job that would still cost money although its result cannot be published."""
    from apache_beam.runners.runner import PipelineState

    try:
        if not PipelineState.is_terminal(result.state):
            logging.warning("cancelling the job because this process is ending")
            result.cancel()
    except Exception as error:  # the error that interrupted waiting matters more
        logging.warning("cannot cancel the job (%s); check whether it still runs, and stop it", error)
