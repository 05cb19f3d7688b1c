"""All checks of `lazytower doctor`, in the order of its report."""

import json
import signal
import subprocess
from collections.abc import Sequence

from configs.schema import RunConfig
from configs.sections.devices import ClusterDeviceConfig
from configs.system.processes import module_command
from trainer.preflight.checks import CHECKS, FAIL, CheckedMachine, Result
from trainer.preflight.probes import GROUPS, ProbeStep

_SECONDS = 300  # of a probe: importing TensorFlow from a cold disk of a busy machine takes minutes


def diagnose(
    config: RunConfig | None = None, buckets: Sequence[str] = (), machine: CheckedMachine | None = None
) -> list[Result]:
    """All results, in the order of the report.

    Args:
      config: run whose needs are checked too.
      buckets: gs:// URLs to try.
      machine: what to check; None: this machine.
    """
    machine = machine or _machine(config)
    probes = [_Probe(group, argument) for group, argument in _probes(config, buckets)]
    return [check(machine) for check in CHECKS] + [result for probe in probes for result in probe.results()]


def _machine(config: RunConfig | None) -> CheckedMachine:
    if config is None:
        return CheckedMachine()
    return CheckedMachine(output=config.output.path, chip_wanted=config.device.needs_local_chip)


def _probes(config: RunConfig | None, buckets: Sequence[str]) -> list[tuple[str, str]]:
    """(group, argument) of the processes to start."""
    from configs.system.storage import is_remote

    urls = list(buckets)
    if config is None:
        return [("tensorflow", ""), ("beam", ""), *(("bucket", url) for url in urls)]
    urls += [path for path in (config.output.path, config.export_path) if is_remote(path)]
    urls = [url for url in dict.fromkeys(urls) if not any(url.startswith(f"{other}/") for other in urls)]
    run = config.model_dump_json()
    tables = sorted(set(config.table_of_input.values()))
    compiled = [name for name in tables if config.table(name).needs_xla]
    return [
        ("tensorflow", ",".join(compiled)),
        ("beam", ""),
        ("dataset", config.dataset.path),
        *([("init", run)] if config.init is not None else []),
        *([("cluster", run)] if isinstance(config.device, ClusterDeviceConfig) else []),
        *([("named_tpu", config.device.model_dump_json())] if config.device.is_named_tpu else []),
        *(("bucket", url) for url in urls),
    ]


class _Probe:
    """A group of steps in a process that may die or hang."""

    def __init__(self, group: str, argument: str) -> None:
        self._steps = GROUPS[group]
        self._process = subprocess.Popen(
            module_command("trainer.preflight.probes", group, argument),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def results(self) -> list[Result]:
        """Waits for the process; returns a result for every step."""
        end = ""
        try:
            output, errors = self._process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, errors = self._process.communicate()
            end = f"no answer in {_SECONDS} s"
        lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"step"')]
        reported = {line.pop("step"): line for line in lines}
        if not end and self._process.returncode:
            end = f"the process died ({_code(self._process.returncode)}): {_last_line(errors)}"
        return complete(self._steps, reported, end)


def complete(steps: tuple[ProbeStep, ...], reported: dict[str, dict], end: str) -> list[Result]:
    """A result for every step of a group.

    Args:
      steps: of the group, in order.
      reported: by name of a step, the fields of its result.
      end: why the process reported no more; "" when it ended well.
    """
    results, broken = [], ""
    for step in steps:
        if step.name in reported:
            result = Result(step.name, **reported[step.name])
        elif broken:
            result = Result(step.name, FAIL, "not tried", f"fix {broken} first")
        else:
            result = Result(step.name, FAIL, end or "no answer", step.fix)
        if result.status == FAIL:
            broken = broken or step.name
        results.append(result)
    return results


def _code(code: int) -> str:
    """An exit code in words; negative ones are signals."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"
