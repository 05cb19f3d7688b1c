"""Compiling: once, cached, reported when impossible; runs continue without kernels."""

import functools
import os
import pathlib
import subprocess
import sys

import pytest

from trainer.kernels import build
from trainer.kernels.levels import LEVELS, levels, processor

pytestmark = pytest.mark.any_python

_TRY = "from trainer.kernels.build import kernels; print(kernels() is not None)"


def attempt(tmp_path, **variables):
    environment = {**os.environ, "LAZYTOWER_CACHE": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    done = subprocess.run([sys.executable, "-c", _TRY], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def notices(log: str) -> list[str]:
    return [line for line in log.splitlines() if "native kernels are not available" in line]


def test_a_process_without_kernels(tmp_path):
    out, err = attempt(tmp_path, LAZYTOWER_KERNELS="off")
    assert out == "False"
    assert len(notices(err)) == 1 and "LAZYTOWER_KERNELS is off" in err


@pytest.mark.parametrize(
    ("variable", "value", "notice"),
    [
        ("CXX", "false", "false fails: no message"),
        ("LAZYTOWER_KERNELS", "/nowhere.so", "/nowhere.so"),
        ("LAZYTOWER_CACHE", "/proc/nowhere", "/proc/nowhere"),
    ],
)
def test_without_kernels_there_is_one_notice(tmp_path, monkeypatch, caplog, variable, value, notice):
    monkeypatch.setattr(build, "_loaded", functools.cache(build._loaded.__wrapped__))  # as in a new process
    monkeypatch.setenv("LAZYTOWER_CACHE", str(tmp_path))
    monkeypatch.setenv(variable, value)
    assert build.kernels() is None and build.kernels() is None
    [line] = notices(caplog.text)
    assert notice in line
    assert not list(tmp_path.glob("*.so"))


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.NoKernels, match=r"no C\+\+ compiler is installed; install g\+\+"):
        build.compile_levels(str(tmp_path))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Gives the cached library of a source of one line."""
    source = tmp_path / "source" / "answer.cc"
    source.parent.mkdir()
    source.write_text('extern "C" int answer() { return 42; }')
    monkeypatch.setenv("LAZYTOWER_CACHE", str(tmp_path / "cache"))
    return lambda: pathlib.Path(build.cached_library("answer", [source], []))


def answers(path: pathlib.Path) -> bool:
    """In a process of its own: a library that is cut ends its reader."""
    code = f"import ctypes; raise SystemExit(ctypes.CDLL({str(path)!r}).answer())"
    return subprocess.run([sys.executable, "-c", code]).returncode == 42


def cut_to_nothing(path):
    path.write_bytes(b"")


def cut_in_the_middle(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_a_bit(path):
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def lose_its_sum(path):
    path.with_name(f"{path.name}.sha256").unlink()


def let_others_write(path):
    path.chmod(0o666)


def let_others_write_its_sum(path):
    path.with_name(f"{path.name}.sha256").chmod(0o664)


def give_away(path):
    if os.geteuid():
        pytest.skip("only root may give a file to another user")
    os.chown(path, 65534, 65534)


def replace_by_a_link(path):
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


DAMAGES = [
    *(cut_to_nothing, cut_in_the_middle, change_a_bit, lose_its_sum),
    *(let_others_write, let_others_write_its_sum, give_away, replace_by_a_link),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_library_that_is_not_as_it_was_made_is_compiled_again(small, damage):
    path = small()
    made = path.stat().st_ino
    assert small() == path and path.stat().st_ino == made and answers(path)
    damage(path)
    assert small() == path and answers(path)
    status = path.lstat()
    assert status.st_ino != made and status.st_uid == os.geteuid() and status.st_mode & 0o777 == 0o755


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_code_from_a_directory_that_others_may_change_is_not_run(small, mode):
    directory = small().parent
    directory.chmod(mode)
    with pytest.raises(build.NoKernels, match=f"chmod go-w {directory}"):
        small()
    directory.chmod(0o1777)  # like /tmp: users cannot replace each other's files
    assert answers(small())


def test_the_cache_of_another_user_is_not_used(small):
    directory = small().parent
    give_away(directory)
    with pytest.raises(build.NoKernels, match="belongs to another user"):
        small()


def test_the_user_s_own_cache_is_closed_to_others(tmp_path, monkeypatch):
    """Made under a umask of 002, as some systems have it."""
    monkeypatch.delenv("LAZYTOWER_CACHE", raising=False)
    (tmp_path / "cache").mkdir(mode=0o777)
    (tmp_path / "cache").chmod(0o775)
    build._make_private(tmp_path / "cache")
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o755


def test_a_given_library_that_is_cut_is_not_loaded(small, monkeypatch):
    path = small()
    monkeypatch.setenv("LAZYTOWER_KERNELS", str(path))
    assert build._library() == str(path)
    cut_in_the_middle(path)
    with pytest.raises(build.NoKernels, match="does not match its checksum"):
        build._library()


@pytest.fixture
def chosen(monkeypatch):
    """Gives the name of the level whose library a processor with these levels loads; None: a compiled one."""
    monkeypatch.delenv("LAZYTOWER_KERNELS", raising=False)
    monkeypatch.setattr(build, "_compiled_here", lambda: None)

    def found(number: int) -> str | None:
        monkeypatch.setattr(build, "levels", lambda line: LEVELS[-number:] if number else ())
        path = build._library()
        return path and pathlib.Path(path).name.removeprefix("kernels-").rpartition("-")[0]

    return found


def for_levels(directory: pathlib.Path, monkeypatch, sources=None) -> None:
    """A directory of libraries, without compiling them."""

    def fake(path, level):
        pathlib.Path(path).write_text(level.name)

    with monkeypatch.context() as patched:
        patched.setattr(build, "_compile_level", fake)
        patched.setattr(build, "SOURCES", sources or build.SOURCES)
        build.compile_levels(str(directory))


@pytest.mark.parametrize("place", ["given", "bundled"])
def test_the_best_library_that_the_processor_runs_is_loaded(tmp_path, monkeypatch, chosen, place):
    if place == "given":
        monkeypatch.setenv("LAZYTOWER_KERNELS", str(tmp_path))
    else:
        monkeypatch.setattr(build, "BUNDLED", tmp_path)
    for_levels(tmp_path, monkeypatch)
    assert [chosen(number) for number in (3, 2, 1)] == [level.name for level in LEVELS]
    next(tmp_path.glob("kernels-x86-64-v4-bf16-*.so")).unlink()
    assert chosen(3) == "x86-64-v4"


def test_a_directory_without_a_library_that_fits_is_named(tmp_path, monkeypatch, chosen):
    monkeypatch.setenv("LAZYTOWER_KERNELS", str(tmp_path))
    for_levels(tmp_path, monkeypatch)
    with pytest.raises(build.NoKernels, match=f"{tmp_path} has none for this processor, .*build {tmp_path}"):
        chosen(0)


def test_bundled_libraries_of_another_version_are_not_loaded(tmp_path, monkeypatch, chosen):
    monkeypatch.setattr(build, "BUNDLED", tmp_path)
    for_levels(tmp_path, monkeypatch, sources=build.SOURCES[1:])
    assert len(list(tmp_path.iterdir())) == len(LEVELS) and chosen(3) is None


def test_the_command_says_why_there_are_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "false")
    assert build.main([str(tmp_path / "compiled")]) == 1
    assert capsys.readouterr().err == "there are no native kernels: false fails: no message\n"
    assert list((tmp_path / "compiled").iterdir()) == []


_COMPILE = """
import pathlib, sys
from trainer.kernels.build import cached_library
print(cached_library("answer", [pathlib.Path(sys.argv[1])], []))
"""


@pytest.mark.slow
def test_a_library_is_compiled_once_also_by_two_processes(small, tmp_path, monkeypatch):
    compiler, calls = tmp_path / "compiler", tmp_path / "calls"
    compiler.write_text(f'#!/bin/sh\necho >> {calls}\nsleep 1\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    command = [sys.executable, "-c", _COMPILE, str(tmp_path / "source" / "answer.cc")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {process.communicate()[0].strip() for process in both} == {str(small())}
    assert calls.read_text() == "\n" and answers(small())


@pytest.mark.slow
def test_a_library_for_an_image(tmp_path, monkeypatch, capsys):
    """Of this processor's best level alone: each takes 20 s."""
    best, directory = levels(processor())[0], tmp_path / "kernels"
    monkeypatch.setattr(build, "LEVELS", (best,))
    assert build.main([str(directory)]) == 0
    path = pathlib.Path(capsys.readouterr().out.strip())
    assert path.name.startswith(f"kernels-{best.name}-")
    assert sorted(directory.iterdir()) == [path, path.with_name(f"{path.name}.sha256")]
    assert attempt(tmp_path / "cache", LAZYTOWER_KERNELS=str(directory))[0] == "True"
    assert not (tmp_path / "cache").exists()
