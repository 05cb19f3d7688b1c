"""The slice that a machine belongs to, which the machine deletes at its end. Standard library only."""

import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from trainer.vm.files import Metadata, ask, say

_KINDS = ("queuedResources", "nodes")  # a node may outlive its queued resource, and is what is billed
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0
_LOOK_SECONDS, _LOOKS = 30.0, 20  # a deletion takes a while, and this machine with it
_BLIND_LOOKS = 3  # denials of a look, after which the machine trusts the name that it was started with


class Slice:
    """One slice, by its name.

    Args:
      spec: project, zone, id and labels, all of which its queued resource and node must carry.
      metadata: of this machine.
    """

    def __init__(self, spec: dict[str, Any], metadata: Metadata) -> None:
        host = os.environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU", "https://tpu.googleapis.com/")
        self._base = f"{host.rstrip('/')}/v2/projects/{spec['project']}/locations/{spec['zone']}"
        self._id, self._labels = spec["id"], spec.get("labels") or {}
        self._metadata, self._blind = metadata, 0

    def delete(self) -> None:
        """Deletes the slice; returns when it is gone, or is not this job's. Retries after any answer: a slice
        left behind is billed until somebody notices."""
        pause = _FIRST_PAUSE
        while True:
            try:
                if self._is_gone():
                    return
            except Exception as error:  # also after an unexpected answer
                say(f"deleting the slice: {type(error).__name__}: {error}; retrying")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _is_gone(self) -> bool:
        """Deletes what exists, and watches it for a while. False: it must be deleted again."""
        for kind in _KINDS:
            found = self._look(kind)
            if found is None:
                continue
            if found and not self._is_ours(found):
                say(f"{kind}/{self._id} is not this job's; not deleted")
                return True
            say(f"deleting the slice: {kind}/{self._id}")
            if self._ask("DELETE", kind) is not None:
                return not found or self._vanishes(kind)
        return True

    def _vanishes(self, kind: str) -> bool:
        """Whether the deletion proceeds, as far as this machine can see."""
        for _ in range(_LOOKS):
            time.sleep(_LOOK_SECONDS)
            found = self._look(kind)
            if found is None:
                return self._look(_KINDS[-1]) is None
            if _state(found) != "DELETING":
                return False
        return True

    def _look(self, kind: str) -> dict[str, Any] | None:
        """The API's description of it; None: there is none; {}: this machine may not look. Raises OSError."""
        try:
            answer = self._ask("GET", kind)
        except urllib.error.HTTPError as error:
            self._blind += error.code in (403, 405, 501)
            if error.code not in (403, 405, 501) or self._blind < _BLIND_LOOKS:
                raise
            return {}
        found = None if answer is None else json.loads(answer)
        return found if found is None or isinstance(found, dict) else {}

    def _is_ours(self, found: dict[str, Any]) -> bool:
        specs = found.get("tpu", {}).get("nodeSpec", []) if "tpu" in found else [{"node": found}]
        carried = [spec.get("node", {}).get("labels", {}) for spec in specs]
        return any(self._labels.items() <= labels.items() for labels in carried)

    def _ask(self, method: str, kind: str) -> bytes | None:
        """Answer of the API; None: nothing of the name exists. Raises OSError."""
        force = "?force=true" if (method, kind) == ("DELETE", "queuedResources") else ""
        url = f"{self._base}/{kind}/{self._id}{force}"
        headers = self._metadata.authorization()
        try:
            return ask(urllib.request.Request(url, headers=headers, method=method))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            if error.code == 401:
                self._metadata.forget_token()
            raise


def _state(found: dict[str, Any]) -> str:
    """State of a queued resource or node."""
    state = found.get("state")
    return str(state.get("state", "") if isinstance(state, dict) else state or "")
