"""`lazytower-beam-worker`: the program that a Flink or Spark worker starts to run Python steps.

Beam ships such a program only in its container images. This one follows the same contract, so that
`--environment_type=PROCESS` works wherever lazytower is installed:

    lazytower-beam-worker --id=WORKER --provision_endpoint=HOST:PORT

It asks the provision service for the job's options and the addresses of the other services, and becomes
Beam's own Python worker, until the runner ends it.
"""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError
from configs.system.garbage import collect_rarely

if TYPE_CHECKING:
    from apache_beam.portability.api.beam_provision_api_pb2 import ProvisionInfo

_CONNECT_SECONDS = 60.0
# Written by Beam itself; a list of what is installed on the driver, to be compared in logs.
_INFORMATIVE = "submission_environment_dependencies.txt"


def main() -> None:
    """Runs a worker, with the arguments of Beam's container contract.

    Raises:
      ConfigError: the job has staged packages, which this worker does not install.
    """
    collect_rarely()
    parser = argparse.ArgumentParser(prog="lazytower-beam-worker", description=__doc__.partition("\n")[0])
    parser.add_argument("--id", required=True, help="the worker's name, given by the runner")
    parser.add_argument("--provision_endpoint", required=True, help="HOST:PORT that describes the job")
    args, _ = parser.parse_known_args()  # the contract has further addresses, which the answer repeats
    info = _provision(args.provision_endpoint, args.id)
    _check_staged(info)
    os.environ.update(worker_environment(args.id, info))
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


def worker_environment(worker: str, info: "ProvisionInfo") -> dict[str, str]:
    """Environment variables that Beam's worker reads.

    Args:
      worker: its id.
      info: the provision service's answer.
    """
    from google.protobuf import json_format, text_format

    options = _whole_numbers(json_format.MessageToDict(info.pipeline_options))
    found = {
        "WORKER_ID": worker,
        "PIPELINE_OPTIONS": json.dumps(options),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(
            info.control_endpoint, as_one_line=True
        ),
    }
    for name, endpoint in (("LOGGING", info.logging_endpoint), ("STATUS", info.status_endpoint)):
        if endpoint.url:
            text = text_format.MessageToString(endpoint, as_one_line=True)
            found[f"{name}_API_SERVICE_DESCRIPTOR"] = text
    return found


def _provision(address: str, worker: str) -> "ProvisionInfo":
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        answer = stub.GetProvisionInfo(
            beam_provision_api_pb2.GetProvisionInfoRequest(),
            metadata=(("worker_id", worker),),
            timeout=_CONNECT_SECONDS,
            wait_for_ready=True,
        )
    return answer.info


def _check_staged(info: "ProvisionInfo") -> None:
    from apache_beam.portability.api import beam_runner_api_pb2 as api

    for dependency in info.dependencies:
        name = api.ArtifactStagingToRolePayload.FromString(dependency.role_payload).staged_name
        if name != _INFORMATIVE:
            raise ConfigError(
                f"{name} was staged with the job, but lazytower-beam-worker installs nothing; install it on "
                "the workers' machines"
            )


def _whole_numbers(value: Any) -> Any:
    """The value with 3 in place of 3.0: a protobuf struct has only floats, and options are parsed as text."""
    if isinstance(value, dict):
        return {key: _whole_numbers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


if __name__ == "__main__":
    main()
