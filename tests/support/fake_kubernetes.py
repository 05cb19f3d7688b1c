"""An API server of Kubernetes over real HTTP: JobSets, checked against the published schema, and their pods.

It has what the launcher uses: creation with dry runs and strict fields, deletion in the foreground, lists
by label, logs with times, and errors as a real server words them. Tests call what controllers would do:
`start`, `end` and `lose` play the kubelet, the controller of jobs (pod failure policy, success policy) and
that of JobSets (restarts of all pods, failure policy).
"""

import contextlib
import http.server
import json
import pathlib
import re
import threading
import time
import urllib.parse
import uuid
from typing import Any

import yaml

TOKEN = "a-token"
_SCHEMA = yaml.safe_load(pathlib.Path(__file__).with_name("jobset_crd.yaml").read_text())
_JOBSETS = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/([^/]+)/jobsets"
_INDEX = "batch.kubernetes.io/job-completion-index"
_LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
_REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "AlreadyExists"}
_REASONS |= {422: "Invalid", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}


class Answer(Exception):
    """An error of the server, as a Status."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code
        self.body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        self.body |= {"message": message, "reason": _REASONS.get(code, "Unknown")}


class FakeKubernetes:
    """The server, on a free port of this machine.

    Attributes:
      namespaces: those that exist.
      jobsets: by (namespace, name).
      pods: by name.
      objects: (kind, namespace, name) of service accounts and volume claims.
      has_jobset: whether the CustomResourceDefinition is installed.
      faults: (pattern of "METHOD path", code, message), each answered once instead.
      requests: "METHOD path?query" of all that was asked.
    """

    def __init__(self) -> None:
        self.namespaces, self.has_jobset = {"default", "ml"}, True
        self.jobsets: dict[tuple[str, str], dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[tuple[float, str]]] = {}
        self.objects: set[tuple[str, str, str]] = set()
        self.faults: list[tuple[str, int, str]] = []
        self.requests: list[str] = []
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, path: pathlib.Path, token: str = TOKEN) -> str:
        """Writes a kubeconfig with the context `test`; returns its path."""
        user = {"name": "me", "user": {"token": token}}
        cluster = {"name": "here", "cluster": {"server": self.url}}
        context = {"name": "test", "context": {"cluster": "here", "user": "me"}}
        document = {"apiVersion": "v1", "kind": "Config", "current-context": "test"}
        document |= {"users": [user], "clusters": [cluster], "contexts": [context]}
        path.write_text(yaml.safe_dump(document))
        return str(path)

    # What controllers do.

    def only(self) -> dict[str, Any]:
        """The one JobSet."""
        [found] = self.jobsets.values()
        return found

    def hosts(self) -> list[dict[str, Any]]:
        """Pods of the one JobSet, by index."""
        return sorted(self.pods.values(), key=lambda pod: int(pod["metadata"]["annotations"][_INDEX]))

    def start(self) -> None:
        """All pods run on nodes."""
        with self.lock:
            for pod in self.pods.values():
                pod["spec"]["nodeName"] = "node-1"
                self._set(pod, {"running": {"startedAt": _now()}})

    def wait(self, reason: str, message: str) -> None:
        """Containers wait for something, in the kubelet's words."""
        for pod in self.pods.values():
            pod["spec"]["nodeName"] = "node-1"
            self._set(pod, {"waiting": {"reason": reason, "message": message}})

    def say(self, host: int, *lines: str) -> None:
        """A host logs."""
        name = self.hosts()[host]["metadata"]["name"]
        self.logs.setdefault(name, []).extend((time.time(), line) for line in lines)

    def end(self, host: int, code: int, reason: str = "Error") -> None:
        """A host's container ends."""
        with self.lock:
            jobset, pod = self.only(), self.hosts()[host]
            done = {"exitCode": code, "reason": "Completed" if code == 0 else reason, "finishedAt": _now()}
            self._set(pod, {"terminated": done})
            job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
            if code == 0:
                rules = (job.get("successPolicy") or {}).get("rules") or []
                if job["completions"] == 1 or any(r["succeededIndexes"] == str(host) for r in rules):
                    self._conclude(jobset, "Completed", "AllJobsCompleted", "jobset completed successfully")
                return
            rules = job["podFailurePolicy"]["rules"]
            again = any(code in (rule.get("onExitCodes") or {}).get("values", []) for rule in rules)
            self._job_failed(jobset, "PodFailurePolicy" if again else "BackoffLimitExceeded")

    def lose(self, host: int) -> None:
        """The node of a host goes."""
        with self.lock:
            rules = self.only()["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
            assert any(r.get("onPodConditions", [{}])[0].get("type") == "DisruptionTarget" for r in rules)
            del self.pods[self.hosts()[host]["metadata"]["name"]]
            self._job_failed(self.only(), "PodFailurePolicy")

    def pass_deadline(self) -> None:
        """activeDeadlineSeconds are over."""
        self._job_failed(self.only(), "DeadlineExceeded")

    def _job_failed(self, jobset: dict[str, Any], reason: str) -> None:
        policy, status = jobset["spec"]["failurePolicy"], jobset["status"]
        action = next(r["action"] for r in policy["rules"] if reason in r["onJobFailureReasons"])
        status["jobReason"] = reason
        if action == "FailJobSet":
            self._conclude(jobset, "Failed", "FailJobSetAction", "jobset failed")
        elif status["restarts"] >= policy["maxRestarts"]:
            self._conclude(jobset, "Failed", "ReachedMaxRestarts", "jobset failed: max restarts")
        else:
            status["restarts"] += 1
            self._make_pods(jobset)

    def _conclude(self, jobset: dict[str, Any], kind: str, reason: str, message: str) -> None:
        jobset["status"]["terminalState"] = kind
        found = {"type": kind, "status": "True", "reason": reason, "message": message}
        jobset["status"]["conditions"] = [found | {"lastTransitionTime": _now()}]
        for pod in self.pods.values():  # the controller stops those that still run
            if "running" in pod["status"]["containerStatuses"][0]["state"]:
                self._set(pod, {"terminated": {"exitCode": 143, "reason": "Error", "finishedAt": _now()}})

    def _set(self, pod: dict[str, Any], state: dict[str, Any]) -> None:
        pod["status"]["containerStatuses"] = [{"name": "trainer", "state": state}]

    def _make_pods(self, jobset: dict[str, Any]) -> None:
        name, job = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"][0]
        self.pods.clear()
        spec = job["template"]["spec"]
        for index in range(spec["completions"]):
            template = spec["template"]
            labels = {**template["metadata"]["labels"], "jobset.sigs.k8s.io/jobset-name": name}
            notes = {**template["metadata"]["annotations"], _INDEX: str(index)}
            pod = f"{name}-{job['name']}-0-{index}-{uuid.uuid4().hex[:5]}"
            meta = {"name": pod, "uid": uuid.uuid4().hex, "labels": labels, "annotations": notes}
            meta |= {"creationTimestamp": _now(), "namespace": jobset["metadata"]["namespace"]}
            message = "0/3 nodes are available: 3 Insufficient memory."
            waits = [{"type": "PodScheduled", "status": "False", "message": message}]
            status = {"phase": "Pending", "conditions": waits}
            self.pods[pod] = {"metadata": meta, "spec": json.loads(json.dumps(template["spec"]))}
            self.pods[pod]["status"] = status

    # What the server does.

    def create(self, namespace: str, body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        """A JobSet that passed all checks."""
        self._place(namespace)
        name = body.get("metadata", {}).get("name", "")
        unknown, wrong = check(body, _SCHEMA["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "")
        if unknown and query.get("fieldValidation") == "Strict":
            words = ", ".join(f'unknown field "{field}"' for field in unknown)
            raise Answer(400, f"strict decoding error: {words}")
        if wrong:
            raise Answer(422, f'JobSet.jobset.x-k8s.io "{name}" is invalid: {"; ".join(wrong)}')
        if denied := _denied(body):
            raise Answer(403, f'admission webhook "vjobset.kb.io" denied the request: {denied}')
        if (namespace, name) in self.jobsets:
            raise Answer(409, f'jobsets.jobset.x-k8s.io "{name}" already exists')
        made = json.loads(json.dumps(body))
        made["metadata"] |= {"uid": uuid.uuid4().hex, "creationTimestamp": _now(), "namespace": namespace}
        made["status"] = {"restarts": 0}
        if query.get("dryRun") != "All":
            self.jobsets[namespace, name] = made
            self._make_pods(made)
        return made

    def delete(self, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Everything made for a JobSet goes, and then, when it is looked for again, the JobSet."""
        found = self.get(namespace, name)
        uid = (body.get("preconditions") or {}).get("uid")
        if uid not in (None, found["metadata"]["uid"]):
            raise Answer(409, f"Precondition failed: UID in precondition: {uid}, UID in object meta: other")
        if body.get("propagationPolicy") == "Foreground":
            found["metadata"]["deletionTimestamp"] = _now()
            self.pods.clear()
        else:
            del self.jobsets[namespace, name]
        return found

    def get(self, namespace: str, name: str) -> dict[str, Any]:
        """A JobSet; one that is being deleted is seen once more."""
        self._place(namespace, create=False)
        if (namespace, name) not in self.jobsets:
            raise Answer(404, f'jobsets.jobset.x-k8s.io "{name}" not found')
        found = self.jobsets[namespace, name]
        if found["metadata"].get("deletionTimestamp"):
            del self.jobsets[namespace, name]
        return found

    def job_list(self) -> list[dict[str, Any]]:
        """The job of each JobSet, with its condition."""
        found = []
        for jobset in self.jobsets.values():
            reason = jobset["status"].get("jobReason")
            failed = [{"type": "Failed", "status": "True", "reason": reason}] if reason else []
            labels = {"jobset.sigs.k8s.io/jobset-name": jobset["metadata"]["name"]}
            found.append({"metadata": {"labels": labels}, "status": {"conditions": failed}})
        return found

    def log(self, name: str, query: dict[str, str]) -> str:
        """Lines of a pod with their times."""
        if name not in self.pods:
            raise Answer(404, f'pods "{name}" not found')
        if "containerStatuses" not in self.pods[name]["status"]:
            raise Answer(400, f'container "trainer" in pod "{name}" is waiting to start: ContainerCreating')
        since = time.time() - float(query.get("sinceSeconds", "inf"))
        lines = [(at, line) for at, line in self.logs.get(name, []) if at >= since]
        return "".join(f"{_stamp(at)} {line}\n" for at, line in lines)

    def _place(self, namespace: str, create: bool = True) -> None:
        if not self.has_jobset:
            raise Answer(404, "404 page not found")
        if create and namespace not in self.namespaces:
            raise Answer(404, f'namespaces "{namespace}" not found')


def check(value: Any, schema: dict[str, Any], path: str) -> tuple[list[str], list[str]]:
    """(unknown fields, what is wrong) of a value."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if schema.get("x-kubernetes-int-or-string"):
        right = isinstance(value, int) or isinstance(value, str) and re.match(schema["pattern"], value)
        return [], [] if right else [f"{path}: Invalid value: {value!r}"]
    if not isinstance(value, kinds[schema["type"]]) or (schema["type"] == "integer" and value is True):
        return [], [f"{path}: Invalid value: {type(value).__name__}: must be of type {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [], [f'{path}: Unsupported value: "{value}"']
    if value_is_low := schema["type"] == "integer" and value < schema.get("minimum", value):
        return [], [f"{path}: Invalid value: {value}"] * value_is_low
    unknown: list[str] = []
    wrong = [f"{path}.{key}: Required value" for key in schema.get("required", []) if key not in value]
    children: list[tuple[Any, dict[str, Any], str]] = []
    if schema["type"] == "array":
        children = [(each, schema["items"], f"{path}[{number}]") for number, each in enumerate(value)]
    elif schema["type"] == "object" and "additionalProperties" in schema:
        children = [(each, schema["additionalProperties"], f"{path}.{key}") for key, each in value.items()]
    elif schema["type"] == "object" and "properties" in schema:
        known = schema["properties"]
        unknown = [f"{path}.{key}".lstrip(".") for key in value if key not in known]
        children = [(value[key], known[key], f"{path}.{key}".lstrip(".")) for key in value if key in known]
    for each in children:
        more_unknown, more_wrong = check(*each)
        unknown, wrong = unknown + more_unknown, wrong + more_wrong
    return unknown, wrong


def _denied(body: dict[str, Any]) -> str:
    """What the webhook of JobSet and the controller of jobs would refuse."""
    name, spec = body["metadata"]["name"], body["spec"]
    for job in spec["replicatedJobs"]:
        pod = f"{name}-{job['name']}-0-{job['template']['spec']['completions'] - 1}-abcde"
        if len(pod) > 63 or not re.match(_LABEL, pod):
            return "JobSet name is too long, pod names generated for this JobSet will exceed 63 characters"
        if job["template"]["spec"]["template"]["spec"]["restartPolicy"] != "Never":
            return "only Never is supported with a pod failure policy"
    names = [rule["name"] for rule in spec["failurePolicy"]["rules"]]
    if len(set(names)) < len(names) or not all(re.match(r"^[A-Za-z]([\w,:]*\w)?$", each) for each in names):
        return "invalid failure policy rule name"
    return ""


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _stamp(at: float) -> str:
    """As servers write times of log lines: without trailing zeros."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f"{at % 1:.9f}"[1:]
    return text.rstrip("0").rstrip(".") + "Z"


class _Handler(http.server.BaseHTTPRequestHandler):
    cluster: FakeKubernetes
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        with self.cluster.lock:
            self.cluster.requests.append(f"{self.command} {self.path}")
            try:
                code, found = 200, self._answer(f"{self.command} {url.path}", query, body)
            except Answer as answer:
                code, found = answer.code, answer.body
        content = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        with contextlib.suppress(ConnectionError):
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(found, str) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _serve

    def _answer(self, asked: str, query: dict[str, str], body: dict[str, Any]) -> Any:
        cluster = self.cluster
        for fault in cluster.faults:
            if re.search(fault[0], asked):
                cluster.faults.remove(fault)
                raise Answer(*fault[1:])
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Answer(401, "Unauthorized")
        routes = {
            f"POST {_JOBSETS}": lambda space: cluster.create(space, body, query),
            f"GET {_JOBSETS}/([^/]+)": cluster.get,
            f"DELETE {_JOBSETS}/([^/]+)": lambda space, name: cluster.delete(space, name, body),
            "GET /api/v1/namespaces/([^/]+)/pods": lambda space: _list(cluster.pods.values(), query),
            "GET /apis/batch/v1/namespaces/([^/]+)/jobs": lambda space: _list(cluster.job_list(), query),
            "GET /api/v1/namespaces/[^/]+/pods/([^/]+)/log": lambda name: cluster.log(name, query),
            "GET /api/v1/namespaces/([^/]+)/(serviceaccounts|persistentvolumeclaims)/([^/]+)": self._object,
        }
        for pattern, answer in routes.items():
            if match := re.fullmatch(pattern, asked):
                return answer(*match.groups())
        raise Answer(404, "404 page not found")

    def _object(self, space: str, kind: str, name: str) -> dict[str, Any]:
        if (kind, space, name) not in self.cluster.objects:
            raise Answer(404, f'{kind} "{name}" not found')
        return {"metadata": {"name": name}}

    def log_message(self, *unused: Any) -> None:
        """Nothing: tests read `requests`."""


def _list(found: Any, query: dict[str, str]) -> dict[str, Any]:
    wanted = dict(part.split("=") for part in query["labelSelector"].split(","))
    items = [each for each in found if wanted.items() <= each["metadata"]["labels"].items()]
    return {"kind": "List", "items": json.loads(json.dumps(items))}
