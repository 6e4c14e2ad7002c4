"""Every setting of the server: one frozen dataclass, each field with its default, its range and its help.

The command line, the environment and the TOML file are read in one place (gatestream.cli.serve), from these fields.
"""

import re
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from gatestream.server.errors import ConfigError, cut

Provider = Literal["auto", "cpu", "cuda"]
LogFormat = Literal["auto", "json", "text"]
Threads = int | Literal["auto"]
Share = int | Literal["auto"]
Durability = Literal["off", "behind", "before-answer"]
Tuning = Literal[
    "grpc-poller",
    "grpc-reader",
    "busy-poll",
    "switch-interval",
    "allocator",
    "protobuf-trim",
    "garbage",
    "prompt-writer",
]

TUNINGS: Final[tuple[Tuning, ...]] = get_args(Tuning)
"""What can be done to the process and to gRPC for speed; gatestream.server.process.tuning does it."""


def _setting(
    text: str,
    default: Any = MISSING,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    # With one end only, infinity would be in the range.
    assert (least is None) == (most is None), text
    return field(default=default, metadata={"help": text, "least": least, "most": most, "choices": choices})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one server takes on. A request over a limit is refused at once; nothing queues without a bound.

    A row is one time step of one session.
    """

    sessions: int = _setting("Resident sessions, of each model.", 10_000, least=1, most=10_000_000)
    held_sessions: Share = _setting(
        "Sessions that have a slot or are held by a stream while their states are in the store, of each model; auto: "
        "twice as many as can be resident.",
        "auto",
        least=1,
        most=10_000_000,
    )
    sessions_per_stream: int = _setting("Sessions that one stream may hold.", 10_000, least=1, most=10_000_000)
    streams: int = _setting("Streams open at once.", 1_000, least=1, most=1_000_000)
    rows: int = _setting("Rows accepted and not yet computed, of each model.", 262_144, least=1, most=2**31 - 1)
    rows_per_stream: int = _setting(
        "Rows of one stream accepted and not yet sent back.", 65_536, least=1, most=2**31 - 1
    )
    chunk_length: int = _setting("Time steps of one session in one message.", 16_384, least=1, most=2**24)
    reply_bytes_per_stream: int = _setting(
        "Bytes of answers that the accepted rows of one stream may amount to.", 64 * 2**20, least=4096, most=2**40
    )
    # To take a message off the wire holds the loop for a millisecond a MiB.
    message_bytes: int = _setting("Size of one message from a client.", 9 * 2**19, least=1024, most=2**31 - 1)
    reply_bytes: int = _setting(
        "Bytes of answers not yet sent, and of rows not yet computed with the answers that they will have, of all "
        "streams.",
        512 * 2**20,
        least=4096,
        most=2**44,
    )
    tenant_sessions: Share = _setting(
        "Resident sessions of one tenant, of each model; auto: all for a tenant that is alone, else half.",
        "auto",
        least=1,
        most=10_000_000,
    )
    tenant_streams: Share = _setting(
        "Streams that one tenant has open at once; auto: all, or half.", "auto", least=1, most=1_000_000
    )
    tenant_rows: Share = _setting(
        "Rows of one tenant accepted and not yet computed, of all models; auto: all, or half.",
        "auto",
        least=1,
        most=2**31 - 1,
    )
    tenant_reply_bytes: Share = _setting(
        "Bytes as in reply-bytes, of one tenant; auto: all, or half.", "auto", least=4096, most=2**44
    )
    idle_timeout: float = _setting(
        "Seconds without an answer after which a session is closed; 0: never.", 3600.0, least=0, most=10**9
    )
    sequence_timeout: float = _setting(
        "The same for a sequence of the Open Inference Protocol.", 60.0, least=0, most=10**9
    )
    parked_sessions: int = _setting(
        "Sessions of one tenant that the store has, those that streams hold among them.",
        1_000_000,
        least=1,
        most=10**9,
    )
    parked_bytes: int = _setting("Bytes that their checkpoints may take.", 16 * 2**30, least=4096, most=2**44)
    park_timeout: float = _setting(
        "Seconds without an answer after which a session that no stream holds is closed; 0: never.",
        3600.0,
        least=0,
        most=10**9,
    )
    idle_stream_timeout: float = _setting(
        "Seconds without any message, either way, after which a stream that holds no session ends; 0: never.",
        300.0,
        least=0,
        most=10**9,
    )

    def __post_init__(self) -> None:
        _check_ranges(self)
        if self.most_held < self.sessions:
            raise ConfigError(
                f"held_sessions is {self.held_sessions}, sessions {self.sessions}: a resident session counts as held"
            )
        if self.chunk_length > self.rows_per_stream:
            raise ConfigError(
                f"chunk_length is {self.chunk_length}, rows_per_stream {self.rows_per_stream}: "
                "a chunk of the allowed length would never be accepted; raise rows_per_stream or lower chunk_length"
            )
        if self.rows_per_stream > self.rows:
            raise ConfigError(
                f"rows_per_stream is {self.rows_per_stream}, rows {self.rows}: one stream may not hold more than all"
            )
        if self.reply_bytes_per_stream > self.reply_bytes:
            raise ConfigError(
                f"reply_bytes_per_stream is {self.reply_bytes_per_stream}, reply_bytes {self.reply_bytes}: one stream "
                "may not hold more than all"
            )
        for name in ("rows", "reply_bytes"):
            of_stream, of_tenant = getattr(self, f"{name}_per_stream"), getattr(self, f"tenant_{name}")
            if of_tenant != "auto" and of_stream > of_tenant:
                raise ConfigError(
                    f"{name}_per_stream is {of_stream}, tenant_{name} {of_tenant}: one stream may not hold more than "
                    "its tenant"
                )

    @property
    def most_held(self) -> int:
        """`held_sessions` as a number."""
        return 2 * self.sessions if self.held_sessions == "auto" else self.held_sessions


@dataclass(frozen=True, kw_only=True, slots=True)
class TickLimits:
    """How much one run of the model takes on."""

    rows: int = _setting("Rows in one run of the model.", 512, least=1, most=65_536)
    steps: int = _setting("Time steps of one session in one run of the model.", 64, least=1, most=65_536)

    def __post_init__(self) -> None:
        _check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """A whole server.

    Raises:
        ConfigError: a value is outside its range; the message names it.
    """

    artifacts: tuple[Path, ...] = ()
    models: Path | None = _setting(
        "Folder of models, NAME/VERSION/model.onnx with NAME/config.pbtxt where there is one: of each model the newest "
        "version that can be served, or as many as its version_policy says.",
        None,
    )
    model_control: bool = _setting(
        "Let clients load and unload models of the folder, and move sessions between their versions; where there are "
        "tokens, those of admins.",
        False,
    )
    watch_models: float = _setting(
        "Seconds between two looks at the folder of models: versions that have come or changed are loaded, those that "
        "have gone are unloaded; 0: none.",
        0.0,
        least=0,
        most=86_400,
    )
    unload_seconds: float = _setting(
        "Longest time that the sessions of a model that is unloaded may go on.", 60.0, least=0, most=10**9
    )
    adopt_seconds: float = _setting(
        "Longest time that may be spent on a file that is no artifact yet, to make one of it.",
        300.0,
        least=1,
        most=86_400,
    )
    adopt_mib: int = _setting("MiB of memory that may be used for that.", 8192, least=64, most=2**24)
    adopt_cache: Path | None = _setting(
        "Folder in which such artifacts are kept for the next start; without it they are made anew.", None
    )
    listen: str = _setting("HOST:PORT to listen on; port 0 takes a free one.", "127.0.0.1:50051")
    provider: Provider = _setting(
        "Execution provider; auto: cuda where it can be had, else cpu.",
        "auto",
        choices=("auto", "cpu", "cuda"),
    )
    workers: int = _setting(
        "Processes that share the port, each with sessions, an engine and a copy of the models of its own. Every limit "
        "counts for each of them by itself.",
        1,
        least=1,
        most=256,
    )
    threads: Threads = _setting(
        "Threads of one run of a model on the CPU, divided among the workers (each has at least 1); auto: what "
        "measures best at the start.",
        1,
        least=1,
        most=1024,
    )
    busy_poll_us: int = _setting(
        "Microseconds that a server with nothing to do looks for what comes before it sleeps, so that it need not be "
        "woken; it spends no more time on that than on work. 0: none, as where a worker has less than two CPUs.",
        200,
        least=0,
        most=1_000_000,
    )
    tuning: str = _setting(
        "What is done to the process and to gRPC for speed: all that can be here, none, or names separated by commas, "
        f"each with a dash before it: all but those. Names: {', '.join(TUNINGS)}.",
        "all",
    )
    deterministic: bool = _setting(
        "Make a session's numbers independent of other sessions, bit for bit; on the CPU alone.", False
    )
    straight_path: bool = _setting(
        "Take no short cuts: parse every message, queue every step, gather every row. It is slower, and answers "
        "are the same, bit for bit: for finding out whether a short cut is at fault.",
        False,
    )
    connections: int = _setting(
        "Connections open at once; one more is closed as soon as it has come.", 10_000, least=1, most=1_000_000
    )
    unary_calls: int = _setting(
        "Unary calls that have come and are not answered; one more is refused.", 16_384, least=1, most=10_000_000
    )
    tenant_unary_calls: Share = _setting(
        "The same of one tenant; auto: all for a tenant that is alone, else half.", "auto", least=1, most=10_000_000
    )
    store: str = _setting(
        "Where sessions are kept that outlive their stream: memory (they end with the process); sqlite:PATH, a file "
        "that the workers and servers of one machine share; or valkey://HOST:PORT/DB, as redis://, or valkeys:// and "
        "rediss:// by TLS, with ?password-file=PATH and ca-file=PATH: a server that replicas share.",
        "memory",
    )
    durability: Durability = _setting(
        "When they are written there: never; behind their answers, where a client that sends again loses nothing; or "
        "before each answer, for clients that cannot send again.",
        "behind",
        choices=("off", "behind", "before-answer"),
    )
    drain_seconds: float = _setting("Longest time from the first signal to stop to the end.", 8.0, least=0, most=86_400)
    tokens: Path | None = _setting(
        'TOML file of lines "token" = "tenant"; without it everyone who can connect is one tenant.', None
    )
    tls_cert: Path | None = _setting("Certificate chain, PEM; with tls-key, serve over TLS.", None)
    tls_key: Path | None = _setting("Private key of the certificate, PEM.", None)
    tls_client_ca: Path | None = _setting("Take only clients with a certificate from these authorities, PEM.", None)
    health_socket: Path | None = _setting(
        "Unix socket on which health alone answers, for this machine's checks: without TLS and tokens, to the server's "
        "own user only.",
        None,
    )
    http_listen: str | None = _setting(
        "HOST:PORT, or a PORT of this machine alone, on which HTTP gives Prometheus' /metrics, and /healthz and "
        "/readyz, to whoever can connect.",
        None,
    )
    port_file: Path | None = _setting("Write the port listened on to this file.", None)
    log_format: LogFormat = _setting(
        "auto: text on a terminal, else JSON lines.", "auto", choices=("auto", "json", "text")
    )
    limits: Limits = field(default_factory=Limits)
    tick: TickLimits = field(default_factory=TickLimits)

    def __post_init__(self) -> None:
        _check_ranges(self)
        if not self.artifacts and self.models is None:
            raise ConfigError(
                "artifacts: none given; name at least one .onnx file made by `gatestream export`, or a folder "
                "of models with models"
            )
        if self.models is None and (self.model_control or self.watch_models):
            name = "model_control" if self.model_control else "watch_models"
            raise ConfigError(f"{name} is given without models, the folder that models are loaded from")
        chosen_tunings(self.tuning)
        if self.deterministic and self.provider == "cuda":
            raise ConfigError("deterministic is promised on the CPU alone; set provider to cpu, or leave it at auto")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert and tls_key go together; only one is given")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ConfigError("tls_client_ca is given without tls_cert and tls_key")
        if not _is_address(self.listen):
            raise ConfigError(f"listen is {self.listen!r}; expected HOST:PORT, as in 127.0.0.1:50051 or [::]:50051")
        if self.http_address is not None and not _is_address(self.http_address):
            raise ConfigError(
                f"http_listen is {self.http_listen!r}; expected HOST:PORT, as in 0.0.0.0:9090, or PORT, as in 9090"
            )

    @property
    def http_address(self) -> str | None:
        """HOST:PORT that `http_listen` names; None: none."""
        listen = self.http_listen
        return listen if listen is None or ":" in listen else f"127.0.0.1:{listen}"


def _is_address(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return bool(host) and re.fullmatch(r"[0-9]{1,5}", port) is not None and int(port) <= 65_535


def chosen_tunings(text: str) -> dict[Tuning, bool]:
    """Which tunings a value of `--tuning` chooses; of each, whether by its own name.

    Raises:
        ConfigError: it is no such value.
    """
    if text in ("all", "none"):
        return dict.fromkeys(TUNINGS if text == "all" else (), False)
    items = [item.strip() for item in text.split(",")]
    without = all(item.startswith("-") for item in items)
    named = {item.removeprefix("-") if without else item for item in items}
    if not named <= set(TUNINGS):
        raise ConfigError(
            f"tuning is {cut(text)!r}; expected all, none, or some of {', '.join(TUNINGS)}, separated by commas, each "
            "with a dash before it for all but those"
        )
    return {name: not without for name in TUNINGS if (name in named) != without}


def setting_name(config: type[Any], name: str) -> str:
    """What a setting is called on the command line (with dashes), in the environment and in the file.

    Limits of the server need no prefix; those of a tick would be taken for them without one.
    """
    return f"tick_{name}" if config is TickLimits else name


def _check_ranges(config: Any) -> None:
    for item in fields(config):
        value, least, most = (getattr(config, item.name), *(item.metadata.get(k) for k in ("least", "most")))
        name = setting_name(type(config), item.name)
        if least is not None and isinstance(value, str) and value != "auto":
            raise ConfigError(f"{name} is {value!r}; expected a number, or auto")
        # NaN is in no range.
        if least is not None and not isinstance(value, str) and not least <= value <= most:
            raise ConfigError(f"{name} is {value}; expected {least:,} to {most:,}")
        choices = item.metadata.get("choices")
        if choices and value not in choices:
            raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
