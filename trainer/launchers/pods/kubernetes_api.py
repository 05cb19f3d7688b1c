"""The client of a Kubernetes API server: one namespace's JobSets and their pods, with errors explained."""

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from configs.errors import UserError
from trainer.launchers.api_errors import Meaning
from trainer.launchers.base import Exists, LaunchError, Refused, Unreachable
from trainer.launchers.pods.jobset import API_VERSION, CONTAINER

KUBERNETES_SECONDS = 60.0  # of one call with all its retries
_REQUEST_SECONDS = 20.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0
_GROUP, _VERSION = API_VERSION.split("/")
_CHUNK_BYTES = 64 << 10
_INSTALL = "install JobSet 0.8 or newer, as docs/kubernetes.md says"


def http_meaning(verb: str, status: int, message: str) -> Meaning:
    """What an answer of the server means.

    Args:
      verb: create, get or delete.
      status: of HTTP.
      message: the server's.
    """
    if status == 404 and verb != "create":
        return Meaning.ABSENT
    if status == 409:
        return Meaning.EXISTS if verb == "create" else Meaning.AGAIN
    if status == 403 and verb == "create" and "exceeded quota" in message:
        return Meaning.REFUSED
    if status == 429 or status in (408, 410) or status >= 500:
        return Meaning.AGAIN
    return Meaning.DENIED


