"""Commands look for garbage rarely, and not when they end."""

import subprocess
import sys

_COLLECT = "from configs.system.garbage import collect_rarely; collect_rarely()"


def output_of(code: str) -> list[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_commands_look_for_garbage_rarely_and_not_at_the_end():
    # Handlers run in the opposite order: this one after all that the command adds.
    witness = "atexit.register(lambda: print(gc.get_threshold(), gc.get_freeze_count() > 0))"
    command = "sys.argv = ['lazytower', '--version']; from trainer.cli import main; main()"
    version, found = output_of(f"import atexit, gc, sys; {witness}; {command}")
    assert version.startswith("lazytower ")
    assert found == "(50000, 10, 10) True"


def test_a_file_that_is_left_open_is_written(tmp_path):
    path = tmp_path / "file"
    output_of(f"{_COLLECT}; file = open({str(path)!r}, 'w'); file.write('text')")
    assert path.read_text() == "text"
