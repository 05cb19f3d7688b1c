"""The `lazytower` command: finds the sub-command's module, parses its flags, prints errors as one line.

A sub-command is a module with `add_arguments(parser)` and `run(args) -> int | None`. Modules keep heavy
imports (TensorFlow, Beam) inside functions, so that every --help answers at once.
"""

import argparse
import importlib
import os
import resource
import select
import sys
import time
from logging import CRITICAL, WARNING, getLogger

from absl import app, logging
from absl.flags import argparse_flags

from configs.errors import Stopped, UserError
from configs.system import storage
from configs.system.garbage import collect_rarely
from configs.system.terminal import bounded, escaped_output, visible
from lazytower_entry import stop_if_shadowed
from trainer.commands import BEAM_COMMANDS, COMMANDS
from trainer.version import VERSION

_MOST_FILES = 1 << 20  # some programs close every possible descriptor when they start others
# Permissions, credentials and networks, which the user must fix; gcsfs raises no errors of Python's own.
_STORE_ERRORS = ("gcsfs", "google.auth", "aiohttp")


def _parser(command: str | None) -> argparse.ArgumentParser:
    """The whole parser; only the chosen sub-command's module is imported."""
    parser = _Parser(
        prog="lazytower", description="Train two-tower and ranking models with huge embedding tables."
    )
    parser.add_argument("--version", action="version", version=f"lazytower {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, help_line) in COMMANDS.items():
        text = help_line[0].upper() + help_line[1:] + "."
        # A flag of Beam's must not match the beginning of one of ours.
        child = commands.add_parser(name, help=help_line, description=text, allow_abbrev=False)
        if name == command:
            importlib.import_module(module).add_arguments(child)
    return parser


class _Parser(argparse_flags.ArgumentParser):
    """Errors in one line, without the usage, which --help shows."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {bounded(visible(message))} (see {self.prog} --help)\n")


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses `argv` (program name first). Unknown flags are errors, except that commands which run
    Beam keep them in `args.beam_args` for it, which checks them."""
    command = next((arg for arg in argv[1:] if not arg.startswith("-")), None)
    parser = _parser(command)
    args, rest = parser.parse_known_args(argv[1:])
    if args.command in BEAM_COMMANDS:
        args.beam_args = rest
    elif rest:
        parser.exit(
            2, f"lazytower {args.command}: error: unrecognized arguments: {visible(' '.join(rest))}\n"
        )
    return args


def run(args: argparse.Namespace) -> int:
    """Runs the parsed sub-command; a user's error becomes one line and its exit code."""
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(_Plain())
    logging.set_verbosity(logging.INFO)
    getLogger("fsspec").setLevel(WARNING)  # it logs every file that it opens
    getLogger("gcsfs").setLevel(CRITICAL)  # it logs the traceback of what it raises
    _allow_open_files()
    with escaped_output():
        return _run(args)


def _allow_open_files() -> None:
    """Raises this process's soft limit to its hard one: the soft one is often 1,024, for old programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _run(args: argparse.Namespace) -> int:
    try:
        code = importlib.import_module(COMMANDS[args.command][0]).run(args) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        # The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as shells report SIGPIPE
    except UserError as error:
        sys.stderr.write(f"lazytower {args.command}: error: {bounded(str(error))}\n")
        return error.exit_code
    except Stopped as stopped:
        sys.stderr.write(f"lazytower {args.command}: {stopped}\n")
        return stopped.exit_code
    except OSError as error:
        if error.errno not in storage.REFUSALS:
            raise
        name = f"{error.filename}: " if error.filename is not None else ""
        text = f"{name}{os.strerror(error.errno)}; {storage.advice(error.errno)}"
        sys.stderr.write(f"lazytower {args.command}: error: {text}\n")
        return UserError.exit_code
    except Exception as error:
        if not type(error).__module__.startswith(_STORE_ERRORS):
            raise
        text = " ".join(str(error).split())
        sys.stderr.write(
            f"lazytower {args.command}: error: object store: {type(error).__name__}: {bounded(text)}\n"
        )
        return UserError.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"lazytower {args.command}: interrupted\n")
        return 130  # as shells report SIGINT


def _reader_has_gone() -> bool:
    """Whether the reader of standard output has closed it, as `| head` does."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


class _Plain(logging.PythonFormatter):
    """Log lines for people: time and text, and the level when it is not just information."""

    def format(self, record):
        level = "" if record.levelno <= 20 else f"{record.levelname}: "
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{stamp} {level}{visible(record.getMessage())}"


def main() -> None:
    """Parses and runs the command line; lazytower_entry.py calls it."""
    stop_if_shadowed()  # also of `python -m trainer.cli`, which does not pass there
    collect_rarely()
    app.run(run, flags_parser=parse)


if __name__ == "__main__":
    main()
