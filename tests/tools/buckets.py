"""A mock S3 server on loopback that can go away and come back, and a machine of one's own for its users."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install -c constraints.txt '.[test]'")


class Server:
    """moto's S3 with one bucket, `bucket`; what lies in it outlives `stop`."""

    def __init__(self) -> None:
        self.port = 0
        self.start()
        self.port = self.server.get_host_and_port()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.client.create_bucket(Bucket="bucket")

    def start(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self.server = moto.ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    @property
    def client(self) -> Any:
        import boto3

        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client("s3", endpoint_url=self.address, region_name="us-east-1", **keys)

    def names(self, prefix: str) -> list[str]:
        """Of the objects below a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=prefix)
        return [one["Key"].removeprefix(prefix) for page in pages for one in page.get("Contents", [])]

    def read(self, name: str) -> bytes:
        return self.client.get_object(Bucket="bucket", Key=name)["Body"].read()

    def machine(self, cache: Path, age: float = 60) -> dict[str, str]:
        """What a process's environment has on a machine with the mirrors at `cache`."""
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
        return keys | {"AWS_ENDPOINT_URL": self.address, "DASGM_CACHE": str(cache), "DASGM_LOCK_AGE": str(age)}


def serve() -> Iterator[Server]:
    """For a fixture."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    server = Server()
    yield server
    server.stop()
