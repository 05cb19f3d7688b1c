"""The table of errors: every code at every method, and errors without a code."""

import grpc
import pytest
from google.api_core import exceptions
from google.auth import exceptions as auth

from trainer.launchers import tpu_api
from trainer.launchers.api_errors import TABLE, Meaning, meaning
from trainer.launchers.base import Exists, LaunchError, Refused, Unreachable

CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
CREATES = ("create_queued_resource", "create_node")
READS = (
    *("get_queued_resource", "get_node", "get_operation", "get_accelerator_type", "get_runtime_version"),
    *("list_queued_resources", "list_nodes", "list_operations"),
)
DELETES = ("delete_queued_resource", "delete_node", "delete_operation")
# For all others, waiting cannot help.
PASSING = {"CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
PASSING_WITHOUT_REQUEST = PASSING | {"ALREADY_EXISTS", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"}


class Client:
    """Answers with errors, the last one forever; then, or without any, with `found`."""

    def __init__(self, *errors, always: bool = False):
        self.errors, self.always, self.calls = list(errors), always, 0

    def __getattr__(self, method):
        def call(request, retry, timeout):
            self.calls += 1
            if self.errors:
                raise self.errors[0] if self.always else self.errors.pop(0)
            return "found"

        return call


@pytest.fixture
def clock(monkeypatch):
    """Time passes only in pauses."""
    now = [0.0]
    monkeypatch.setattr(tpu_api.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(tpu_api.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def api(client: Client) -> tpu_api.TpuApi:
    made = tpu_api.TpuApi("shop", "us-east5-b", "v6e-4", "v2-alpha-tpuv6e")
    made._client, made._connected = client, lambda: client
    return made


def expected(method: str, code: str) -> Meaning:
    if method in CREATES:
        special = {"ALREADY_EXISTS": Meaning.EXISTS, "RESOURCE_EXHAUSTED": Meaning.REFUSED}
        return special.get(code) or (Meaning.AGAIN if code in PASSING else Meaning.DENIED)
    if code == "NOT_FOUND":
        return Meaning.ABSENT
    return Meaning.AGAIN if code in PASSING_WITHOUT_REQUEST else Meaning.DENIED


def test_the_table_has_every_code():
    assert set(TABLE) == {code.name for code in CODES}


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
@pytest.mark.parametrize("method", [*CREATES, *READS, *DELETES])
def test_every_code_at_every_method(method, code, clock):
    error = exceptions.from_grpc_status(code, "injected")
    found, client = expected(method, code.name), Client(error, always=True)
    raised = {Meaning.AGAIN: Unreachable, Meaning.REFUSED: Refused, Meaning.EXISTS: Exists}
    assert meaning(method, error) is found
    if found is Meaning.ABSENT:
        assert api(client).call(method, name="x") is None
    else:
        with pytest.raises(raised.get(found, LaunchError), match="injected") as caught:
            api(client).call(method, name="x")
        assert "\n" not in str(caught.value)
    if found is Meaning.AGAIN:
        assert client.calls > 5 and clock[0] <= tpu_api.CALL_SECONDS, "tried for as long as a call may take"
        assert api(Client(error, error)).call(method, name="x") == "found", "and waited out"
    else:
        assert client.calls == 1


class Raw(grpc.RpcError):
    """As gRPC itself raises it."""

    def code(self):
        return grpc.StatusCode.UNAVAILABLE


NO_TOKEN = "Getting metadata from plugin failed with error: "


@pytest.mark.parametrize(
    ("error", "denied"),
    [
        (Raw(), False),
        (exceptions.RetryError("timeout", None), False),
        (ConnectionResetError("reset"), False),
        (TimeoutError("late"), False),
        (RuntimeError("of a kind that nobody expects"), False),
        (auth.TransportError("no route"), False),
        (auth.RefreshError("server error", retryable=True), False),
        (auth.RefreshError("invalid_grant: Token has been expired or revoked."), True),
        (auth.ReauthFailError("no"), True),
        (auth.DefaultCredentialsError("none"), True),
        (exceptions.ServiceUnavailable(NO_TOKEN + "HTTPSConnectionPool: Max retries exceeded"), False),
        (exceptions.ServiceUnavailable(NO_TOKEN + "Reauthentication is needed. Please run"), True),
        (exceptions.ServiceUnavailable(NO_TOKEN + "('invalid_grant: Bad Request', {})"), True),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, Exception) else None,
)
@pytest.mark.parametrize("method", ["create_queued_resource", "get_node", "delete_queued_resource"])
def test_what_comes_instead_of_a_code(method, error, denied, clock):
    if denied:
        with pytest.raises(LaunchError, match="gcloud auth application-default login"):
            api(Client(error)).call(method, name="x")
    else:
        assert api(Client(error, error)).call(method, name="x") == "found"
        with pytest.raises(Unreachable):
            api(Client(error, always=True)).call(method, name="x")
