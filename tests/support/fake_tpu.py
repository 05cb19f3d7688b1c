"""The Cloud TPU API over real gRPC, whose TPU machines are local processes that run the start-up script.

A queued resource moves on when it is asked about, from WAITING_FOR_RESOURCES over PROVISIONING to ACTIVE;
then its machine starts, in a session of its own, with nothing of the product but the script. Each machine has
a metadata server, which also takes the API's DELETE over HTTP, as the machine itself sends it. Shares no code
with the product. Faults can be switched on.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import grpc
from google.cloud import tpu_v2 as tpu
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, empty_pb2
from google.rpc import status_pb2

TOKEN = "ya29.secret-of-the-machine"
STATES = tpu.QueuedResourceState.State
_METHODS = {
    "CreateQueuedResource": tpu.CreateQueuedResourceRequest,
    "GetQueuedResource": tpu.GetQueuedResourceRequest,
    "DeleteQueuedResource": tpu.DeleteQueuedResourceRequest,
    "GetNode": tpu.GetNodeRequest,
    "DeleteNode": tpu.DeleteNodeRequest,
    "GetAcceleratorType": tpu.GetAcceleratorTypeRequest,
    "GetRuntimeVersion": tpu.GetRuntimeVersionRequest,
}


class Vm:
    """A machine: a process that runs the start-up script, and its metadata server."""

    def __init__(self, directory: pathlib.Path, script: str, environment: dict, worker: int, delete):
        directory.mkdir(parents=True)
        (directory / "startup.sh").write_text(script)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Metadata)
        self.server.worker, self.server.delete_resource = worker, delete
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        address = f"127.0.0.1:{self.server.server_address[1]}"
        ours = {"GCE_METADATA_HOST": address, "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": f"http://{address}/"}
        with open(directory / "console.txt", "wb") as console:
            self.process = subprocess.Popen(
                ["bash", str(directory / "startup.sh")],
                env=environment | ours,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Power off."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.server.shutdown()
        self.server.server_close()


class _Metadata(BaseHTTPRequestHandler):
    """What a machine asks of its metadata server, and the API's own DELETE."""

    def log_message(self, *unused):
        pass

    def do_GET(self):
        if self.headers.get("Metadata-Flavor") != "Google":
            return self._send(403, "")
        if self.path.endswith("/service-accounts/default/token"):
            return self._send(200, json.dumps({"access_token": TOKEN, "expires_in": 3599}))
        if self.path.endswith("/attributes/agent-worker-number"):
            return self._send(200, str(self.server.worker))
        return self._send(404, "")

    def do_DELETE(self):
        url = urlsplit(self.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, "")
        found = self.server.delete_resource(url.path.removeprefix("/v2/"), parse_qs(url.query))
        return self._send(200 if found else 404, "{}")

    def _send(self, code: int, text: str) -> None:
        with contextlib.suppress(ConnectionError):  # the machine may have deleted itself
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())


class Fault:
    """An error to answer instead, or after the method has acted."""

    def __init__(self, code: grpc.StatusCode, message: str = "injected", after: bool = False):
        self.code, self.message, self.after = code, message, after


