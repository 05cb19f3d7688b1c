"""The client of the Cloud TPU API (v2): retries calls and explains errors."""

import os
import time
from typing import Any

from absl import logging

from configs.errors import UserError
from trainer.launchers.api_errors import Meaning, meaning, needs_login
from trainer.launchers.base import Exists, LaunchError, Refused, Unreachable

# host:port of a server that speaks the API without TLS, for tests; as STORAGE_EMULATOR_HOST for gs://.
EMULATOR = "TPU_EMULATOR_HOST"
CALL_SECONDS = 60.0  # of one call with all its retries
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0
_QUOTA_PAGE = "https://cloud.google.com/tpu/docs/quota"


class TpuApi:
    """Calls for one zone, with Google's default credentials.

    Args:
      project, zone: where.
      slice_name: type of slice, such as v6e-4, for error messages.
      runtime_version: for error messages.
      role: what the account needs for its calls.
    """

    def __init__(
        self,
        project: str,
        zone: str,
        slice_name: str,
        runtime_version: str,
        role: str = "roles/tpu.admin",
    ) -> None:
        self.parent = f"projects/{project}/locations/{zone}"
        self._project, self._zone = project, zone
        self._slice, self._runtime, self._role = slice_name, runtime_version, role
        self._client: Any = None

    def call(self, method: str, **request: Any) -> Any:
        """Answer of one method of the client, such as get_node; None when nothing of the name exists.

        trainer.launchers.api_errors classifies errors; transient ones are retried, with pauses that double.
        After other errors the credentials are loaded again, so that a new login takes effect.

        Raises:
          Unreachable: transient errors did not end.
          Refused: no quota or no capacity for a request.
          Exists: the name of a request is taken.
          LaunchError: the user must fix something.
        """
        deadline, pause = time.monotonic() + CALL_SECONDS, _FIRST_PAUSE_SECONDS
        while True:
            try:
                call, left = getattr(self._connected(), method), max(deadline - time.monotonic(), 1.0)
                # Without the client's own retries, which know a few codes only.
                return call(request=request, retry=None, timeout=left)
            except UserError:
                raise
            except (
                Exception
            ) as error:  # classified by the table: also errors of gRPC, google.auth and sockets
                found = meaning(method, error)
                if found is Meaning.ABSENT:
                    return None
                if found is not Meaning.AGAIN:
                    raise self._final_error(found, error) from None
                if time.monotonic() + pause > deadline:
                    self._client = None
                    name = type(error).__name__
                    raise Unreachable(f"Cloud TPU API: {method}: {name}: {_one_line(error)}") from None
                logging.debug("Cloud TPU API: %s: %s; retrying", method, error)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _final_error(self, found: Meaning, error: Exception) -> Exception:
        """What to raise for an error that is not transient."""
        self._client = None  # its credentials may be the reason
        if needs_login(error):
            return LaunchError(no_credentials(error))
        kinds = {Meaning.REFUSED: Refused, Meaning.EXISTS: Exists, Meaning.DENIED: LaunchError}
        known = hasattr(error, "message") and hasattr(error, "code")
        return kinds[found](self.words(error) if known else f"Cloud TPU API: {_one_line(error)}")

    def words(self, error: Any) -> str:
        """What an error of the API means, and what to do.

        Args:
          error: of google.api_core, or a google.rpc.Status: both have code and message.
        """
        code, message = _code(error), " ".join(error.message.split())
        lower = message.lower()
        place = f"{self._slice} in {self._zone}"
        if code == 8 and "capacity" in lower:
            return f"{place}: no capacity now ({message})"
        if code == 8:
            kind = f"the quota of project {self._project} is too small"
            return f"{place}: {kind} ({message}); request more at {_QUOTA_PAGE}, or use another zone"
        if code == 16:
            return no_credentials(message)
        if code == 7 and ("has not been used" in lower or "disabled" in lower):
            command = f"gcloud services enable tpu.googleapis.com --project {self._project}"
            return f"the Cloud TPU API of project {self._project} is disabled ({message}); run `{command}`"
        if code == 7:
            account = "serviceaccount" in lower.replace(" ", "") or "actas" in lower
            role = "roles/iam.serviceAccountUser on launch.service_account" if account else self._role
            return f"permission denied ({message}); get {role} in project {self._project}"
        if "acceleratortype" in lower.replace(" ", "").replace("_", ""):
            return self.no_type(message)
        if "runtime" in lower:
            return self.no_runtime(message)
        if code == 4:
            return f"{place}: not available within launch.valid_until_seconds ({message}); raise it"
        return f"{place}: {message} ({type(error).__name__})"

    def no_type(self, message: str) -> str:
        """The zone has no slice of the type."""
        command = f"gcloud compute tpus accelerator-types list --zone {self._zone}"
        return f"zone {self._zone} has no {self._slice} ({message}); choose one that `{command}` lists"

    def no_runtime(self, message: str) -> str:
        """The zone has no such software for machines."""
        command = f"gcloud compute tpus versions list --zone {self._zone}"
        return (
            f"launch.runtime_version {self._runtime} is unknown in {self._zone} ({message}); choose one that "
            f"`{command}` lists"
        )

    def _connected(self) -> Any:
        if self._client is None:
            try:
                from google.cloud import tpu_v2
            except ImportError:
                raise UserError("the Cloud TPU API needs `pip install 'lazytower[gcp]'`") from None
            host = os.environ.get(EMULATOR)
            self._client = tpu_v2.TpuClient(transport=_plain(host) if host else None)
        return self._client


def _plain(host: str) -> Any:
    """A transport without TLS or credentials."""
    import grpc
    from google.cloud.tpu_v2.services.tpu.transports import TpuGrpcTransport

    direct = [("grpc.enable_http_proxy", 0)]
    return TpuGrpcTransport(host=host, channel=grpc.insecure_channel(host, direct))


def _code(error: Any) -> int:
    """Number of the gRPC status in an exception or a google.rpc.Status."""
    if isinstance(error.code, int) and not hasattr(error, "grpc_status_code"):
        return error.code
    status = error.grpc_status_code
    return int(status.value[0]) if status is not None else 2


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def no_credentials(message: object) -> str:
    """What to do without credentials; `message` is Google's."""
    return (
        f"no credentials for Google Cloud ({' '.join(str(message).split())}); run `gcloud auth "
        "application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
    )
