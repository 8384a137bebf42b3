"""A server that speaks as much of S3 as Arrow's client asks for."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@contextmanager
def serving(stored: dict[str, bytes]) -> Iterator[str]:
    """Serve files by BUCKET/KEY, and take more; yields the options that lead an address there."""
    handler = type("Handler", (_Handler,), {"stored": stored, "uploads": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stored: dict[str, bytes]
    uploads: dict[str, dict[int, bytes]]

    def do_GET(self) -> None:
        if "/" not in self.key.rstrip("/"):
            self._list()
        elif self.key not in self.stored:
            self._error(404, "NoSuchKey")
        else:
            data = self.stored[self.key]
            if found := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                first, last = int(found[1]), min(int(found[2]), len(data) - 1)
                self._answer(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"})
            else:
                self._answer(200, data)

    def do_HEAD(self) -> None:
        buckets = {key.partition("/")[0] for key in self.stored}
        found = self.key in self.stored or self.key.rstrip("/") in buckets
        data = self.stored.get(self.key, b"")
        self._answer(200 if found else 404, b"", {"Content-Length": str(len(data))})

    def do_PUT(self) -> None:
        data = self._body()
        if "partNumber" in self.query:
            self.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = data
        else:
            self.stored[self.key] = data
        self._answer(200, b"", {"ETag": '"0"'})

    def do_POST(self) -> None:
        self._body()
        if "uploads" in self.query:
            upload = str(len(self.uploads))
            self.uploads[upload] = {}
            self._xml(f"<UploadId>{upload}</UploadId>", "InitiateMultipartUploadResult")
        else:
            parts = self.uploads.pop(self.query["uploadId"])
            self.stored[self.key] = b"".join(parts[number] for number in sorted(parts))
            self._xml('<ETag>"0"</ETag>', "CompleteMultipartUploadResult")

    def _list(self) -> None:
        bucket, prefix = self.key.rstrip("/"), self.query.get("prefix", "")
        if not any(key.startswith(f"{bucket}/") for key in self.stored):
            self._error(404, "NoSuchBucket")
            return
        found = [key for key in sorted(self.stored) if key.startswith(f"{bucket}/{prefix}")]
        entries = "".join(
            f"<Contents><Key>{escape(key.removeprefix(f'{bucket}/'))}</Key><Size>{len(self.stored[key])}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in found[: int(self.query.get("max-keys", 1000))]
        )
        self._xml(f"<KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>{entries}", "ListBucketResult")

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return _unframed(self.rfile.read(int(self.headers.get("Content-Length", 0))), self.headers)
        data = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return _unframed(data, self.headers)

    def _xml(self, inside: str, name: str) -> None:
        self._answer(200, f'<?xml version="1.0"?><{name} xmlns="{NAMESPACE}">{inside}</{name}>'.encode())

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _unframed(data: bytes, headers: object) -> bytes:
    """Without the frames in which clients put what they add a check sum to."""
    if "aws-chunked" not in str(headers):
        return data
    found = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if not length:
            break
        found, data = found + data[:length], data[length + 2 :]
    return found
