"""Runs the pods of the fake Kubernetes as processes of this machine, with their own commands and configs."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from configs.system.processes import ROOT
from tests.support.fake_kubernetes import FakeKubernetes
from trainer.vm.hosts import free_addresses

_CONFIG, _INDEX = "/etc/lazytower/run.yaml", "batch.kubernetes.io/job-completion-index"


class Kubelet:
    """One node, on which every pod fits.

    Args:
      cluster: the server.
      directory: for the pods' files.

    Attributes:
      processes: of pods, by their names, also of those that have ended.
    """

    def __init__(self, cluster: FakeKubernetes, directory: pathlib.Path):
        self._cluster, self._directory = cluster, directory
        self.processes: dict[str, subprocess.Popen] = {}
        self._addresses: dict[str, str] = {}
        self._over = threading.Event()
        command = directory / "bin" / "lazytower"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m trainer.cli "$@"\n')
        command.chmod(0o755)
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends all pods."""
        self._over.set()
        self._thread.join()
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _loop(self) -> None:
        while not self._over.wait(0.05):
            with self._cluster.lock:
                pods = dict(self._cluster.pods)
                for name in pods.keys() - self.processes.keys():
                    self._start(name, pods[name])
            for name, process in list(self.processes.items()):
                if name not in pods and process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                if name in pods and process.poll() is not None and self._runs(name):
                    time.sleep(0.2)  # its last lines
                    code = process.returncode
                    host = int(pods[name]["metadata"]["annotations"][_INDEX])
                    self._cluster.end(host, 128 - code if code < 0 else code)
                    break  # pods may have been replaced

    def _runs(self, name: str) -> bool:
        statuses = self._cluster.pods.get(name, {}).get("status", {}).get("containerStatuses")
        return bool(statuses) and "running" in statuses[0]["state"]

    def _start(self, name: str, pod: dict[str, Any]) -> None:
        container = pod["spec"]["containers"][0]
        notes = pod["metadata"]["annotations"]
        config = self._directory / f"{name}.yaml"
        config.write_text(notes["lazytower-config"])
        words = [word.replace(_CONFIG, str(config)) for word in container["command"]]
        process = subprocess.Popen(
            words,
            env=os.environ | self._environment(container, notes[_INDEX]),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes[name] = process
        pod["spec"]["nodeName"] = "node-1"
        self._cluster._set(pod, {"running": {}})
        threading.Thread(target=self._pump, args=(name, process), daemon=True).start()

    def _environment(self, container: dict[str, Any], index: str) -> dict[str, str]:
        path = f"{self._directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
        found = {"PATH": path, "PYTHONPATH": ROOT, "JOB_COMPLETION_INDEX": index}
        for each in container["env"]:
            if each["name"] == "TF_CONFIG":
                config = json.loads(each["value"].replace("$(JOB_COMPLETION_INDEX)", index))
                hosts = config["cluster"]["worker"]
                if hosts[0] not in self._addresses:
                    self._addresses |= zip(hosts, free_addresses(len(hosts)), strict=True)
                config["cluster"]["worker"] = [self._addresses[host] for host in hosts]
                found["TF_CONFIG"] = json.dumps(config)
        return found

    def _pump(self, name: str, process: subprocess.Popen) -> None:
        for line in process.stdout:
            self._cluster.logs.setdefault(name, []).append((time.time(), line.rstrip("\n")))
