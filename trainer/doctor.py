"""`lazytower doctor`: does this machine have what a run needs? One line per check, with what to do."""

import argparse
import dataclasses
import json
import signal
import subprocess

from configs.arguments import add_override_argument
from configs.errors import ConfigError, UserError
from configs.processes import module_command
from trainer.doctor_checks import CHECKS, FAIL, Machine, Result
from trainer.doctor_probe import GROUPS, Step

_SECONDS = 300  # a probe may take: imports of TensorFlow from a cold disk, on a busy machine, take minutes
# The probe finds modules where we find them, whatever the directory.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the sub-command."""
    parser.add_argument("--config", metavar="RUN.yaml", help="also check what this run needs")
    add_override_argument(parser)
    parser.add_argument(
        "--gcs",
        action="append",
        default=[],
        type=_bucket_url,
        metavar="gs://BUCKET",
        help="also write, read and delete a small object there; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _bucket_url(text: str) -> str:
    if not text.startswith("gs://"):
        raise argparse.ArgumentTypeError(f"{text} does not start with gs://")
    return text


def run(args: argparse.Namespace) -> int:
    """Prints the report; failed checks are an error after it."""
    config = None
    if args.config:
        from configs.load import load_config

        config = load_config(args.config, args.overrides)
    elif args.overrides:
        raise ConfigError("--set: changes a config, give it with --config")
    results = diagnose(config, args.gcs)
    failed = [result.name for result in results if result.status == FAIL]
    if args.json:
        print(
            json.dumps(
                {"checks": [dataclasses.asdict(result) for result in results], "failed": failed}, indent=1
            )
        )
    else:
        print("\n".join(format_result(result) for result in results))
    if failed:
        raise UserError(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}")
    return 0


def format_result(result: Result) -> str:
    """A line: status, name, what was found, what to do."""
    fix = f"; {result.fix}" if result.fix else ""
    return f"{result.status:4}  {result.name + ':':17} {result.found}{fix}"


def diagnose(config=None, buckets: list[str] = (), machine: Machine | None = None) -> list[Result]:
    """All results, in the order of the report.

    Args:
      config: RunConfig whose needs are checked too, or None.
      buckets: gs:// URLs to try.
      machine: in place of this one.
    """
    machine = machine or _machine(config)
    probes = [_Probe(group, argument) for group, argument in _probes(config, buckets)]
    return [check(machine) for check in CHECKS] + [result for probe in probes for result in probe.results()]


def _machine(config) -> Machine:
    if config is None:
        return Machine()
    # A named TPU is elsewhere: this machine only asks for it.
    local_tpu = config.device.kind == "tpu" and config.device.name is None
    return Machine(output=config.output.path, chip_wanted=local_tpu)


def _probes(config, buckets: list[str]) -> list[tuple[str, str]]:
    """(group, argument) of the processes to start."""
    from configs.storage import is_remote

    urls = list(buckets)
    if config is None:
        return [("tensorflow", ""), ("beam", ""), *(("bucket", url) for url in urls)]
    urls += [path for path in (config.output.path, config.export_path) if is_remote(path)]
    urls = [url for url in dict.fromkeys(urls) if not any(url.startswith(f"{other}/") for other in urls)]
    tables = sorted(set(config.table_of_input.values()))
    compressed = [name for name in tables if config.table(name).kind == "robe_z"]
    named = config.device.kind == "tpu" and config.device.name is not None
    return [
        ("tensorflow", ",".join(compressed)),
        ("beam", ""),
        ("dataset", config.dataset.path),
        *([("named_tpu", config.device.model_dump_json())] if named else []),
        *(("bucket", url) for url in urls),
    ]


class _Probe:
    """A group of steps in a process that may die or hang."""

    def __init__(self, group: str, argument: str):
        self._steps = GROUPS[group]
        self._process = subprocess.Popen(
            module_command("trainer.doctor_probe", group, argument),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def results(self) -> list[Result]:
        """Waits for the end; a result for every step."""
        end = ""
        try:
            output, errors = self._process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, errors = self._process.communicate()
            end = f"no answer in {_SECONDS} s"
        lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"step"')]
        told = {line.pop("step"): line for line in lines}
        if not end and self._process.returncode:
            end = f"the process died ({_code(self._process.returncode)}): {_last_line(errors)}"
        return complete(self._steps, told, end)


def complete(steps: tuple[Step, ...], told: dict[str, dict], end: str) -> list[Result]:
    """A result for every step of a group.

    Args:
      steps: of the group, in order.
      told: by name of a step, the fields of its result.
      end: why the process told no more, when it did not end well.
    """
    results, broken = [], ""
    for step in steps:
        if step.name in told:
            result = Result(step.name, **told[step.name])
        elif broken:
            result = Result(step.name, FAIL, "not tried", f"mend {broken} first")
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
    return lines[-1][:300] if lines else "it said nothing"