class FakeTpu:
    """The service.

    Attributes:
      address: host:port.
      requests: all messages that came, in order.
      faults: by method, faults of the next calls, first to last.
      late_failure: google.rpc.Status that the next queued resource fails with after it was accepted.
      started: names of all machines that ever ran.
      environment: of machines.
    """

    zone_has = {"v6e-4", "v6e-1", "v6e-16"}
    runtimes = {"v2-alpha-tpuv6e"}

    def __init__(self, sandbox: pathlib.Path, environment: dict):
        self._sandbox = sandbox
        self.environment = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
        self.resources: dict[str, tpu.QueuedResource] = {}
        self.nodes: dict[str, tpu.Node] = {}
        self.vms: dict[str, Vm] = {}
        self.requests: list = []
        self.faults: dict[str, list[Fault]] = {}
        self.late_failure: status_pb2.Status | None = None
        self.started: list[str] = []
        self.start_machines = True
        self._known: dict[str, str] = {}  # request ids
        self.lock = threading.RLock()
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self._handler(),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        """Stops it, and what still runs."""
        self._server.stop(0).wait()
        for vm in list(self.vms.values()):
            vm.kill()

    def left(self) -> list[str]:
        """Names of everything that is still billed."""
        with self.lock:
            return [*self.resources, *self.nodes, *self.vms]

    def preempt(self, how: str = "PREEMPTED") -> str:
        """Takes the one machine away; its name.

        Args:
          how: PREEMPTED, a node's state; SUSPENDED, the queued resource's; GONE, the node is not there.
        """
        with self.lock:
            [name] = self.vms
            self.vms.pop(name).kill()
            if how == "PREEMPTED":
                self.nodes[name].state = tpu.Node.State.PREEMPTED
            else:
                del self.nodes[name]
            if how == "SUSPENDED":
                self.resources[_resource(name)].state = tpu.QueuedResourceState(state=STATES.SUSPENDED)
            return name

    def _handler(self):
        def unary(name, request):
            def call(message, context):
                with self.lock:
                    self.requests.append(type(message).deserialize(type(message).serialize(message)))
                    fault = self.faults[name].pop(0) if self.faults.get(name) else None
                    if fault and not fault.after:
                        context.abort(fault.code, fault.message)
                    answer = getattr(self, name)(message, context)
                    if fault:
                        context.abort(fault.code, fault.message)
                    return answer

            return grpc.unary_unary_rpc_method_handler(
                call, request_deserializer=request.deserialize, response_serializer=_serialized
            )

        methods = {name: unary(name, request) for name, request in _METHODS.items()}
        return grpc.method_handlers_generic_handler("google.cloud.tpu.v2.Tpu", methods)

    def CreateQueuedResource(self, request, context):
        name = f"{request.parent}/queuedResources/{request.queued_resource_id}"
        if self._known.get(request.request_id) == name and request.request_id:
            return _operation(name, request.queued_resource)
        if name in self.resources:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"Resource '{name}' already exists")
        [spec] = request.queued_resource.tpu.node_spec
        if spec.node.accelerator_type not in self.zone_has or spec.node.runtime_version not in self.runtimes:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such type or runtime")
        resource = request.queued_resource
        resource.name, resource.state = name, tpu.QueuedResourceState(state=STATES.WAITING_FOR_RESOURCES)
        self.resources[name] = resource
        self._known[request.request_id] = name
        return _operation(name, resource)

    def GetQueuedResource(self, request, context):
        resource = self._found(self.resources, request.name, context)
        answer = tpu.QueuedResource.deserialize(tpu.QueuedResource.serialize(resource))
        self._move(resource)
        return answer

    def _move(self, resource) -> None:
        """One step on in the life of a queued resource."""
        state = resource.state.state
        if state == STATES.WAITING_FOR_RESOURCES and self.late_failure is not None:
            failed = tpu.QueuedResourceState.FailedData(error=self.late_failure)
            resource.state = tpu.QueuedResourceState(state=STATES.FAILED, failed_data=failed)
            self.late_failure = None
        elif state == STATES.WAITING_FOR_RESOURCES:
            resource.state = tpu.QueuedResourceState(state=STATES.PROVISIONING)
        elif state == STATES.PROVISIONING:
            self._provide(resource)
        elif state == STATES.DELETING:
            del self.resources[resource.name]

    def _provide(self, resource) -> None:
        [spec] = resource.tpu.node_spec
        name = f"{spec.parent}/nodes/{spec.node_id}"
        self.nodes[name] = spec.node
        spec.node.state = tpu.Node.State.READY
        resource.state = tpu.QueuedResourceState(state=STATES.ACTIVE)
        if self.start_machines:
            script = spec.node.metadata["startup-script"]
            place = self._sandbox / "machines" / spec.node_id
            self.vms[name] = Vm(place, script, self.environment, 0, self._delete_over_http)
            self.started.append(spec.node_id)

    def _delete_over_http(self, name: str, query: dict) -> bool:
        assert query == {"force": ["true"]}
        threading.Thread(target=self._delete, args=(name,), daemon=True).start()
        return name in self.resources

    def DeleteQueuedResource(self, request, context):
        self._found(self.resources, request.name, context)
        if self.resources[request.name].state.state == STATES.DELETING:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "is being deleted")
        if _node(request.name) in self.nodes and not request.force:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "has nodes")
        self._delete(request.name)
        return _operation(request.name, None)

    def _delete(self, name: str) -> None:
        with self.lock:
            self.nodes.pop(_node(name), None)
            if name in self.resources:
                self.resources[name].state = tpu.QueuedResourceState(state=STATES.DELETING)
            vm = self.vms.pop(_node(name), None)
        if vm is not None:
            vm.kill()

    def GetNode(self, request, context):
        return self._found(self.nodes, request.name, context)

    def DeleteNode(self, request, context):
        self._found(self.nodes, request.name, context)
        self._delete(_resource(request.name))
        return _operation(request.name, None)

    def GetAcceleratorType(self, request, context):
        self._found(dict.fromkeys(self.zone_has), request.name.rpartition("/")[2], context)
        return tpu.AcceleratorType(name=request.name)

    def GetRuntimeVersion(self, request, context):
        self._found(dict.fromkeys(self.runtimes), request.name.rpartition("/")[2], context)
        return tpu.RuntimeVersion(name=request.name)

    def _found(self, where: dict, name: str, context):
        if name not in where:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Resource '{name}' was not found")
        return where[name]


def wait_until(condition, seconds: float = 900.0, what: str = "") -> None:
    """Returns when `condition()` holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited without success {what}"
        time.sleep(0.05)


def _resource(node: str) -> str:
    return node.replace("/nodes/", "/queuedResources/")


def _node(resource: str) -> str:
    return resource.replace("/queuedResources/", "/nodes/")


def _serialized(message) -> bytes:
    kind = type(message)
    return kind.serialize(message) if hasattr(kind, "serialize") else message.SerializeToString()


def _operation(name: str, message):
    """A finished operation."""
    answer = any_pb2.Any()
    answer.Pack(empty_pb2.Empty() if message is None else type(message).pb(message))
    return operations_pb2.Operation(name=f"{name}/operations/1", done=True, response=answer)
