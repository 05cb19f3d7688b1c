"""The launch section: what fits the device, what is refused, and what is filled in."""

import pytest

from configs.errors import ConfigError
from configs.load import dump_config, parse_config
from configs.schema import RunConfig
from configs.sections.launch import RUNTIMES, launch_slice, runtime_version
from configs.system.tpu import GENERATIONS
from tests.support.documents import document

TPU = {"kind": "tpu", "slice": "v6e-4"}


def parse(launch: dict, **sections) -> RunConfig:
    return parse_config(document(launch=launch, **sections), "FILE")


def cloud(**keys) -> dict:
    return {"kind": "cloud_tpu", "project": "p", "zone": "us-east5-b", **keys}


def test_a_run_without_the_section_is_launched_here():
    config = parse_config(document(), "FILE")
    assert config.launch.kind == "local" and config.jobs_path == "run/jobs"
    assert parse({"retries": 3}).launch.retries == 3
    assert parse({"staging": "gs://b/jobs"}).jobs_path == "gs://b/jobs"


def test_the_slice_is_the_device_s():
    config = parse(cloud(), device=TPU)
    assert launch_slice(config).name == "v6e-4" and runtime_version(config) == "v2-alpha-tpuv6e"
    assert launch_slice(parse(cloud(slice="v4-8"))).name == "v4-8"


def test_a_runtime_of_one_s_own_is_taken():
    config = parse(cloud(runtime_version="tpu-vm-tf-2.18.0-pjrt", slice="v4-8"))
    assert runtime_version(config) == "tpu-vm-tf-2.18.0-pjrt"


def test_every_generation_that_shards_has_a_runtime():
    assert set(RUNTIMES) == set(GENERATIONS) - {"v5e"}


@pytest.mark.parametrize(
    ("launch", "device", "message"),
    [
        ({"kind": "slurm"}, None, "launch.kind: 'slurm' is unknown; allowed: 'local', 'cloud_tpu'"),
        (cloud(), None, "launch.slice: missing; device.kind is cpu, so set the slice here"),
        (
            cloud(slice="v5p-8"),
            TPU,
            "launch.slice: v5p-8 differs from device.slice v6e-4; remove launch.slice",
        ),
        (cloud(slice="v6-4"), None, "slice: v6-4: not a TPU slice"),
        (cloud(slice="v5e-4"), None, "v5e replicates every table on every chip"),
        (
            cloud(runtime_version="v2-alpha-tpuv5"),
            TPU,
            "v2-alpha-tpuv5 is made for another generation than v6e; use v2-alpha-tpuv6e",
        ),
        ({**cloud(), "zone": "us-east5"}, TPU, "launch.zone: String should match pattern"),
        ({"kind": "cloud_tpu", "zone": "us-east5-b"}, TPU, "launch.project: missing; set it"),
        (cloud(spots=True), TPU, "launch.spots: unknown key; did you mean spot?"),
        (cloud(labels={"Team": "x"}), TPU, "launch.labels: Team: x is not a valid label"),
        (cloud(labels={"lazytower-job": "x"}), TPU, "lazytower-job is set by lazytower itself"),
        (cloud(python="/usr/bin/python3", constraints="x"), TPU, "python brings its own packages"),
        (cloud(valid_until_seconds=5), TPU, "launch.valid_until_seconds: Input should be greater"),
        (
            {"heartbeat_seconds": 9, "heartbeat_timeout_seconds": 15},
            None,
            "less than twice heartbeat_seconds",
        ),
        ({"staging": "s3://b"}, None, "s3://b is neither"),
    ],
)
def test_what_is_refused(launch, device, message):
    with pytest.raises(ConfigError) as caught:
        parse(launch, **({"device": device} if device else {}))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_it_survives_being_saved(tmp_path):
    import yaml

    config = parse(cloud(spot=True, labels={"team": "shop"}), device=TPU)
    assert parse_config(yaml.safe_load(dump_config(config)), "AGAIN") == config