class KubernetesApi:
    """Calls to the server of one context, for one namespace.

    Every method raises:
      Unreachable: transient errors did not end.
      LaunchError: the user must fix something.
    """

    def __init__(self, namespace: str, context: str | None) -> None:
        self._namespace, self._context = namespace, context
        self._client: Any = None

    def create(self, body: dict[str, Any], dry_run: bool = False) -> None:
        """Creates a JobSet; dry_run: lets the server check it with all its rules, and create nothing.

        Raises (also):
          Exists: there is a JobSet of the name.
          Refused: a quota is used up.
        """
        more = {"dry_run": "All"} if dry_run else {}
        self._call("create", "create_namespaced_custom_object", body=body, field_validation="Strict", **more)

    def get(self, name: str) -> dict[str, Any] | None:
        """A JobSet; None: there is none."""
        return _json(self._call("get", "get_namespaced_custom_object", name=name))

    def delete(self, name: str, uid: str) -> None:
        """Deletes a JobSet after everything that was made for it."""
        # The JobSet is visible until its jobs and their pods are gone, so its absence means that nothing is
        # left.
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        self._call("delete", "delete_namespaced_custom_object", name=name, body=options)

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """Pods with these labels."""
        return _items(self._call("get", "list_namespaced_pod", label_selector=selector))

    def jobs(self, selector: str) -> list[dict[str, Any]]:
        """Jobs with these labels."""
        return _items(self._call("get", "list_namespaced_job", label_selector=selector))

    def has(self, kind: str, name: str) -> bool:
        """Whether the namespace has a service_account or persistent_volume_claim of the name."""
        return self._call("get", f"read_namespaced_{kind}", name=name) is not None

    def log(self, pod: str, since_seconds: int | None) -> Iterator[bytes]:
        """Log of a pod in pieces, each line with its time before it; nothing: the pod is gone."""
        answer = self._call(
            "get",
            "read_namespaced_pod_log",
            name=pod,
            container=CONTAINER,
            timestamps=True,
            **({} if since_seconds is None else {"since_seconds": since_seconds}),
        )
        return iter(()) if answer is None else _pieces(answer)

    def _call(self, verb: str, method: str, **request: Any) -> Any:
        """The unread answer of one method of the client; None when nothing of the name exists."""
        deadline, pause = time.monotonic() + KUBERNETES_SECONDS, _FIRST_PAUSE_SECONDS
        while True:
            try:
                call = self._method(method)
                seconds = min(max(deadline - time.monotonic(), 1.0), _REQUEST_SECONDS)
                return call(
                    namespace=self._namespace, _preload_content=False, _request_timeout=seconds, **request
                )
            except UserError:
                raise
            except Exception as error:  # of the server, of sockets, of TLS, of programs that give tokens
                found, text = self._explained(verb, error)
                if found is Meaning.ABSENT:
                    return None
                self._client = None  # its credentials may be the reason
                if found is not Meaning.AGAIN:
                    kinds = {Meaning.REFUSED: Refused, Meaning.EXISTS: Exists, Meaning.DENIED: LaunchError}
                    raise kinds[found](text) from None
                if time.monotonic() + pause > deadline:
                    raise Unreachable(f"Kubernetes API: {method}: {text}") from None
                logging.debug("Kubernetes API: %s: %s; retrying", method, text)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _explained(self, verb: str, error: Exception) -> tuple[Meaning, str]:
        """What an error means, and in words what to do."""
        status = getattr(error, "status", None)
        if isinstance(status, int) and status:
            message = _message(error)
            return http_meaning(verb, status, message), self._words(verb, status, message)
        text = " ".join(str(error).split())
        if "CERTIFICATE_VERIFY_FAILED" in text:
            fix = "fix certificate-authority in the kubeconfig"
            return Meaning.DENIED, f"the server's certificate is not trusted ({text}); {fix}"
        return Meaning.AGAIN, f"{type(error).__name__}: {text}"

    def _words(self, verb: str, status: int, message: str) -> str:
        where = f"namespace {self._namespace}"
        if status == 401:
            return (
                f"the cluster does not accept the credentials ({message}); log in again, or name another "
                "launch.context"
            )
        if status == 403 and "admission webhook" not in message and "exceeded quota" not in message:
            return f"not allowed in {where} ({message}); get the role of docs/kubernetes.md there"
        if status == 404 and "namespaces" in message:
            name = self._namespace
            return f"launch.namespace: {name} does not exist ({message}); create it, or name another one"
        if status == 404:
            return f"the cluster has no {API_VERSION} ({message}); {_INSTALL}"
        if status == 400 and "unknown field" in message:
            return f"the cluster is too old for the JobSet ({message}); {_INSTALL}, and Kubernetes 1.31"
        if status in (400, 403, 422) and verb == "create":
            return f"the cluster refuses the JobSet ({message}); change the launch section accordingly"
        return f"{where}: HTTP {status}: {message}"

    def _method(self, name: str) -> Callable[..., Any]:
        """A method of the client, bound to JobSets where it is one for custom objects."""
        if self._client is None:
            self._client = self._connected()
        from kubernetes import client

        if "custom_object" not in name:
            kind = client.BatchV1Api if "job" in name else client.CoreV1Api
            found: Callable[..., Any] = getattr(kind(self._client), name)
            return found
        place = {"group": _GROUP, "version": _VERSION, "plural": "jobsets"}
        custom = getattr(client.CustomObjectsApi(self._client), name)
        return lambda **request: custom(**place, **request)

    def _connected(self) -> Any:
        try:
            from kubernetes import client, config
        except ImportError:
            raise UserError("launch.kind kubernetes needs `pip install 'lazytower[kubernetes]'`") from None
        settings = client.Configuration()
        settings.retries = False  # retried here, by what the error means
        in_cluster: Callable[..., None] = config.load_incluster_config
        by_file: Callable[..., None] = config.load_kube_config
        try:
            if self._context is None and not _has_kubeconfig():
                in_cluster(client_configuration=settings)
            else:
                # By name: the client itself reads the variable only once, when it is imported.
                files = {"config_file": _kubeconfig(), "persist_config": False}
                by_file(context=self._context, client_configuration=settings, **files)
        except (config.ConfigException, OSError, ValueError, KeyError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise LaunchError(
                f"no access to a cluster ({text}); set KUBECONFIG, or launch.context to one that `kubectl "
                "config get-contexts` lists"
            ) from None
        return client.ApiClient(settings)


def _kubeconfig() -> str:
    """Its path, or several that are merged."""
    return os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")


def _has_kubeconfig() -> bool:
    return any(os.path.exists(os.path.expanduser(name)) for name in _kubeconfig().split(os.pathsep) if name)


def _message(error: Any) -> str:
    """The server's words in an error's body: those of a Status, or the body itself."""
    body = error.body or error.reason or ""
    try:
        found = json.loads(body)
        text = found["message"]
    except (ValueError, KeyError, TypeError):
        text = body if isinstance(body, str) else str(body)
    return " ".join(str(text).split())[:1000]


def _json(answer: Any) -> dict[str, Any] | None:
    if answer is None:
        return None
    found = json.loads(answer.data)
    if not isinstance(found, dict):
        raise Unreachable("Kubernetes API: an answer is not an object")
    return found


def _items(answer: Any) -> list[dict[str, Any]]:
    return list((_json(answer) or {}).get("items") or [])


def _pieces(answer: Any) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    try:
        yield from answer.stream(_CHUNK_BYTES)
    except HTTPError as error:
        raise Unreachable(f"Kubernetes API: a log ended early ({error})") from None
    finally:
        answer.release_conn()
