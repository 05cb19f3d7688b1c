"""What the machine of an attempt writes, as its readers may rely on it: every key there, of the right type.

The files may be torn, or of another version; what cannot be used is left out, or the file taken for absent.
"""

_PROGRESS = {"step": int, "total": int, "loss": float, "examples_per_second": float, "saved": int}


def valid_final(document) -> dict | None:
    """The outcome of an attempt; None when it says none.

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


def valid_heartbeat(document) -> dict | None:
    """A sign of life; None when it is none.

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
        "up_seconds": float(up) if _is(up, int | float) else 0.0,
        "progress": _valid_progress(document.get("progress")),
    }


def _valid_progress(document) -> dict:
    """The keys of `_PROGRESS` that are there; a step only with its total."""
    if not isinstance(document, dict):
        return {}
    found = {
        name: kind(document[name])
        for name, kind in _PROGRESS.items()
        if _is(document.get(name), int if kind is int else int | float)
    }
    if len(found.keys() & {"step", "total"}) == 1:
        found.pop("step", None), found.pop("total", None)
    return found


def _is(value, kind) -> bool:
    """Whether it is a number of this kind, and one that a float can hold."""
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    return isinstance(value, float) or abs(value) < 2**63
