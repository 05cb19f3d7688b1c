"""What is found before a job costs anything."""

import json

import pytest

from configs.errors import DataError, UserError
from configs.manifest import load_dataset
from configs.system import storage
from trainer.checkpoints.manifest import CheckpointManifest
from trainer.jobs import checks
from trainer.jobs import output_claim as module
from trainer.jobs.output_claim import check_unclaimed, claim_output
from trainer.jobs.record import JobRecord
from trainer.launchers import LAUNCHERS


def test_a_damaged_file_of_the_dataset(cloud):
    config = cloud.load()
    dataset = load_dataset(config.dataset.path)
    checks.check_files(dataset)
    name = next(name for name in cloud.bucket.names("dataset/valid"))
    content = bytearray(cloud.bucket.read(name))
    content[len(content) // 2] ^= 1
    cloud.bucket.write(name, bytes(content))
    with pytest.raises(DataError, match=name.rpartition("/")[2]):
        checks.check_files(dataset)


def test_files_that_are_known_are_not_read_again(cloud, monkeypatch):
    config, read = cloud.load(), []
    monkeypatch.setattr(checks, "check_files", read.append)
    monkeypatch.setattr(checks, "check_plan", lambda config, launcher: 1)
    checks.check_all(config, is_verified=True)
    assert read == []
    checks.check_all(config)
    assert [dataset.path for dataset in read] == [config.dataset.path]


def test_no_dataset_and_paths_of_this_machine(cloud):
    with pytest.raises(DataError, match="gs://bucket/none: no dataset here"):
        checks.check_all(cloud.load("dataset.path=gs://bucket/none"))
    with pytest.raises(UserError, match="dataset.path: /data is on this machine"):
        checks.check_all(cloud.load("dataset.path=/data"))
    assert cloud.tpu.requests == []


def test_another_job_in_the_same_output(cloud):
    config = cloud.load()
    dataset = load_dataset(config.dataset.path)
    other = JobRecord.create("gs://bucket/run/jobs/other", {"output": "gs://bucket/run"})
    with pytest.raises(UserError, match="output.path: job other writes gs://bucket/run; wait for it, cancel"):
        checks.check_output(config, dataset)
    other.append("cancelled")
    checks.check_output(config, dataset)


def committed(identity: dict, step: int = 20) -> bytes:
    """COMMITTED of a full checkpoint."""
    head = {"step": step, "kind": "full", "id": "a", "base": None, "identity": identity, "tables": {}}
    return CheckpointManifest(**head, time=0.0, files={}).encode()


def test_checkpoints_of_another_run(cloud):
    config = cloud.load()
    dataset = load_dataset(config.dataset.path)
    identity = checks.checkpoint_identity(config, dataset.fingerprint, 7)
    place = "run/checkpoints/step-000000020/COMMITTED"
    cloud.bucket.write("run/checkpoints/step-000000040/dense.npz", b"unfinished")
    cloud.bucket.write(place, committed(identity))
    checks.check_output(config, dataset)
    cloud.bucket.write(place, committed(identity | {"train.batch_size": 7}))
    with pytest.raises(UserError, match="holds checkpoints of a run with another train.batch_size"):
        checks.check_output(config, dataset)


@pytest.mark.parametrize("damage", ["checksum", "torn", "no manifest"])
def test_a_damaged_checkpoint_does_not_decide_whose_the_output_is(cloud, damage):
    """Training skips it, so the newest checkpoint that verifies is compared."""
    config = cloud.load()
    dataset = load_dataset(config.dataset.path)
    identity = checks.checkpoint_identity(config, dataset.fingerprint, 7)
    other = committed(identity | {"train.batch_size": 7}, step=40)
    damaged = {
        "checksum": other.replace(b'"step": 40', b'"step": 41'),
        "torn": other[: len(other) // 2],
        "no manifest": json.dumps({"identity": identity | {"train.batch_size": 7}}).encode(),
    }[damage]
    cloud.bucket.write("run/checkpoints/step-000000020/COMMITTED", committed(identity))
    cloud.bucket.write("run/checkpoints/step-000000040/COMMITTED", damaged)
    checks.check_output(config, dataset)
    cloud.bucket.write("run/checkpoints/step-000000040/COMMITTED", other)
    with pytest.raises(UserError, match="another train.batch_size"):
        checks.check_output(config, dataset)


@pytest.mark.parametrize(
    ("location", "warned"),
    [("US-EAST5", False), ("US", False), ("EUROPE-WEST4", True), ("EU", True), ("US-CENTRAL1", True)],
)
def test_a_bucket_elsewhere_is_warned_of(cloud, location, warned):
    cloud.bucket.store.location = location
    warnings = checks.region_warnings(cloud.load(), "us-east5")
    assert bool(warnings) == warned
    for line in warnings:
        assert (
            f"the bucket is in {location.lower()}, the slice in us-east5: reading and writing across" in line
        )


def test_a_bucket_whose_place_may_not_be_asked(cloud, monkeypatch):
    monkeypatch.setattr(checks, "bucket_location", lambda path: None)
    [first, _, third] = checks.region_warnings(cloud.load("init.from=gs://other/run"), "us-east5")
    assert third.startswith("init.from: the location of the bucket of gs://other/run is unknown; make")
    assert first.startswith(
        "dataset.path: the location of the bucket of gs://bucket/dataset is unknown; make"
    )


@pytest.mark.slow
def test_tables_that_do_not_fit_the_slice(cloud, monkeypatch):
    monkeypatch.setenv("FSSPEC_GCS_TOKEN", "anon")  # plan is a process of its own
    wide = ("device={kind: tpu, slice: v6e-1}", "launch.slice=null", "dataset.path=gs://bucket/dataset")

    def check(*overrides):
        config = cloud.load(*overrides)
        launcher = LAUNCHERS["cloud_tpu"](
            config, "gs://bucket/run/jobs/new", {"directory": "", "wheel": None}
        )
        checks.check_plan(config, launcher)

    check(*wide)
    hashed = [f"dataset.{side}_ids={{kind: hash, rows: 900000000}}" for side in ("user", "item")]
    with pytest.raises(UserError, match="^plan: gs://bucket/dataset: prepared with dataset.user_ids"):
        check(*wide, *hashed)
    with pytest.raises(UserError, match=r"v6e-1: does not fit \(.* on each chip, which has .*GB\)"):
        check(*wide[:2], "dataset.path=gs://bucket/new", *hashed)


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """Makes a job by name that writes the output directory `run`, in a staging directory of its own."""
    monkeypatch.chdir(tmp_path)

    def make(name: str) -> JobRecord:
        facts = {"output": "run", "directory": str(tmp_path)}
        return JobRecord.create(f"{tmp_path}/staging-{name}/{name}", facts)

    return make


def test_of_two_jobs_in_one_output_the_second_is_refused_wherever_they_are_staged(outputs, tmp_path):
    first, second = outputs("first"), outputs("second")
    claim_output("run", first)
    (tmp_path / "link").symlink_to("run")
    for output in ("run", f"{tmp_path}/run/", "./link"):
        with pytest.raises(UserError, match="output.path: job first writes .*; wait for it, cancel it, or"):
            check_unclaimed(output, f"{tmp_path}/staging-second")
    with pytest.raises(UserError, match="job first writes run"):
        claim_output("run", second)
    assert second.state().state == "cancelled" and "job first writes run" in second.state().reason
    first.append("failed")
    check_unclaimed("run", f"{tmp_path}/staging-third")
    claim_output("run", outputs("third"))


def test_of_two_jobs_that_are_submitted_at_once_one_is_refused(outputs, monkeypatch):
    """Both have looked before either has claimed the directory."""
    first, second, looked = outputs("first"), outputs("second"), module._last_claim

    def slow(output):
        found = looked(output)
        if not any(path.endswith("000001.json") for path in storage.names("run/claims")):
            monkeypatch.setattr(module, "_last_claim", looked)
            claim_output("run", first)
        return found

    monkeypatch.setattr(module, "_last_claim", slow)
    with pytest.raises(UserError, match="job first writes run"):
        claim_output("run", second)
    assert first.state().state == "submitted" and second.state().state == "cancelled"


@pytest.mark.parametrize("text", ["", "[]", '{"job": 3}', '{"job": "/nowhere/x"}'])
def test_claims_of_nobody_stand_in_no_way(outputs, tmp_path, text):
    (tmp_path / "run" / "claims").mkdir(parents=True)
    (tmp_path / "run" / "claims" / "000007.json").write_text(text)
    claim_output("run", outputs("first"))
    assert storage.names("run/claims") == ["000007.json", "000008.json"]
