"""S3 server on this machine (moto), for tests of object stores."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

REGION = "us-east-1"


class Server(NamedTuple):
    """Running server with one bucket."""

    client: Any
    """S3 client of boto3."""
    bucket: str
    options: str
    """Options of an s3:// URL that connect Arrow's client to this server."""

    def files(self) -> dict[str, bytes]:
        """Return the contents of all files by their keys."""
        keys = [entry["Key"] for entry in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]
        return {key: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}


@contextmanager
def serving(bucket: str, files: Mapping[str, bytes]) -> Iterator[Server]:
    """Run a server whose bucket contains files, given by their keys."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            region_name=REGION,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )
        client.create_bucket(Bucket=bucket)
        for key, data in files.items():
            client.put_object(Bucket=bucket, Key=key, Body=data)
        yield Server(client, bucket, f"endpoint_override={host}:{port}&scheme=http&region={REGION}")
    finally:
        server.stop()
