"""prepare for Dataflow: the job that Beam builds from it, in an emulated bucket, and what surrounds it.

Dataflow itself is played by tests/support/fake_dataflow.py. Needs the packages of lazytower[gcp].
"""

import base64
import bz2
import contextlib
import json
import os
import re
import signal
import threading

import apache_beam
import pytest
from apache_beam.internal.gcp.auth import _Credentials
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.portability.api import beam_runner_api_pb2 as api

from configs.errors import ConfigError
from pipelines.prepare import prepare
from pipelines.runners.options import beam_options
from tests.support.fake_dataflow import FakeDataflow
from tests.support.prepared import configure, content, run
from tests.support.service_account import PROJECT, service_account

IMAGE = "europe-docker.pkg.dev/test-project/images/lazytower-pipelines:0.1.0"
FLAGS = [f"--project={PROJECT}", "--region=europe-west4", "--temp_location=gs://bucket/tmp"]
FLAGS += [f"--sdk_container_image={IMAGE}"]
SOURCE = {"kind": "delimited", "roles": {"user": "u", "item": "i", "timestamp": "t"}}
ROWS = "u,i,t\n" + "".join(f"u{n % 7},i{n * n % 11},{1000 + n}\n" for n in range(300))
# Leaves of the graph that are ours, and Beam's group-bys between them.
STEPS = """
Read/Ranges/Map(decode) Read/Spread/ReshufflePerKey/GroupByKey Read/CountRows Read/FirstRows
Read/ReadRows/ParDo(ReadRows) MergeStats/CombinePerKey/GroupByKey MakePlan
ByUserShard GroupUsers/ParDo(GroupUsers)
Ids/ByKeyRange Ids/CountKeys/ParDo(CountKeys) Ids/PlanIds Ids/SpreadParts/ReshufflePerKey/GroupByKey
Ids/AssignIds/ParDo(AssignIds)
RowsAndIds ByUserShardAgain FinishRows/ParDo(FinishRows) ByFile WriteRecords
ByCatalogFile WriteCatalogs AllRejected WriteRejected AllFiles Summarize
""".split()


@pytest.fixture
def account(bucket, tmp_path, monkeypatch):
    """Credentials, for subprocesses of the bucket and for Beam in this process, which keeps what it finds."""
    with service_account(tmp_path) as (key, server):
        bucket.environment["GOOGLE_APPLICATION_CREDENTIALS"] = str(key)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
        monkeypatch.setattr(_Credentials, "_credentials_init", False)
        monkeypatch.setattr(_Credentials, "_credentials", None)
        yield server


@pytest.fixture
def dataflow(bucket, account, tmp_path, monkeypatch):
    """The service that DataflowRunner talks to."""
    directory = tmp_path / "worker"
    directory.mkdir()
    server = FakeDataflow(directory, bucket.environment | {"PYTHONPATH": os.getcwd()})
    # It does not allow ports in addresses.
    monkeypatch.setattr(PipelineOptionsValidator, "validate_endpoint_url", lambda *_: True)
    yield server
    server.close()


def remote_config(bucket):
    bucket.write("raw/events.csv", ROWS.encode())
    source = SOURCE | {"paths": ["gs://bucket/raw/*.csv"]}
    return configure(source, {"path": "gs://bucket/out", "split": {"kind": "temporal"}})


def staged(bucket, name: str) -> bytes:
    """Content of the one file of that name under the job's directory."""
    [found] = [n for n in bucket.names("tmp/") if n.endswith(f"/{name}")]
    return bucket.read(found)


def pickles(pipeline: api.Pipeline) -> list[bytes]:
    """All that is pickled in a pipeline (functions, coders, elements), unpacked as workers do it."""
    found = []
    for text in re.findall(rb"[A-Za-z0-9+/]{64,}={0,2}", pipeline.SerializeToString()):
        with contextlib.suppress(ValueError, OSError):  # a name, not a pickle
            found.append(bz2.decompress(base64.b64decode(text)))
    return found


def test_template(bucket, account, tmp_path):
    config = remote_config(bucket)
    (tmp_path / "run.yaml").write_text(config.model_dump_json())
    before = bucket.names()
    process = bucket.start("-m", "trainer.cli", "prepare", "--config", str(tmp_path / "run.yaml"), "--runner",
                           "DataflowRunner", *FLAGS, "--template_location=gs://bucket/templates/prepare",
                           "--max_num_workers=7", "--label=team=ranking")  # fmt: skip
    _, log = process.communicate(timeout=900)
    assert process.returncode == 0, log
    assert "gs://bucket/templates/prepare: template written; nothing has run, nothing is published" in log
    assert account.given == 1
    left = [n for n in bucket.names() if not n.startswith("tmp/") and n not in before]
    assert left == ["templates/prepare"], "no dataset, and no lock or temporary file beside it"

    template = json.loads(bucket.read("templates/prepare"))
    pool = template["environment"]["workerPools"][0]
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 7 and template["labels"] == {"team": "ranking"}
    options = template["environment"]["sdkPipelineOptions"]["options"]
    wanted = {"project": PROJECT, "region": "europe-west4", "save_main_session": False, "streaming": False}
    assert {name: options[name] for name in wanted} == wanted
    assert options["pipelineUrl"].endswith("/pipeline.pb")

    pipeline = api.Pipeline.FromString(staged(bucket, "pipeline.pb"))
    leaves = {t.unique_name for t in pipeline.components.transforms.values() if not t.subtransforms}
    assert set(STEPS) <= leaves
    [environment] = pipeline.components.environments.values()
    assert environment.urn == "beam:env:docker:v1" and IMAGE.encode() in environment.payload
    assert_no_local_path(bucket, pipeline, tmp_path)


