"""The container engine, as its command line is; DOCKER in the environment says what that is called."""

import json
import os
import shlex
import socket
import subprocess
from dataclasses import dataclass
from typing import Any

from tests.support.reference import ROOT

DOCKER = shlex.split(os.environ.get("DOCKER", "docker"))
ARTIFACT = ROOT / "artifacts" / "reber.gates.onnx"

Done = subprocess.CompletedProcess[str]


def docker(*arguments: str, **environment: str) -> Done:
    return subprocess.run(
        [*DOCKER, *arguments], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def printed(done: Done) -> str:
    """What a command printed that must have ended with 0."""
    assert done.returncode == 0, f"{shlex.join(done.args)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def succeed(*arguments: str) -> str:
    return printed(docker(*arguments))


def inspect(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(succeed(kind, "inspect", name))[0]
    return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@dataclass(frozen=True)
class Stack:
    """Services of the compose file, in a project of their own.

    Attributes:
        project: what it is called.
        variable: of the environment, which says on which port of this machine they are.
        port: which that is.
    """

    project: str
    variable: str
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def container(self, service: str) -> str:
        return f"{self.project}-{service}-1"

    def compose(self, *arguments: str) -> Done:
        return docker("compose", f"--project-name={self.project}", *arguments, **{self.variable: str(self.port)})

    def succeed(self, *arguments: str) -> str:
        return printed(self.compose(*arguments))
