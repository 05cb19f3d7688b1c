"""Jars for tests, from Maven Central."""

import hashlib
import os
import pathlib
import shutil
import subprocess

_CACHE = pathlib.Path("~/.cache/lazytower/class-paths").expanduser()
_DOWNLOAD_SECONDS = 900


class MissingToolError(Exception):
    """Java, Maven, or the jars cannot be had here; says which."""


def class_path(name: str) -> list[str]:
    """Jars of tests/support/NAME.pom.xml, downloaded once.

    Raises:
      MissingToolError: why there are none.
    """
    for tool in ("java", "mvn"):
        if not shutil.which(tool):
            raise MissingToolError(f"{tool} is not on PATH; install Java 17 and Maven")
    pom = pathlib.Path(__file__).with_name(f"{name}.pom.xml")
    known = _CACHE / f"{name}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:16]}"
    if not (known.exists() and all(map(os.path.exists, known.read_text().split(":")))):
        known.parent.mkdir(parents=True, exist_ok=True)
        partial = known.with_suffix(f".{os.getpid()}")
        command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:build-classpath", "-DincludeScope=runtime"]
        done = subprocess.run([*command, f"-Dmdep.outputFile={partial}"], capture_output=True, text=True,
                              timeout=_DOWNLOAD_SECONDS)  # fmt: skip
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if "ERROR" in line] or ["mvn failed"]
            raise MissingToolError(f"no jars for {name}: {lines[0]}")
        partial.replace(known)
    return known.read_text().split(":")
