"""What the pods of an attempt do, written into the job's directory by its supervisor.

Pods cannot write there: it may be on the disk of another machine. So new lines of their logs are copied, an
outcome is written when the JobSet has ended, and a heartbeat says that the JobSet was seen. Kubernetes itself
watches the pods.
"""

import json
import os
import time
import uuid
from collections.abc import Callable
from typing import Any

from absl import logging

from trainer.launchers.base import LaunchError
from trainer.launchers.local_state import state_directory
from trainer.launchers.pods.kubernetes_api import KubernetesApi
from trainer.launchers.pods.pod_states import condition, container_state, failure, host_index, waiting_for
from trainer.vm.log import JobFiles, Log

_OVERLAP_SECONDS = 30.0  # that are read again: clocks of nodes differ; lines already copied are left out


class AttemptReport:
    """Heartbeat, logs and outcome of one attempt.

    Args:
      api: of the cluster.
      files: the job's files.
      job_path: the job's directory.
      attempt: from 1.
    """

    def __init__(self, api: KubernetesApi, files: JobFiles, job_path: str, attempt: int) -> None:
        self._api, self._files, self._prefix = api, files, f"attempts/{attempt:03}"
        self._directory = os.path.join(state_directory(job_path.rpartition("/")[2]), f"attempt-{attempt}")
        self._logs: dict[int, Log] = {}
        self._copied: dict[str, str] = self._read("copied.json")  # pod's uid: time of its last line copied
        self._read_at: dict[str, float] = {}
        self._boot, self._beats, self._written_at = uuid.uuid4().hex, 0, time.monotonic()
        before = self._read("heartbeat.json")
        self._up_seconds = float(before.get("up_seconds") or 0.0)
        self._progress = dict(before.get("progress") or {})

    def write(
        self, jobset: dict[str, Any], pods: list[dict[str, Any]], jobs: Callable[[], list[dict[str, Any]]]
    ) -> None:
        """Writes what is new.

        Args:
          jobset: as the API has it.
          pods: one of each host.
          jobs: lists the JobSet's jobs.
        """
        for pod in pods:
            if container_state(pod, "running") is not None or container_state(pod, "terminated") is not None:
                self._copy_log(pod)
        self._beat(jobset, pods)
        if condition(jobset, "Completed"):
            self._finish({"state": "succeeded", "exit_code": 0, "reason": ""}, 0)
        elif condition(jobset, "Failed"):
            restarts = (jobset.get("status") or {}).get("restarts") or 0
            code, reason, host = failure(pods, restarts, jobs())
            self._finish({"state": "failed", "exit_code": code, "reason": reason}, host)

    def _copy_log(self, pod: dict[str, Any]) -> None:
        uid, name, host = pod["metadata"]["uid"], pod["metadata"]["name"], host_index(pod)
        since, now = None, time.monotonic()
        if uid in self._read_at:
            since = int(now - self._read_at[uid] + _OVERLAP_SECONDS)
        elif uid not in self._copied:
            self._log(host).add(f"--- pod {name}\n".encode())
        try:
            for line in _lines(self._api.log(name, since)):
                self._add(host, uid, line)
        except LaunchError as error:  # such as a missing permission: the job runs all the same
            logging.warning("log of %s: %s", name, error)
            return
        self._read_at[uid] = now
        self._log(host).ship()
        self._files.put(f"{self._prefix}/copied.json", json.dumps(self._copied).encode())

    def _add(self, host: int, uid: str, line: bytes) -> None:
        stamp, _, text = line.partition(b" ")
        moment = _sortable(stamp.decode(errors="replace"))
        if moment > self._copied.get(uid, ""):
            self._log(host).add(text)
            self._copied[uid] = moment

    def _log(self, host: int) -> Log:
        if host not in self._logs:
            os.makedirs(self._directory, exist_ok=True)
            path = os.path.join(self._directory, "log.txt" if host == 0 else f"log-{host}.txt")
            self._logs[host] = Log(path, self._files, f"{self._prefix}/log/worker-{host}-")
        return self._logs[host]

    def _beat(self, jobset: dict[str, Any], pods: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        trains = any(host_index(pod) == 0 and container_state(pod, "running") is not None for pod in pods)
        if trains:
            self._up_seconds += now - self._written_at
        self._written_at, self._beats = now, self._beats + 1
        self._progress |= self._log(0).latest_progress()
        beat = {
            "boot": self._boot,
            "count": self._beats,
            "time": _now(),
            "stage": "training" if trains else waiting_for(pods),
            "restarts": (jobset.get("status") or {}).get("restarts") or 0,
            "progress": self._progress,
            "up_seconds": self._up_seconds,
        }
        self._files.put(f"{self._prefix}/heartbeat.json", json.dumps(beat).encode())

    def _finish(self, final: dict[str, Any], host: int) -> None:
        lines = self._log(host).last_lines()
        final |= {"log": lines, "time": _now(), "progress": self._progress}
        self._files.put(f"{self._prefix}/final.json", json.dumps(final).encode())

    def _read(self, name: str) -> dict[str, Any]:
        """One of the attempt's files; {} when it is missing or torn."""
        try:
            found = json.loads(self._files.get(f"{self._prefix}/{name}"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _lines(pieces: Any) -> Any:
    """Whole lines of a stream of bytes, with their ends; an unfinished last one gets an end."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest + b"\n"


def _sortable(stamp: str) -> str:
    """A time of RFC 3339 in UTC whose text sorts as the time does: servers leave out trailing zeros."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
