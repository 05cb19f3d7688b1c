"""Entry point of `lazytower`: checks that Python would import lazytower's own packages.

`configs`, `pipelines` and `trainer` are common names. A package or file of that name earlier on the module
path would be imported instead, and fail somewhere that does not say why. So this module has an uncommon name,
lies beside the packages and imports none of them before the check.
"""

import importlib.util
import os
import sys

PACKAGES = ("configs", "pipelines", "trainer")
_ROOT = os.path.dirname(os.path.abspath(__file__))
_EXIT_CODE = 2  # as configs.errors.UserError's


def shadowed(names: tuple[str, ...] = PACKAGES) -> str:
    """Says which of the named packages is shadowed, by what, and what to do; "" when none is."""
    for name in names:
        found = _location(name)
        if found is not None and os.path.realpath(found) != os.path.realpath(os.path.join(_ROOT, name)):
            return _text(name, found)
    return ""


def check_imports(*names: str) -> None:
    """Called by the packages as they are imported, for the packages that they need.

    Raises:
      ImportError: one of them is shadowed; `python -m` prints the reason as one line instead.
    """
    if text := shadowed(names):
        if sys.argv[:1] == ["-m"]:  # so far, `python -m` has only looked for the module that it is to run
            _stop(text)
        raise ImportError(text)


def stop_if_shadowed() -> None:
    """Ends the process with one line when a package is shadowed."""
    if text := shadowed():
        _stop(text)


def _stop(text: str) -> None:
    sys.stderr.write(f"lazytower: error: {text}\n")
    sys.exit(_EXIT_CODE)


def _location(name: str) -> str | None:
    """Directory of the package, or file of the module, that `import name` gives; None: there is none."""
    module = sys.modules.get(name)
    spec = module.__spec__ if module is not None else importlib.util.find_spec(name)
    if spec is None:
        return getattr(module, "__file__", None)
    places = list(spec.submodule_search_locations or [])
    return places[0] if places else spec.origin


def _text(name: str, found: str) -> str:
    ours = os.path.join(_ROOT, name)
    where = os.path.dirname(os.path.abspath(found))
    fix = f"rename it, or take {where} out of PYTHONPATH"
    if os.path.realpath(where) == os.path.realpath(os.getcwd()):
        fix = f"rename it, run `lazytower` from another directory, or take {where} out of PYTHONPATH"
    return f"{os.path.abspath(found)} shadows lazytower's package `{name}` ({ours}); {fix}"


def main() -> None:
    """The `lazytower` command."""
    stop_if_shadowed()
    from trainer.cli import main as run

    run()


def beam_worker() -> None:
    """The `lazytower-beam-worker` command, which workers of Flink and Spark start."""
    stop_if_shadowed()
    from pipelines.runners.sdk_worker import main as run

    run()


if __name__ == "__main__":
    main()
