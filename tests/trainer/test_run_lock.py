"""A trainer whose lock another has taken writes nothing more."""

import pytest

from configs.errors import UserError
from configs.load import parse_config
from configs.system import lease as lease_module
from configs.system.lease import Lease
from tests.support.tiny_run import planted_document, write_planted
from trainer.training.interrupt import Interrupt
from trainer.training.run_directory import lock_run
from trainer.training.session import TrainSession


@pytest.fixture
def config(tmp_path):
    """A run in the bucket; its dataset is local, because TensorFlow of this process sees no bucket."""
    write_planted(str(tmp_path))
    return parse_config(planted_document(str(tmp_path)) | {"output": {"path": "gs://bucket/run"}}, "remote")


def test_a_trainer_that_was_followed_stops_and_writes_nothing_more(bucket, config, monkeypatch):
    monkeypatch.setattr(lease_module, "_machine", lambda: "another")
    monkeypatch.setattr(Lease, "_keep", lambda self: None)  # as if its process were asleep
    with pytest.raises(UserError, match="took over because this process did not renew its lease"):
        with Interrupt() as interrupt, TrainSession(config, interrupt) as session:
            follower = Lease("gs://bucket/run/.lock", stale_seconds=0.5)
            session._lock._confirmed -= 40
            before = {name: bucket.store.objects[name].generation for name in bucket.names()}
            session.run()
    follower.check()
    after = {name: bucket.store.objects[name].generation for name in bucket.names()}
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"run/.lock", "run/metrics.jsonl"} | {n for n in after if "tensorboard" in n}
    assert not any("checkpoints" in name for name in after)
    follower.close()


def test_two_trainers_in_a_bucket(bucket, config):
    lock = Lease("gs://bucket/run/.lock", renew_seconds=0.2)
    with pytest.raises(UserError, match="gs://bucket/run: another trainer is at work here .host .*, pid "):
        lock_run(config.output.path)
    lock.close()
    lock_run(config.output.path).close()
    assert bucket.names() == []
