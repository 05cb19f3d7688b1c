"""A fake service account: a key file, and a local server that issues tokens for it."""

import contextlib
import json
import pathlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

PROJECT = "test-project"


class _Tokens(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.given += 1

    def log_message(self, *unused):
        pass


@contextlib.contextmanager
def service_account(directory: pathlib.Path) -> Iterator[tuple[pathlib.Path, ThreadingHTTPServer]]:
    """(key file for GOOGLE_APPLICATION_CREDENTIALS, server); server.given counts tokens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Tokens)
    server.daemon_threads, server.given = True, 0
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = directory / "service-account.json"
    path.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": PROJECT,
                "private_key_id": "1",
                "private_key": key.decode(),
                "client_email": f"tests@{PROJECT}.iam.gserviceaccount.com",
                "client_id": "1",
                "token_uri": f"http://127.0.0.1:{server.server_address[1]}/token",
            }
        )
    )
    try:
        yield path, server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
