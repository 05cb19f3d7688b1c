"""Compiling: once, kept, said when it cannot be; runs go on without."""

import os
import pathlib
import subprocess
import sys

import pytest

from trainer.kernels import build

_TRY = "from trainer.kernels.build import kernels; print(kernels() is not None)"


def attempt(tmp_path, **variables):
    environment = {**os.environ, "LAZYTOWER_CACHE": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    done = subprocess.run([sys.executable, "-c", _TRY], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize(
    ("variables", "notice"),
    [
        ({"LAZYTOWER_KERNELS": "off"}, "LAZYTOWER_KERNELS is off"),
        ({"CXX": "false"}, "false fails: no message"),
        ({"LAZYTOWER_KERNELS": "/nowhere.so"}, "/nowhere.so"),
        ({"LAZYTOWER_CACHE": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
def test_without_kernels_there_is_one_notice(tmp_path, variables, notice):
    out, err = attempt(tmp_path, **variables)
    assert out == "False"
    lines = [line for line in err.splitlines() if "no native kernels, TensorFlow's ops do their work" in line]
    assert len(lines) == 1 and notice in lines[0]
    assert not list(tmp_path.glob("*.so"))


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.NoKernels, match=r"no C\+\+ compiler is installed \(g\+\+\)"):
        build.compile_kernels(str(tmp_path / "k.so"), "native")


@pytest.mark.slow
def test_they_are_compiled_once_also_by_two_processes(tmp_path):
    environment = {**os.environ, "LAZYTOWER_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", _TRY]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["True", "True"]
    [made] = tmp_path.glob("*.so")
    stamp = made.stat().st_mtime_ns
    assert attempt(tmp_path)[0] == "True" and made.stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_a_library_for_an_image(tmp_path):
    path = tmp_path / "kernels.so"
    subprocess.run([sys.executable, "-m", "trainer.kernels.build", str(path), "x86-64-v3"], check=True)
    assert attempt(tmp_path, LAZYTOWER_KERNELS=str(path))[0] == "True"
    assert [p.name for p in pathlib.Path(tmp_path).iterdir()] == ["kernels.so"]
