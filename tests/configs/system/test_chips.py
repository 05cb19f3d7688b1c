"""Whether TensorFlow for TPUs may ask the metadata server: only where there may be chips."""

import os
import subprocess
import sys

import pytest

from configs.system.chips import spare_metadata_server

SKIP = "TPU_SKIP_MDS_QUERY"


def pci_chip(root) -> None:
    folder = root / "sys/bus/pci/devices/0000:00:05.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text("0x1ae0\n")
    (folder / "device").write_text("0x006f\n")


def device_file(root, name: str) -> None:
    path = root / "dev" / name
    path.parent.mkdir(parents=True)
    path.touch()


@pytest.mark.parametrize(
    ("make", "skipped"),
    [
        (lambda root: None, "1"),
        (lambda root: device_file(root, "vfio/vfio"), "1"),  # the driver's own
        (lambda root: device_file(root, "accel0"), None),
        (lambda root: device_file(root, "vfio/0"), None),
        (pci_chip, None),
    ],
)
def test_only_where_there_may_be_chips_it_is_asked(tmp_path, monkeypatch, make, skipped):
    monkeypatch.delenv(SKIP, raising=False)
    make(tmp_path)
    spare_metadata_server(str(tmp_path))
    assert os.environ.get(SKIP) == skipped
    monkeypatch.delenv(SKIP, raising=False)


def test_what_the_user_has_set_stays(tmp_path, monkeypatch):
    monkeypatch.setenv(SKIP, "0")
    spare_metadata_server(str(tmp_path))
    assert os.environ[SKIP] == "0"


START = (
    "from configs.sections.devices import CpuDeviceConfig, TpuDeviceConfig; from trainer.runtime "
    "import start_tensorflow; "
)
IMPORTS = {
    "cpu": START + "start_tensorflow(CpuDeviceConfig())",
    "tpu": START + "start_tensorflow(TpuDeviceConfig(kind='tpu', slice='v4-8'))",
    "hashed ids": (
        "import pyarrow; from pipelines.stages.ids import hash_ids; hash_ids(pyarrow.array(['a']), 10)"
    ),
}


@pytest.mark.parametrize("who", IMPORTS)
@pytest.mark.parametrize("chips", [0, 4])
def test_it_is_settled_before_tensorflow_is_imported(tmp_path, who, chips):
    (tmp_path / "tensorflow.py").write_text(
        f"import os; print(os.environ.get('{SKIP}'), flush=True); os._exit(0)"
    )
    found = {"v4": chips} if chips else {}
    code = f"from configs.system import chips; chips.find_chips = lambda root: {found}; "
    environment = {key: value for key, value in os.environ.items() if key != SKIP}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code + IMPORTS[who]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.stdout == ("None\n" if chips else "1\n"), done.stderr