def assert_no_local_path(bucket, pipeline, tmp_path):
    texts = [bucket.read("templates/prepare"), pipeline.SerializeToString(), *pickles(pipeline)]
    everything = b"".join(texts)
    for seen in (
        b"gs://bucket/out/.prepare-",
        b"gs://bucket/raw/events.csv",
        b"pipelines.stages.group",
        b"MergeStats",
    ):
        assert seen in everything
    # Beam's own small functions are pickled with the name of their file, for tracebacks.
    beam = os.path.dirname(apache_beam.__file__).encode()
    local = [os.getcwd(), str(tmp_path), os.path.expanduser("~"), "/tmp/", "/home/", "file:/"]
    for text in texts:
        # Of gs://bucket/tmp/job the template has storage.googleapis.com/bucket/tmp/job as well.
        text = re.sub(rb"(gs:/|storage.googleapis.com)/bucket/[\w./-]*", b"", text.replace(beam, b""))
        for path in local:
            place = text.find(path.encode())
            assert place < 0, f"{path} in {text[max(0, place - 100) : place + 100]}"


def test_staged_package(bucket, account, tmp_path):
    """In place of an image, or over it: a wheel that workers install."""
    wheel = tmp_path / "lazytower-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    flags = [*FLAGS[:-1], f"--extra_package={wheel}", "--template_location=gs://bucket/templates/prepare"]
    config = remote_config(bucket)
    assert prepare(config.source, config.dataset, beam_options("DataflowRunner", flags)) is None
    assert staged(bucket, wheel.name) == b"a wheel"
    pipeline = api.Pipeline.FromString(staged(bucket, "pipeline.pb"))
    [environment] = pipeline.components.environments.values()
    names = [api.ArtifactStagingToRolePayload.FromString(d.role_payload).staged_name
             for d in environment.dependencies]  # fmt: skip
    assert {wheel.name, "extra_packages.txt"} <= set(names)
    assert all(d.type_urn == "beam:artifact:type:url:v1" for d in environment.dependencies)


def test_what_beam_itself_refuses_is_one_line(bucket, account):
    config = remote_config(bucket)
    options = beam_options("DataflowRunner", [*FLAGS, "--project=not a project"])
    with pytest.raises(
        ConfigError, match=r"Invalid Project ID \(not a project\).*DataflowRunner\)$"
    ) as caught:
        prepare(config.source, config.dataset, options)
    assert "\n" not in str(caught.value) and bucket.names() == ["raw/events.csv"]


@pytest.mark.slow
def test_a_job_is_waited_for_and_published(bucket, dataflow, tmp_path):
    config = remote_config(bucket)
    options = beam_options("DataflowRunner", [*FLAGS, f"--dataflow_endpoint={dataflow.address}"])
    dataset = prepare(config.source, config.dataset, options, chunk_bytes=700, user_shards=3)
    assert [job["currentState"] for job in dataflow.jobs.values()] == ["JOB_STATE_DONE"]
    (tmp_path / "events.csv").write_text(ROWS)
    source = SOURCE | {"paths": [str(tmp_path / "events.csv")]}
    here = run(source, {"path": str(tmp_path / "out"), "split": {"kind": "temporal"}})
    assert dataset.fingerprint == here.fingerprint
    local = content(tmp_path / "out")
    assert {name.removeprefix("out/") for name in bucket.names("out/")} == set(local)
    for name in set(local) - {"dataset.json"}:
        assert bucket.read(f"out/{name}") == local[name]


@pytest.mark.slow
def test_an_interrupted_driver_cancels_the_job(bucket, dataflow):
    config = remote_config(bucket)
    dataflow.holding = True
    options = beam_options("DataflowRunner", [*FLAGS, f"--dataflow_endpoint={dataflow.address}"])

    def interrupt():
        dataflow.watched.wait(300)  # prepare waits by then
        os.kill(os.getpid(), signal.SIGINT)

    # A script that starts tests in the background makes them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            prepare(config.source, config.dataset, options)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [job["currentState"] for job in dataflow.jobs.values()] == ["JOB_STATE_CANCELLED"]
    assert bucket.names("out/") == []
