"""Addresses of the hosts of a TPU, looked up by its name in the Cloud TPU API."""

import socket
import time

from configs.errors import UserError
from configs.sections.devices import TpuDeviceConfig
from trainer.launchers.base import Refused
from trainer.launchers.tpu_api import TpuApi, no_credentials

LOCAL = "local"  # TPUClusterResolver's name for the TPU of this machine
_PORT = 8470  # of TensorFlow's worker service, if the API returns none
_COMING_UP = ("CREATING", "STARTING", "RESTARTING", "REIMAGING", "UNHIDING")
_POLL_SECONDS = 5.0


def tpu_address(device: TpuDeviceConfig, wait_seconds: float) -> str:
    """The address for TPUClusterResolver: `local`, or grpc://ip:port of every host, separated by commas.

    Names are looked up here because TensorFlow does it with a package that is no longer maintained.

    Args:
      device: the config's section.
      wait_seconds: limit on the wait for a TPU that is starting: a job's start-up script may run before the
        API reports the TPU as ready.

    Raises:
      UserError: the TPU does not exist, is not up, or access is denied; says what to do.
    """
    if device.name is None:
        return LOCAL
    if device.has_address:
        return device.name
    assert device.zone is not None, "the section requires a zone with a name"
    api = TpuApi(device.project or _default_project(), device.zone, device.slice, "", "roles/tpu.viewer")
    endpoints = _ready_node(api, device, wait_seconds).network_endpoints
    if not endpoints:
        raise UserError(
            f"device.name: the API has no address of {device.name}; write its address, grpc://ip:port"
        )
    return ",".join(f"grpc://{host.ip_address}:{host.port or _PORT}" for host in endpoints)


def wait_for_hosts(address: str, seconds: float) -> None:
    """Waits until all hosts accept connections, because TensorFlow itself would wait forever.

    Raises:
      UserError: a host does not accept connections within `seconds`.
    """
    deadline = time.monotonic() + seconds
    for host in address.split(",") if address != LOCAL else ():
        name, _, port = host.removeprefix("grpc://").partition(":")
        while error := _closed(name, int(port or _PORT)):
            if time.monotonic() >= deadline:
                raise UserError(
                    f"device.name: {host} does not accept connections after {seconds:g} s ({error}); start "
                    "TensorFlow's worker service on every host (bare images may lack it: docs/jobs.md) and "
                    "check that this machine can reach it"
                )
            time.sleep(1.0)


def _closed(name: str, port: int) -> OSError | None:
    """The error of connecting to a port; None if it succeeds."""
    try:
        socket.create_connection((name, port), timeout=_POLL_SECONDS).close()
    except OSError as error:
        return error
    return None


def _ready_node(api: TpuApi, device: TpuDeviceConfig, wait_seconds: float):
    """Waits until the node is READY, and returns it."""
    deadline = time.monotonic() + wait_seconds
    what = f"TPU {device.name} in {api.parent}"
    while True:
        try:
            node = api.call("get_node", name=f"{api.parent}/nodes/{device.name}")
        except (Refused, UserError) as error:
            raise UserError(f"device.name: {error}") from None
        if node is None:
            command = f"gcloud compute tpus tpu-vm list --zone {device.zone}"
            raise UserError(f"device.name: {what} does not exist; `{command}` lists the TPUs of the zone")
        state = node.state.name
        if state == "READY":
            return node
        if state not in _COMING_UP:
            raise UserError(f"device.name: {what} is {state}; start it, or use another")
        if time.monotonic() >= deadline:
            raise UserError(
                f"device.name: {what} is still {state} after {wait_seconds:g} s; rerun when it is READY"
            )
        time.sleep(_POLL_SECONDS)


def _default_project() -> str:
    """The project of the default credentials."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        _, project = google.auth.default()
    except GoogleAuthError as error:
        raise UserError(f"device.name: {no_credentials(error)}") from None
    if not project:
        raise UserError("device.project: missing, and the default credentials have no project; set it")
    return project
