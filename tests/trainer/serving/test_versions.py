"""Versions of models in a bucket: whole or absent, even after a kill. Local ones: test_export.py."""

import os

import pytest

from configs.errors import ExportError
from configs.system import storage
from configs.system.lease import Lease
from trainer.serving.versions import locked, new_version, publish, versions

EXPORT = "gs://bucket/run/export"
FILES = {"saved_model.pb": b"graph", "variables/variables.index": b"index", "assets/keys.txt": b"a\n"}


def write_model(scratch: str) -> str:
    model = os.path.join(scratch, "model")
    for name, content in FILES.items():
        os.makedirs(os.path.dirname(f"{model}/{name}"), exist_ok=True)
        with open(f"{model}/{name}", "wb") as file:
            file.write(content)
    return model


def export() -> str:
    with locked(EXPORT), new_version(EXPORT) as (number, scratch):
        return publish(write_model(scratch), EXPORT, number)


def test_saved_model_pb_appears_last(bucket):
    assert versions(EXPORT) == []
    assert export() == f"{EXPORT}/1" and export() == f"{EXPORT}/2"
    assert versions(EXPORT) == [1, 2]
    assert {name: bucket.read(f"run/export/2/{name}") for name in FILES} == FILES
    assert len(bucket.names()) == 2 * len(FILES), "no lock and no staging is left"
    copies = [request for request in bucket.store.requests if "rewriteTo" in request]
    assert [request.endswith("saved_model.pb") for request in copies] == [False, False, True] * 2


@pytest.mark.parametrize("copied", [0, 1, 2])
def test_a_torn_version_does_not_count_and_its_number_is_not_used_again(bucket, monkeypatch, copied):
    export()
    fs, _ = storage.filesystem(EXPORT)
    whole, left = fs.cp_file, [copied]

    def torn(*args, **options):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return whole(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "cp_file", torn)
        with pytest.raises(KeyboardInterrupt):
            export()
    assert any("incomplete-2" in name for name in bucket.names())
    assert versions(EXPORT) == [1]
    with pytest.raises(KeyboardInterrupt), locked(EXPORT), new_version(EXPORT):
        raise KeyboardInterrupt  # one more that does not end
    assert export() == f"{EXPORT}/{3 if copied else 2}"
    assert {name.split("/")[2] for name in bucket.names("run/export/")} == {"1", "3" if copied else "2"}


def test_what_arrives_changed_is_not_published(bucket, monkeypatch):
    describe = bucket.store.describe
    monkeypatch.setattr(bucket.store, "describe", lambda name: describe(name) | {"crc32c": "AAAAAA=="})
    with pytest.raises(ExportError, match="differs from the file that was uploaded"):
        export()
    assert versions(EXPORT) == []


def test_two_exports_do_not_meet(bucket):
    other = Lease(f"{EXPORT}/.lock", renew_seconds=0.2)
    with pytest.raises(ExportError, match="another export into it is running .host .*, pid "):
        export()
    other.close()


def test_a_bucket_that_is_not_there(bucket):
    with pytest.raises(ExportError, match="gs://nowhere/export: cannot be written"):
        with locked("gs://nowhere/export"):
            pass
