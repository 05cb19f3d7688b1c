"""Starting Python processes that use the same installation and import nothing from the working directory.

`python -m` and `python -c` put the working directory first on the module path, so a user's `yaml.py` there
would be imported, and a user's package named `trainer` would shadow this one. `-I` and `-P` do not help: the
first also ignores PYTHONPATH, which installations rely on, and the second needs Python 3.11.
"""

import os
import sys
from collections.abc import Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The directory that holds this installation's packages."""

# "" is the working directory. Importing `sys` searches no directory, so "" is removed in time. For an
# installation the root is on the path already; for a checkout it comes first.
_PROGRAM = (
    "import sys; root, module = sys.argv[1:3]; del sys.argv[1:3]; "
    "sys.path[:] = [path for path in sys.path if path]; "
    "root in sys.path or sys.path.insert(0, root); "
    "module.partition('.')[0] in ('configs', 'pipelines', 'trainer') "
    "and __import__('lazytower_entry').stop_if_shadowed(); "
    "import runpy; runpy.run_module(module, run_name='__main__', alter_sys=True)"
)
START_MODULE = ["-c", _PROGRAM, ROOT]
"""Arguments to use instead of `-m`; a module's name and its arguments follow."""
# Takes a process of its own: no code may run between fork and exec while other threads run.
_BOUND = """
import ctypes, os, sys
parent, number, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
try:
    ctypes.CDLL(None).prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG
except (OSError, AttributeError):
    pass  # not Linux
if os.getppid() == parent:
    os.execvp(command[0], command)
"""


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module as a program, as `python -m module` does, in this installation.

    Args:
      module: of the project, or of a package that it depends on.
      arguments: of the program.
    """
    return [sys.executable, *START_MODULE, module, *arguments]


def bound_command(command: Sequence[str], number: int) -> list[str]:
    """The command, which gets a signal when this process dies in any way; on Linux.

    Args:
      command: a program and its arguments.
      number: of the signal.
    """
    return [sys.executable, "-I", "-c", _BOUND, str(os.getpid()), str(number), *command]
