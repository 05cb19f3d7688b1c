"""Flink and Spark: what is refused before a job starts, where their workers are, and why a job failed."""

import pytest
from apache_beam.options.pipeline_options import PortableOptions

from configs.errors import ConfigError
from pipelines.runners import checks
from pipelines.runners.checks import check_runner
from pipelines.runners.job_servers import failure_reason
from pipelines.runners.options import beam_options
from tests.pipelines.runners.test_runners import refused, sections

LOOPBACK = "--environment_type=LOOPBACK"
PROCESS = ["--environment_type=PROCESS", '--environment_config={"command": "/opt/lazytower-beam-worker"}']


@pytest.mark.parametrize("name", ["FlinkRunner", "flink", "SparkRunner", "PortableRunner"])
def test_python_workers_are_kept_for_the_next_step(name):
    def millis(*flags: str) -> int:
        return int(beam_options(name, list(flags)).view_as(PortableOptions).environment_cache_millis)

    assert millis() == 60_000 and millis("--environment_cache_millis=5") == 5
    with pytest.raises(ConfigError, match="^--environment_cache_millis 1s: not a number of milliseconds"):
        millis("--environment_cache_millis=1s")


@pytest.mark.parametrize("name, kind", [("FlinkRunner", "flink"), ("SparkRunner", "spark")])
def test_what_beams_own_job_server_needs(name, kind):
    jar = f"--{kind}_job_server_jar=/none.jar"
    refused(f"^{jar.replace('=', ' ')}: no such file", name, [LOOPBACK, jar])
    java = "--job_server_java_launcher=no-such-java"
    refused("^no-such-java is not installed, and Beam's job server needs it", name, [LOOPBACK, java])
    uber = f"--{kind}_submit_uber_jar"
    refused(f"^{uber} is not supported", name, [LOOPBACK, uber])


@pytest.mark.parametrize(
    "config, message",
    [
        ([], "^--environment_config is missing; set .*lazytower-beam-worker"),
        (
            ["--environment_config=/opt/worker"],
            "^--environment_config /opt/worker: not an object with a command",
        ),
        (['--environment_config={"command": ""}'], "the command '' is not a program's path"),
        (['--environment_config={"command": 3}'], "the command 3 is not a program's path"),
        (['--environment_config=["command"]'], "not an object with a command"),
    ],
)
def test_a_process_is_named(config, message):
    refused(message, "PortableRunner", ["--job_endpoint=localhost:1", "--environment_type=PROCESS", *config])


@pytest.mark.parametrize(
    "flag", ["--extra_package=a.whl", "--setup_file=setup.py", "--requirements_file=r.txt"]
)
@pytest.mark.parametrize("workers", [[LOOPBACK], PROCESS])
def test_packages_are_refused_for_workers_that_install_none(flag, workers):
    refused(f"^{flag.partition('=')[0]}: workers of --env", "PortableRunner", [*workers, flag])


def test_streaming_is_refused():
    refused("^--streaming cannot be used with prepare", "FlinkRunner", [LOOPBACK, "--streaming"])


@pytest.mark.parametrize(
    "runner, master, here",
    [
        ("FlinkRunner", "--flink_master=localhost:8081", True),
        ("FlinkRunner", "--flink_master=http://127.0.0.1:8081/", True),
        ("FlinkRunner", "--flink_master=[local]", True),
        ("FlinkRunner", "--flink_master=flink.example:8081", False),
        ("SparkRunner", "--spark_master_url=spark://localhost:7077", True),
        ("SparkRunner", "--spark_master_url=local[4]", True),
        ("SparkRunner", "--spark_master_url=spark://spark.example:7077", False),
        ("SparkRunner", "--spark_master_url=yarn", False),
    ],
)
def test_a_cluster_elsewhere_needs_a_bucket(monkeypatch, runner, master, here):
    monkeypatch.setattr(checks, "check_job_server", lambda options: None)
    if here:
        check_runner(beam_options(runner, [master, *PROCESS]), *sections("/data/x", "/data/out"))
    else:
        refused("^source.paths: /data/x is on this machine", runner, [master, *PROCESS], "/data/x")


@pytest.mark.parametrize(
    "text, reason",
    [
        (
            "Pipeline x failed in state FAILED: java.lang.RuntimeException: Error received from SDK\n"
            'Traceback (most recent call last):\n  File "a.py", line 3, in f\n'
            "ValueError: 3 [while running 'Read']\n\n\tat org.apache.beam.X(X.java:1)\n",
            "ValueError: 3 [while running 'Read']",
        ),
        ("Traceback (most recent call last):\nconfigs.errors.DataError: a.csv: torn", "a.csv: torn"),
        ("Pipeline x failed in state FAILED: no slots\nat y", "Pipeline x failed in state FAILED: no slots"),
        ("", "no reason was given"),
    ],
)
def test_the_reason_of_a_failed_job_is_one_line(text, reason):
    assert failure_reason(text) == reason
