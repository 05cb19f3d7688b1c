"""Connecting: the errors when there is no TPU, when it does not answer, and when it is the wrong one."""

import re
import subprocess
import sys
import threading

import pytest
import tensorflow as tf
import yaml

from configs.errors import UserError
from configs.sections.devices import TpuDeviceConfig
from tests.support.tiny_run import planted_document, write_planted
from tests.support.tpu_topology import fake_strategy
from trainer.tpu import connect


def device(slice_: str = "v4-8", **keys) -> TpuDeviceConfig:
    return TpuDeviceConfig(kind="tpu", slice=slice_, **keys)


def test_this_machine_has_no_tpu():
    with pytest.raises(UserError) as error:
        connect.connect_tpu(device(connect_seconds=900))
    text = str(error.value)
    assert text.startswith("device: no TPU at this machine: ") and "\n" not in text
    assert "no chip is visible" in text and "lazytower doctor" in text


def test_a_slice_of_several_hosts_must_be_named():
    with pytest.raises(UserError, match="device.name: missing; v4-32 has 4 hosts"):
        connect.connect_tpu(device("v4-32"))


def test_a_tpu_that_does_not_answer(monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(connect, "_connect", lambda device: answered.wait(900))
    with pytest.raises(
        UserError, match="the TPU of this machine did not answer within 0.2 s .device.connect"
    ):
        connect.connect_tpu(device(connect_seconds=0.2))
    answered.set()


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("ABORTED: The TPU is already in use by process with pid 7.", "another process holds the chips"),
        ("INTERNAL: libtpu.so version is too new", "libtpu and TensorFlow are incompatible"),
        ("No OpKernel was registered to support ConfigureDistributedTPU", "no chip is visible"),
        ("something else", "no chip is visible here; run `lazytower doctor` .something else"),
    ],
)
def test_what_to_check(monkeypatch, error, hint):
    def fail(device):
        raise tf.errors.AbortedError(None, None, error + "\nmore lines") from None

    monkeypatch.setattr(connect, "_connect", fail)
    with pytest.raises(UserError, match=f"device: no TPU at this machine: .*{hint}") as found:
        connect.connect_tpu(device())
    assert error.split()[0] in str(found.value) and "\n" not in str(found.value)


SILENT_HOST = """
import os, socket, sys
from configs.errors import UserError
from configs.load import load_config
from tensorflow.python.eager import context
from trainer.tpu import connect as strategy
from trainer.training.run import train

connect = strategy._connect
def watched(address):
    print("started before:", context.context()._initialized, flush=True)
    connect(address)

strategy._connect = watched
listener = socket.create_server(("127.0.0.1", 0))
name = f"device.name=grpc://127.0.0.1:{listener.getsockname()[1]}"
tpu = ["device.kind=tpu", "device.slice=v4-8", "device.connect_seconds=2", name]
try:
    train(load_config(sys.argv[1], tpu))
except UserError as error:
    print(error, flush=True)
os._exit(0)
"""


def test_a_host_that_says_nothing_is_given_up(tmp_path):
    """In a process of its own, which TensorFlow's attempts to connect cannot outlive. A context that has
    started before would stop the thread that looks at the clock too."""
    write_planted(str(tmp_path))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(planted_document(str(tmp_path))))
    command = [sys.executable, "-c", SILENT_HOST, str(tmp_path / "run.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    started, error = done.stdout.splitlines()
    assert started == "started before: False"
    assert re.match("device: the TPU of grpc://127.0.0.1:[0-9]+ did not answer within 2 s", error)


def test_of_a_failed_graph_the_reason_is_told(monkeypatch):
    def fail(address):
        raise ValueError(
            "Graph execution error:\n\nDetected at node X defined at:\n<unavailable>\nno chips [Op:X]"
        )

    monkeypatch.setattr(connect, "_connect", fail)
    with pytest.raises(UserError, match=r"run `lazytower doctor` \(no chips \[Op:X\]\)$"):
        connect.connect_tpu(device())


@pytest.mark.parametrize("name", ["v2-8", "v4-32", "v5p-8", "v6e-4"])
def test_the_slice_that_was_asked_for(name):
    connect.check_slice(fake_strategy(name), device(name))


@pytest.mark.parametrize(
    ("connected", "wanted", "message"),
    [
        ("v4-32", "v4-8", "v4-8 has 8 replicas on 1 hosts, but the connected TPU has 32 on 4"),
        ("v6e-4", "v5p-8", "v5p-8 keeps tables in sparse_core, .* in sparse_core with 2 SparseCores"),
        ("v6e-8", "v4-8", "v4-8 keeps tables in tpu_embedding, but the connected TPU in sparse_core"),
    ],
)
def test_another_slice(connected, wanted, message):
    with pytest.raises(UserError, match=f"device.slice: {message}.*set device.slice to its type"):
        connect.check_slice(fake_strategy(connected), device(wanted))
