"""Where the TPU is that a config names: the addresses of its hosts, asked of the Cloud TPU API."""

import socket
import time

from configs.errors import UserError
from configs.sections.devices import TpuDeviceConfig
from trainer.launchers.base import Refused
from trainer.launchers.tpu_api import TpuApi, no_credentials

LOCAL = "local"  # TPUClusterResolver's word for the TPU of this machine
_PORT = 8470  # of TensorFlow's worker service, where the API says none
_COMING_UP = ("CREATING", "STARTING", "RESTARTING", "REIMAGING", "UNHIDING")
_POLL_SECONDS = 5.0


def tpu_address(device: TpuDeviceConfig, wait_seconds: float) -> str:
    """What TPUClusterResolver takes: `local`, or grpc://ip:port of every host, with commas between.

    TensorFlow itself looks names up with a package that is no longer maintained.

    Args:
      device: the config's section.
      wait_seconds: that a TPU may take which is coming up: a job's start-up script may be ahead of the API.

    Raises:
      UserError: no such TPU, it is not up, or it may not be looked at; says what to do.
    """
    if device.name is None:
        return LOCAL
    if device.has_address:
        return device.name
    api = TpuApi(device.project or _default_project(), device.zone, device.slice, "", "roles/tpu.viewer")
    endpoints = _ready_node(api, device, wait_seconds).network_endpoints
    if not endpoints:
        raise UserError(f"device.name: the API gives no address of {device.name}; name its address, grpc://")
    return ",".join(f"grpc://{host.ip_address}:{host.port or _PORT}" for host in endpoints)


def wait_for_hosts(address: str, seconds: float) -> None:
    """Returns when all hosts accept connections; TensorFlow would wait for them forever.

    Raises:
      UserError: a host where nobody did for so long.
    """
    deadline = time.monotonic() + seconds
    for host in address.split(",") if address != LOCAL else ():
        name, _, port = host.removeprefix("grpc://").partition(":")
        while error := _closed(name, int(port or _PORT)):
            if time.monotonic() >= deadline:
                raise UserError(
                    f"device.name: nobody listens at {host} after {seconds:g} s ({error}); TensorFlow's "
                    "worker service must run on every host (bare images may lack it: docs/jobs.md) and "
                    "be reached from here"
                )
            time.sleep(1.0)


def _closed(name: str, port: int) -> OSError | None:
    """Why a port cannot be connected to; None: it can."""
    try:
        socket.create_connection((name, port), timeout=_POLL_SECONDS).close()
    except OSError as error:
        return error
    return None


def _ready_node(api: TpuApi, device: TpuDeviceConfig, wait_seconds: float):
    """The API's node, once it is READY."""
    deadline = time.monotonic() + wait_seconds
    what = f"TPU {device.name} in {api.parent}"
    while True:
        try:
            node = api.call("get_node", name=f"{api.parent}/nodes/{device.name}")
        except (Refused, UserError) as error:
            raise UserError(f"device.name: {error}") from None
        if node is None:
            command = f"gcloud compute tpus tpu-vm list --zone {device.zone}"
            raise UserError(f"device.name: there is no {what}; `{command}` lists those that there are")
        state = node.state.name
        if state == "READY":
            return node
        if state not in _COMING_UP:
            raise UserError(f"device.name: {what} is {state}; start it, or name one that is READY")
        if time.monotonic() >= deadline:
            raise UserError(
                f"device.name: {what} is still {state} after {wait_seconds:g} s; wait until it is READY"
            )
        time.sleep(_POLL_SECONDS)


def _default_project() -> str:
    """Of the default credentials."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        _, project = google.auth.default()
    except GoogleAuthError as error:
        raise UserError(f"device.name: {no_credentials(error)}") from None
    if not project:
        raise UserError("device.project: missing, and the default credentials belong to none; give it")
    return project
