"""The start-up script of a job's machine, and the specification that it gives trainer/vm/program.py."""

import inspect
import json
import shlex
from typing import Any

from configs.schema import RunConfig
from configs.sections.launch import CommonLaunchConfig
from trainer.vm import files as vm_files
from trainer.vm import hosts as vm_hosts
from trainer.vm import log as vm_log
from trainer.vm import program as vm
from trainer.vm import slice as vm_slice

_TEMPLATE = """#!/bin/bash
# lazytower job {id}, attempt {attempt}: installs and trains. Made by lazytower, run on every machine of the
# slice, as root, at each boot. It holds no credentials; the machine's own account is used.
set -uo pipefail
work={work}
boot="$work/boot"
write_program() {{
mkdir -p "$boot/trainer/vm" || return
{files}
}}
# A full disk must not keep a machine from deleting its slice.
if ! write_program; then boot=$(mktemp -d /dev/shm/lazytower.XXXXXX) && write_program; fi
python={python}
{prepare}"$python" -c {main} "$boot" {spec} &
child=$!
trap 'stopped=1; kill -TERM "$child" 2>/dev/null' TERM INT
# A signal ends `wait` early; the next one gives the program's own status, also when it has ended by then.
while true; do
  stopped=0
  wait "$child"
  status=$?
  if [ "$stopped" = 0 ]; then break; fi
done
# What stopped the program looks after the slice; a program that was killed leaves it behind.
case "$status" in 0 | 130 | 143) exit "$status" ;; esac
"$python" -c {leave} "$boot" {spec}
"""
_MAIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from trainer.vm.program import main; main()"
_LEAVE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from trainer.vm.program import leave; leave()"
_VENV = """# Ubuntu keeps ensurepip, without which there are no environments, in a package of its own.
# At its first boot a machine may be busy with updates of its own, or not reach the packages yet. If all tries
# fail, creating the environment fails below and is logged.
install_venv() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q -o DPkg::Lock::Timeout=300 update && apt-get -qy -o DPkg::Lock::Timeout=300 install python3-venv
}
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
  for pause in 10 20 40 0; do
    if install_venv; then break; fi
    sleep "$pause"
  done
fi
"""
_END = "END_OF_FILE_OF_LAZYTOWER"


def vm_spec(config: RunConfig, job_path: str, attempt: int, work: str) -> dict[str, Any]:
    """The specification of an attempt for trainer/vm/program.py; launchers add `install` and `slice`.

    Args:
      config: the run.
      job_path: the job's directory.
      attempt: from 1.
      work: directory on the machine for this attempt alone.
    """
    launch = config.launch
    assert isinstance(launch, CommonLaunchConfig)  # pods of Kubernetes run no such program
    return {
        "job": job_path,
        "attempt": attempt,
        "work": work,
        "directory": work,
        "python": None,
        "start": ["-m"],
        "install": None,
        "slice": None,
        "train": ["train", "--config", f"{job_path}/config.yaml"],
        "heartbeat_seconds": launch.heartbeat_seconds,
        "log_seconds": launch.log_seconds,
        "max_seconds": launch.max_seconds,
    }


def startup_script(spec: dict[str, Any]) -> str:
    """The whole script; `spec` comes from vm_spec and the launcher."""
    modules = (vm, vm_files, vm_hosts, vm_log, vm_slice)
    files = [
        _file(module.__name__.rpartition(".")[2] + ".py", inspect.getsource(module)) for module in modules
    ]
    return _TEMPLATE.format(
        id=spec["job"].rpartition("/")[2],
        attempt=spec["attempt"],
        work=shlex.quote(spec["work"]),
        files="\n".join(files),
        python=shlex.quote(spec["python"] or "python3"),
        prepare="" if spec["python"] else _VENV,
        main=shlex.quote(_MAIN),
        leave=shlex.quote(_LEAVE),
        spec=shlex.quote(json.dumps(spec)),
    )


def _file(name: str, content: str) -> str:
    assert _END not in content
    return f"cat > \"$boot/trainer/vm/{name}\" <<'{_END}' || return\n{content}{_END}"
