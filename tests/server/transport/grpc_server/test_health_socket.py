import re
import socket
from pathlib import Path

import pytest

from gatestream.server.errors import ConfigError
from gatestream.server.transport.grpc_server.health import Health
from gatestream.server.transport.grpc_server.health_socket import HealthSocket


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("live", "{path} is there already: another server answers there"),
        ("folder", "there is no folder {path.parent}"),
        ("long", "{path} has more than the 107 bytes that a socket's path may have"),
    ],
)
async def test_a_place_that_cannot_be_had(tmp_path: Path, kind: str, says: str) -> None:
    path = tmp_path / {"folder": "missing/health.sock", "long": 100 * "n"}.get(kind, "health.sock")
    with socket.socket(socket.AF_UNIX) as live:
        if kind == "live":
            live.bind(str(path))
            live.listen()
        with pytest.raises(ConfigError, match=re.escape(f"health_socket: {says.format(path=path)}")):
            HealthSocket(path, Health())
