import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gatestream.server.config import TUNINGS, Limits, ServerConfig, Share, Threads, TickLimits, chosen_tunings
from gatestream.server.errors import ConfigError

ARTIFACTS = (Path("model.onnx"),)


def test_the_defaults_are_a_whole_server() -> None:
    config = ServerConfig(artifacts=ARTIFACTS)
    assert config.limits.sessions == 10_000
    assert config.tick.rows == 512


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Limits, {"sessions": 0}, "sessions is 0; expected 1 to 10,000,000"),
        (Limits, {"message_bytes": 2**31}, "message_bytes is 2147483648; expected 1,024 to 2,147,483,647"),
        (Limits, {"idle_timeout": -1.0}, "idle_timeout is -1.0; expected 0 to 1,000,000,000"),
        (Limits, {"chunk_length": 9, "rows_per_stream": 8}, "chunk_length is 9, rows_per_stream 8"),
        (Limits, {"rows_per_stream": 300_000}, "rows_per_stream is 300000, rows 262144"),
        (Limits, {"reply_bytes": 2**20}, "reply_bytes_per_stream is 67108864, reply_bytes 1048576: one stream"),
        (Limits, {"tenant_rows": 100}, "rows_per_stream is 65536, tenant_rows 100: one stream may not hold more than"),
        (Limits, {"tenant_reply_bytes": 4096}, "reply_bytes_per_stream is 67108864, tenant_reply_bytes 4096: one str"),
        (Limits, {"tenant_sessions": "many"}, "tenant_sessions is 'many'; expected a number, or auto"),
        (TickLimits, {"steps": 0}, "tick_steps is 0; expected 1 to 65,536"),
        (ServerConfig, {"artifacts": ()}, "artifacts: none given"),
        (ServerConfig, {"artifacts": ARTIFACTS, "workers": 0}, "workers is 0; expected 1 to 256"),
        (ServerConfig, {"artifacts": ARTIFACTS, "threads": 0}, "threads is 0; expected 1 to 1,024"),
        (ServerConfig, {"artifacts": ARTIFACTS, "threads": "all"}, "threads is 'all'; expected a number, or auto"),
        (ServerConfig, {"artifacts": ARTIFACTS, "listen": "50051"}, "expected HOST:PORT"),
        (ServerConfig, {"artifacts": ARTIFACTS, "listen": "::1:99999"}, "expected HOST:PORT"),
        (ServerConfig, {"artifacts": ARTIFACTS, "http_listen": ""}, "http_listen is ''; expected HOST:PORT"),
        (ServerConfig, {"artifacts": ARTIFACTS, "http_listen": "99999"}, "http_listen is '99999'; expected HOST:PORT"),
        (ServerConfig, {"artifacts": ARTIFACTS, "http_listen": ":9090"}, "or PORT, as in 9090"),
        (
            ServerConfig,
            {"artifacts": ARTIFACTS, "provider": "gpu"},
            "expected one of auto, cpu, cuda",
        ),
        (ServerConfig, {"artifacts": ARTIFACTS, "tls_cert": Path("c")}, "tls_cert and tls_key go together"),
        (ServerConfig, {"artifacts": ARTIFACTS, "tls_client_ca": Path("c")}, "tls_client_ca is given without"),
    ],
)
def test_a_value_outside_its_range_is_named(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("all", dict.fromkeys(TUNINGS, False)),
        ("none", {}),
        ("garbage", {"garbage": True}),
        ("garbage, grpc-poller,garbage", {"grpc-poller": True, "garbage": True}),
        ("-garbage", {name: False for name in TUNINGS if name != "garbage"}),
        ("-busy-poll, -garbage", {name: False for name in TUNINGS if name not in ("busy-poll", "garbage")}),
        (",".join(f"-{name}" for name in TUNINGS), {}),
    ],
)
def test_the_tunings_that_a_text_chooses(text: str, chosen: dict[str, bool]) -> None:
    assert chosen_tunings(text) == chosen
    assert list(chosen_tunings(text)) == list(chosen)  # in the order in which they are done


@pytest.mark.parametrize(
    "text", ["", "fast", "grpc_poller", "all,garbage", "none,garbage", "garbage,-busy-poll", "--garbage", "-all", ","]
)
def test_a_text_that_chooses_no_tunings_is_told_which_there_are(text: str) -> None:
    says = (
        f"tuning is {text!r}; expected all, none, or some of grpc-poller, grpc-reader, busy-poll, switch-interval, "
        "allocator, protobuf-trim, garbage, prompt-writer, separated by commas, each with a dash before it for all but "
        "those"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}$"):
        ServerConfig(artifacts=ARTIFACTS, tuning=text)
    with pytest.raises(ConfigError) as caught:
        chosen_tunings(10_000 * "x")
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(
    ("given", "means"),
    [
        (None, None),
        ("9090", "127.0.0.1:9090"),
        ("0", "127.0.0.1:0"),
        ("0.0.0.0:9090", "0.0.0.0:9090"),
        ("[::1]:9090", "[::1]:9090"),
    ],
)
def test_what_http_listens_on(given: str | None, means: str | None) -> None:
    assert ServerConfig(artifacts=ARTIFACTS, http_listen=given).http_address == means


@pytest.mark.parametrize("kind", [Limits, TickLimits, ServerConfig])
def test_every_number_has_a_range_that_its_default_is_in_and_nan_is_not(kind: Any) -> None:
    numbers = [item for item in fields(kind) if item.type in (int, float, Threads)]
    assert Share == Threads
    assert numbers
    rest = {"artifacts": ARTIFACTS} if kind is ServerConfig else {}
    for item in numbers:
        assert item.default == "auto" or item.metadata["least"] <= item.default <= item.metadata["most"]
        for value in (math.nan, math.inf, -math.inf, -1, 10**20):
            with pytest.raises(ConfigError, match=rf"^(tick_)?{item.name} is {re.escape(str(value))}; expected "):
                kind(**{item.name: value}, **rest)
