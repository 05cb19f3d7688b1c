"""A bucket for tests: gs://bucket, seen by subprocesses that run the product as it is.

gcsfs is sent to the server by its own environment variable. TensorFlow's client has none; it honours a
proxy, so a CONNECT proxy leads the names of Google's hosts to the same server over TLS, with a certificate
made for the test.
"""

import contextlib
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator

import fsspec
import pytest

from tests.support.gcs_server import BUCKET, PREFIX, Server, Store

_HOSTS = ("storage.googleapis.com", "www.googleapis.com")


class Bucket:
    """What a test does with the bucket.

    Attributes:
      url: gs:// address of a bucket that is empty at first.
      store: the server's content; `store.fail_every` switches faults on.
      environment: for subprocesses, all of os.environ included.
    """

    def __init__(self, store: Store, environment: dict[str, str]):
        self.url, self.store, self.environment = f"gs://{BUCKET}", store, environment

    def names(self, prefix: str = "") -> list[str]:
        """Names of all objects under a prefix, ascending."""
        with self.store.lock:
            return sorted(name for name in self.store.objects if name.startswith(prefix))

    def read(self, name: str) -> bytes:
        """An object's content."""
        return self.store.objects[name].content

    def write(self, name: str, content: bytes) -> None:
        """Makes or replaces an object."""
        with self.store.lock:
            self.store.put(name, content, {})

    def start(self, *command: str, **options) -> subprocess.Popen:
        """Starts `python COMMAND` in the bucket's environment; output is piped as text."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, *command], env=self.environment, **{**pipes, **options})

    def lazytower(self, *arguments: str) -> str:
        """Runs the command line, which must succeed; returns what it printed."""
        process = self.start("-m", "trainer.cli", *arguments)
        output, log = process.communicate(timeout=900)
        assert process.returncode == 0, log + output
        return output


@pytest.fixture
def bucket(tmp_path, monkeypatch) -> Iterator[Bucket]:
    """An empty bucket of its own, which gcsfs in the test's process sees too."""
    store, certificate = Store(), _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    with contextlib.ExitStack() as stack:
        plain, secure = Server(store), Server(store, context)
        stack.callback(plain.close)
        stack.callback(secure.close)
        proxy = _Proxy(secure.port)
        stack.callback(proxy.close)
        environment = _environment(plain.port, proxy.port, certificate)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", environment["STORAGE_EMULATOR_HOST"])
        monkeypatch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        # fsspec caches file systems by thread id, and ids are reused: do not reuse an old bucket.
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        yield Bucket(store, environment)


def _environment(port: int, proxy_port: int, certificate: pathlib.Path) -> dict[str, str]:
    ours = {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}{PREFIX}",
        "FSSPEC_GCS_TOKEN": "anon",
        "https_proxy": f"http://127.0.0.1:{proxy_port}",
        "CURL_CA_BUNDLE": str(certificate),
        "NO_GCE_CHECK": "true",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    unwanted = {
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT",  # the product must choose itself
        "HTTPS_PROXY",
        "ALL_PROXY",
        "all_proxy",
        "NO_PROXY",
        "no_proxy",
        "GOOGLE_APPLICATION_CREDENTIALS",
    }
    return {name: value for name, value in os.environ.items() if name not in unwanted} | ours


def _certificate(directory: pathlib.Path) -> pathlib.Path:
    """A certificate for Google's hosts, its key beside it as .key."""
    path = directory / "gcs.pem"
    names = ",".join(f"DNS:{host}" for host in _HOSTS)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        + ["-days", "2", "-subj", f"/CN={_HOSTS[0]}", "-addext", f"subjectAltName={names}"]
        + ["-out", str(path), "-keyout", str(path.with_suffix(".key"))],
        check=True,
        capture_output=True,
    )
    return path


class _Proxy:
    """Answers CONNECT to Google's storage hosts with a tunnel to the server, to others with a refusal."""

    def __init__(self, target_port: int):
        self._target_port = target_port
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        # Whatever the default is by now: a proxy that nobody asks for a minute is needed still.
        self._socket.settimeout(None)
        self._closed = False
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Takes no more connections."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._socket.accept()[0]
            except OSError:
                if self._closed:
                    return
                raise
            threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := client.recv(4096)):
                    return
                head += data
            if head.split()[1].partition(b":")[0].decode() not in _HOSTS:
                client.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self._target_port)) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                threading.Thread(target=_pump, args=(client, server), daemon=True).start()
                _pump(server, client)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
