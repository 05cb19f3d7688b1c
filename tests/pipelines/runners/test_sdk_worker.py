"""The program that workers of Flink and Spark start: what it asks, and what it hands to Beam's worker."""

import concurrent.futures
import json

import grpc
import pytest
from apache_beam.portability.api import beam_provision_api_pb2 as api
from apache_beam.portability.api import beam_provision_api_pb2_grpc as service
from apache_beam.portability.api import beam_runner_api_pb2, endpoints_pb2
from apache_beam.runners.worker import sdk_worker_main
from google.protobuf import struct_pb2

from configs.errors import ConfigError
from pipelines.runners import sdk_worker


def info(*staged: str) -> api.ProvisionInfo:
    """An answer as Flink's job server gives it, with packages that were staged with the job."""
    options = struct_pb2.Struct()
    options.update({"beam:option:number_of_worker_harness_threads:v1": 3, "beam:option:job_name:v1": "x"})
    roles = [beam_runner_api_pb2.ArtifactStagingToRolePayload(staged_name=name) for name in staged]
    return api.ProvisionInfo(
        pipeline_options=options,
        control_endpoint=endpoints_pb2.ApiServiceDescriptor(url="localhost:1"),
        logging_endpoint=endpoints_pb2.ApiServiceDescriptor(url="localhost:2"),
        runner_capabilities=["a", "b"],
        dependencies=[
            beam_runner_api_pb2.ArtifactInformation(role_payload=role.SerializeToString()) for role in roles
        ],
    )


@pytest.fixture
def provision():
    """(address, calls) of a provision service that gives `calls["info"]` and keeps who asked."""
    calls = {"info": info("submission_environment_dependencies.txt")}

    class Provision(service.ProvisionServiceServicer):
        def GetProvisionInfo(self, request, context):
            calls["worker"] = dict(context.invocation_metadata())["worker_id"]
            return api.GetProvisionInfoResponse(info=calls["info"])

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    service.add_ProvisionServiceServicer_to_server(Provision(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}", calls
    server.stop(0).wait()


def start(monkeypatch, address: str) -> None:
    arguments = [
        "lazytower-beam-worker",
        "--id=7-1",
        f"--provision_endpoint={address}",
        "--semi_persist_dir=/x",
    ]
    monkeypatch.setattr("sys.argv", arguments)
    sdk_worker.main()


def test_beams_worker_gets_the_jobs_options_and_addresses(monkeypatch, provision):
    address, calls = provision
    monkeypatch.setattr(sdk_worker.os, "environ", found := {})
    monkeypatch.setattr(sdk_worker_main, "main", lambda argv: found.setdefault("started", "yes"))
    start(monkeypatch, address)
    assert calls["worker"] == found["WORKER_ID"] == "7-1" and found["started"] == "yes"
    options = sdk_worker_main._parse_pipeline_options(found["PIPELINE_OPTIONS"])
    assert options.get_all_options()["number_of_worker_harness_threads"] == 3
    assert '"3.0"' not in found["PIPELINE_OPTIONS"] and 3 in json.loads(found["PIPELINE_OPTIONS"]).values()
    assert found["CONTROL_API_SERVICE_DESCRIPTOR"] == 'url: "localhost:1"'
    assert found["LOGGING_API_SERVICE_DESCRIPTOR"] == 'url: "localhost:2"'
    assert "STATUS_API_SERVICE_DESCRIPTOR" not in found and found["RUNNER_CAPABILITIES"] == "a b"


def test_staged_packages_are_refused(monkeypatch, provision):
    address, calls = provision
    calls["info"] = info("submission_environment_dependencies.txt", "mine-1.0-py3-none-any.whl")
    with pytest.raises(ConfigError, match=r"mine-1\.0-py3-none-any\.whl was staged .* installs nothing"):
        start(monkeypatch, address)
