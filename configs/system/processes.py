"""How the project starts Python again: the same installation, and nothing of the working directory.

`python -m` and `python -c` put the working directory first on the module path, so a user's `yaml.py` there
would run, and a package of the user's called `trainer` would take this one's place. `-I` and `-P` are no
answer: the first also ignores PYTHONPATH, which installations rely on, the second needs Python 3.11.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The directory that holds this installation's packages."""

# "" stands for the working directory. `sys` is part of the interpreter: nothing is searched before "" goes.
# The root is on the path of an installation already, and comes first for a checkout.
_PROGRAM = (
    "import sys; root, module = sys.argv[1:3]; del sys.argv[1:3]; "
    "sys.path[:] = [path for path in sys.path if path]; "
    "root in sys.path or sys.path.insert(0, root); "
    "import runpy; runpy.run_module(module, run_name='__main__', alter_sys=True)"
)
START_MODULE = ["-c", _PROGRAM, ROOT]
"""In place of Python's `-m`: a module's name and its arguments follow."""


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module as a program, as `python -m module` does, in this installation.

    Args:
      module: of the project, or of a package that it needs.
      arguments: of the program.
    """
    return [sys.executable, *START_MODULE, module, *arguments]
