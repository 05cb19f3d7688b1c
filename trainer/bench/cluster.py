"""`lazytower bench cluster`: a training step over several hosts, compared with one process.

    lazytower bench cluster --hosts 2 --batch 8192
    lazytower bench cluster --hosts 4 --users 1000000 28000000 --only_hosts       do steps depend on the rows?

The hosts are processes of this machine, each bound to one processor core (with fewer cores than hosts, to
the same ones in turn), that talk over its loopback interface. They take turns with one process on one core,
and with one on as many cores as there are hosts: a turn is a few steps, so other programs disturb all of
them alike, and the medians of the turns' ratios to the first program count. All tables are in memory at the
same time.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import tempfile
from collections.abc import Iterator

from configs.errors import UserError
from configs.system.processes import module_command
from trainer.bench.results.page import print_plain_table, write_plain_csv
from trainer.bench.timing import positive

_COLUMNS = ("program", "cores", "users", "ms", "iqr", "x_first", "mb_a_step")
_ALONE = "one process"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument(
        "--hosts", type=positive, nargs="+", default=[2], help="numbers of hosts (default: 2)"
    )
    parser.add_argument(
        "--users",
        type=positive,
        nargs="+",
        default=[1_000_000],
        help="rows of user tables (default: 1000000)",
    )
    parser.add_argument("--only_hosts", action="store_true", help="leave out the programs of one process")
    parser.add_argument("--batch", type=positive, default=8192, help="rows of a batch (default: 8192)")
    parser.add_argument("--steps", type=positive, default=3, help="steps of a turn (default: 3)")
    parser.add_argument("--turns", type=positive, default=20, help="turns of each program (default: 20)")
    parser.add_argument("--output", default="bench_results", metavar="DIR", help="directory of cluster.csv")


def run(args: argparse.Namespace) -> int:
    """Measures all programs in turns, prints a table, writes cluster.csv.

    Raises:
      UserError: a batch is not divisible by the hosts, or a process fails.
    """
    if odd := next((n for n in args.hosts if n < 2 or args.batch % n), None):
        raise UserError(
            f"--hosts: {odd} hosts; use at least 2, by whose number --batch {args.batch} is divisible"
        )
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        programs: dict = {}
        for users in args.users:
            programs |= _programs(args, directory, users, stack)
        rows = _rows(programs, args)
    print_plain_table(rows, _COLUMNS)
    write_plain_csv(os.path.join(args.output, "cluster.csv"), rows, _COLUMNS)
    return 0


def _programs(args, directory: str, users: int, stack: contextlib.ExitStack) -> dict:
    """Running programs by name, number of cores and rows of the user table."""
    cores = sorted(os.sched_getaffinity(0))
    found: dict = {}

    def add(name: str, own: list[int], addresses: list[str]) -> None:
        key = name, len(set(own)), users
        if key not in found:
            bound = set(own) if name == _ALONE else own[:1]
            found[key] = stack.enter_context(_program(args, directory, users, sorted(bound), addresses))

    if not args.only_hosts:
        add(_ALONE, cores[:1], [])
    for hosts in args.hosts:
        own = [cores[i % len(cores)] for i in range(hosts)]
        if not args.only_hosts:
            add(_ALONE, own, [])
        addresses = _addresses(hosts)
        for index in range(1, hosts):
            stack.enter_context(_worker(directory, addresses, index, own[index]))
        add(f"{hosts} hosts", own, addresses)
    return found


def _rows(programs: dict, args: argparse.Namespace) -> list[dict]:
    for program in programs.values():
        _line(program, "ready")
    times: dict = {name: [] for name in programs}
    sent: dict = {name: [] for name in programs}
    for _ in range(args.turns):
        for name, program in programs.items():
            before = _loopback_bytes()
            program.stdin.write("go\n")
            program.stdin.flush()
            times[name].append(float(_line(program, "took")))
            sent[name].append((_loopback_bytes() - before) / args.steps)
    rows = []
    first = next(iter(times.values()))
    for (name, cores, users), own in times.items():
        ratios = [ms / one for ms, one in zip(own, first, strict=True)]
        quartiles = statistics.quantiles(own) if len(own) > 1 else [own[0]] * 3
        rows.append(
            {
                **{"program": name, "cores": cores, "users": users, "ms": round(statistics.median(own), 2)},
                **{
                    "iqr": round(quartiles[2] - quartiles[0], 2),
                    "x_first": round(statistics.median(ratios), 3),
                },
                "mb_a_step": round(statistics.median(sent[name, cores, users]) / 1e6, 2)
                if name != _ALONE
                else "",
            }
        )
    return rows


def _line(program: subprocess.Popen, word: str) -> str:
    """What follows a word at the beginning of a line of a program's output."""
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith(word):
            return line.removeprefix(word).strip()
    raise UserError(
        "a process of the benchmark has ended; run it with a smaller --batch, or see its log above"
    )


@contextlib.contextmanager
def _program(
    args, directory: str, users: int, cores: list[int], hosts: list[str]
) -> Iterator[subprocess.Popen]:
    """A process that trains, on some cores; the driver of `hosts` if there are any."""
    options = {"users": users, "batch": args.batch, "steps": args.steps, "output": directory, "hosts": hosts}
    command = module_command("trainer.bench.cases.hosts", json.dumps(options))
    with _bound(command, cores, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


@contextlib.contextmanager
def _worker(directory: str, addresses: list[str], index: int, core: int) -> Iterator[subprocess.Popen]:
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    environment = os.environ | {"TF_CONFIG": json.dumps(task)}
    log = pathlib.Path(directory) / f"host-{index}-{addresses[index].rpartition(':')[2]}.log"
    with open(log, "wb") as file:
        command = module_command("trainer.cli", "worker")
        with _bound(command, [core], env=environment, stdout=file, stderr=file) as process:
            yield process


@contextlib.contextmanager
def _bound(command: list[str], cores: list[int], **options) -> Iterator[subprocess.Popen]:
    """A process on some cores, ended with the block."""
    process = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, cores), **options)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _addresses(number: int) -> list[str]:
    """Addresses of this machine on which nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def _loopback_bytes() -> int:
    """Bytes that have crossed this machine's loopback interface."""
    return int(pathlib.Path("/sys/class/net/lo/statistics/tx_bytes").read_text())
