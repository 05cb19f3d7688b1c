"""What each error of the Cloud TPU API means for each kind of call: one table for all codes and methods.

A slice is billed until it is gone, so a call that reads or deletes gives up only where waiting cannot help
and the user must act. RESOURCE_EXHAUSTED on a read is a limit of requests and says nothing about slices.
"""

from enum import Enum


class Meaning(Enum):
    """What follows from an error."""

    AGAIN = "nothing is known; the same call may succeed later"
    ABSENT = "nothing of the name exists"
    REFUSED = "no capacity or no quota now; a later request may succeed"
    EXISTS = "something of the name exists already"
    DENIED = "only the user can fix it"


_AGAIN, _ABSENT, _DENIED = Meaning.AGAIN, Meaning.ABSENT, Meaning.DENIED

# By the name of the gRPC status: for calls that create, read and delete.
TABLE = {
    "CANCELLED": (_AGAIN, _AGAIN, _AGAIN),
    "UNKNOWN": (_AGAIN, _AGAIN, _AGAIN),
    "INVALID_ARGUMENT": (_DENIED, _DENIED, _DENIED),
    "DEADLINE_EXCEEDED": (_AGAIN, _AGAIN, _AGAIN),
    "NOT_FOUND": (_DENIED, _ABSENT, _ABSENT),  # of a request: its zone, network or account
    "ALREADY_EXISTS": (Meaning.EXISTS, _AGAIN, _AGAIN),
    "PERMISSION_DENIED": (_DENIED, _DENIED, _DENIED),
    "RESOURCE_EXHAUSTED": (Meaning.REFUSED, _AGAIN, _AGAIN),
    "FAILED_PRECONDITION": (_DENIED, _AGAIN, _AGAIN),  # what is being changed is deleted afterwards
    "ABORTED": (_AGAIN, _AGAIN, _AGAIN),
    "OUT_OF_RANGE": (_DENIED, _DENIED, _DENIED),
    "UNIMPLEMENTED": (_DENIED, _DENIED, _DENIED),
    "INTERNAL": (_AGAIN, _AGAIN, _AGAIN),
    "UNAVAILABLE": (_AGAIN, _AGAIN, _AGAIN),
    "DATA_LOSS": (_AGAIN, _AGAIN, _AGAIN),
    "UNAUTHENTICATED": (_DENIED, _DENIED, _DENIED),
}
# By the beginning of a client method's name.
_COLUMNS = {"create": 0, "get": 1, "list": 1, "delete": 2}

# gRPC reports a missing token as UNAVAILABLE, with the text of google.auth.
_NO_TOKEN = "metadata from plugin failed"
_EXPIRED = ("reauth", "invalid_grant", "invalid_rapt", "refresherror", "expired", "revoked")


def meaning(method: str, error: Exception) -> Meaning:
    """What an error of one call means; any error but one of the API or its credentials is transient.

    Args:
      method: of the client, such as get_queued_resource.
      error: raised by the client.
    """
    from google.auth.exceptions import GoogleAuthError

    if isinstance(error, GoogleAuthError):
        return _DENIED if needs_login(error) else _AGAIN
    name = status_name(error)
    if name not in TABLE or needs_login(error):
        return _DENIED if needs_login(error) else _AGAIN
    return TABLE[name][_COLUMNS[method.partition("_")[0]]]


def status_name(error: Exception) -> str:
    """The gRPC status of an error, such as NOT_FOUND; "" when it has none."""
    status = getattr(error, "grpc_status_code", None)  # of google.api_core
    code = getattr(error, "code", None)
    if status is None and callable(code):  # of gRPC itself
        status = code()
    return str(getattr(status, "name", ""))


def needs_login(error: Exception) -> bool:
    """Whether credentials are missing, or only a new login can renew them."""
    from google.auth import exceptions

    if isinstance(error, exceptions.GoogleAuthError):
        on_the_way = exceptions.TransportError | exceptions.TimeoutError | exceptions.ResponseError
        return not (error.retryable or isinstance(error, on_the_way))
    text = str(error).lower()
    return _NO_TOKEN in text and any(word in text for word in _EXPIRED)
