"""Files that the machine of an attempt writes, validated: every key is present and of the right type.

The files may be torn, or of another version. Invalid values are left out; a file without the needed ones
counts as absent.
"""

from typing import Any, TypeGuard

_PROGRESS: dict[str, type] = {
    "step": int,
    "total": int,
    "loss": float,
    "examples_per_second": float,
    "saved": int,
}


def valid_final(document: Any) -> dict[str, Any] | None:
    """The outcome of an attempt; None when the document states none.

    Keys: state (succeeded or failed), exit_code, reason, log (the last lines), progress as of a heartbeat.
    """
    if not isinstance(document, dict) or document.get("state") not in ("succeeded", "failed"):
        return None
    code, log = document.get("exit_code"), document.get("log")
    return {
        "state": document["state"],
        "exit_code": code if _is(code, int) else None,
        "reason": str(document.get("reason") or ""),
        "log": [str(line) for line in log] if isinstance(log, list) else [],
        "progress": _valid_progress(document.get("progress")),
    }


def valid_heartbeat(document: Any) -> dict[str, Any] | None:
    """A heartbeat; None when the document is not one.

    Keys: boot and count, which differ from beat to beat; time; stage (installing or training); restarts;
    up_seconds, since the machine's program began, by the machine's clock; progress (step, total, loss,
    examples_per_second, and saved, the newest checkpoint's step, as far as known).
    """
    if not isinstance(document, dict) or not {"boot", "count"} <= set(document):
        return None
    up, restarts = document.get("up_seconds"), document.get("restarts")
    return {
        "boot": str(document["boot"]),
        "count": str(document["count"]),
        "time": str(document.get("time", "-")),
        "stage": str(document.get("stage", "-")),
        "restarts": restarts if _is(restarts, int) else 0,
        "up_seconds": float(up) if _is(up, int, float) else 0.0,
        "progress": _valid_progress(document.get("progress")),
    }


def _valid_progress(document: Any) -> dict[str, Any]:
    """The valid keys of `_PROGRESS`; a step only with its total."""
    if not isinstance(document, dict):
        return {}
    found = {
        name: kind(document[name]) for name, kind in _PROGRESS.items() if _is(document.get(name), int, kind)
    }
    if len(found.keys() & {"step", "total"}) == 1:
        found = {name: value for name, value in found.items() if name not in ("step", "total")}
    return found


def _is(value: Any, *kinds: type) -> TypeGuard[int | float]:
    """Whether it is a number of one of these types that fits a float."""
    if not isinstance(value, kinds) or isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
