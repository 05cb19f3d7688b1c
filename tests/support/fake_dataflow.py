"""Dataflow's REST API in memory: a job is its staged pipeline, run by a separate process.

That process knows what a worker of Dataflow knows: the bucket, and the pipeline in it. It runs in an empty
directory, with Beam's in-process runner in place of containers.
"""

import json
import pathlib
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_WORKER = """
import sys
import configs.system.storage
import fsspec
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

with fsspec.open(sys.argv[1], "rb") as file:
    pipeline = beam_runner_api_pb2.Pipeline.FromString(file.read())
for environment in pipeline.components.environments.values():
    environment.CopyFrom(EmbeddedPythonEnvironment.default().to_runner_api(None))
FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()
"""


_CANCELLED = 5  # JobState.JOB_STATE_CANCELLED; the client sends numbers


class FakeDataflow(ThreadingHTTPServer):
    """Serves on a free port of this machine until `close`.

    Attributes:
      jobs: documents of the jobs that were created, by id.
      holding: jobs stay RUNNING, and no process is started.
      watched: set once a client has asked for a job's state.
    """

    daemon_threads = True

    def __init__(self, directory: pathlib.Path, environment: dict[str, str]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jobs: dict[str, dict] = {}
        self.holding, self.watched = False, threading.Event()
        self._processes: dict[str, subprocess.Popen] = {}
        self._directory, self._environment = directory, environment
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://localhost:{self.server_address[1]}"

    def create(self, job: dict) -> dict:
        """Starts a job."""
        job |= {"id": f"job-{len(self.jobs)}", "currentState": "JOB_STATE_RUNNING"}
        self.jobs[job["id"]] = job
        if not self.holding:
            url = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
            log = open(self._directory / f"{job['id']}.log", "wb")
            with log:
                self._processes[job["id"]] = subprocess.Popen(
                    [sys.executable, "-c", _WORKER, url],
                    cwd=self._directory,
                    env=self._environment,
                    stdout=log,
                    stderr=log,
                )
        return job

    def look(self, name: str) -> dict:
        """The job's document as of now."""
        job = self.jobs[name]
        process = self._processes.get(name)
        if process and process.poll() is not None and job["currentState"] == "JOB_STATE_RUNNING":
            job["currentState"] = "JOB_STATE_FAILED" if process.returncode else "JOB_STATE_DONE"
        return job

    def messages(self, name: str) -> dict:
        """The last lines of a failed job's log as its error."""
        if self.look(name)["currentState"] != "JOB_STATE_FAILED":
            return {}
        text = (self._directory / f"{name}.log").read_text()[-2000:]
        message = {"id": "1", "time": "2026-01-01T00:00:00Z", "messageText": text}
        return {"jobMessages": [message | {"messageImportance": "JOB_MESSAGE_ERROR"}]}

    def close(self) -> None:
        """Stops it, and the processes of jobs."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        for process in self._processes.values():
            process.kill()
            process.wait()


class _Handler(BaseHTTPRequestHandler):
    server: FakeDataflow

    def handle_any(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path = self.path.partition("?")[0]
        name = re.fullmatch(r"/v1b3/projects/[^/]+/locations/[^/]+/jobs(?:/([^/]+))?(/messages)?", path)
        if name is None:
            self._send(404, {"error": {"code": 404, "message": f"no route for {self.command} {path}"}})
        elif self.command == "POST":
            self._send(200, self.server.create(body))
        elif self.command == "PUT":
            if body["requestedState"] == _CANCELLED:
                self.server.jobs[name[1]]["currentState"] = "JOB_STATE_CANCELLED"
            self._send(200, self.server.look(name[1]))
        else:
            self.server.watched.set()
            self._send(200, self.server.messages(name[1]) if name[2] else self.server.look(name[1]))

    do_GET = do_POST = do_PUT = handle_any

    def _send(self, code: int, document: dict) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *unused):
        pass
