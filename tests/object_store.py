"""An object store of this machine's own: moto's S3 behind real HTTP, in a process that can be killed."""

import socket
import subprocess
import sys
import time

BUCKET = "team"
PROGRAM = """
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import main

s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket("{bucket}", "us-east-1")  # before anybody can ask for it
main(["-H", "127.0.0.1", "-p", "{port}"])
"""


class ObjectStore:
    """Its address, and its life."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What botocore and s3fs look at."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it with the bucket `BUCKET` and wait until it answers; what was in it before is gone."""
        command = [sys.executable, "-c", PROGRAM.format(port=self.port, bucket=BUCKET)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            assert self.process.poll() is None, "the object store ended"
            time.sleep(0.1)

    def stop(self) -> None:
        """Kill it, with all that is in it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
