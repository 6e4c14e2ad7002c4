"""What is counted, in Prometheus' words: names, labels, and the text of a scrape."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest  # noqa: TID251 (its one place)
from prometheus_client.metrics_core import (  # noqa: TID251
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

import gatestream
from gatestream.server.telemetry import SECONDS, ModelNow, ModelStats, Times, Totals

CONTENT_TYPE: Final[str] = CONTENT_TYPE_LATEST

# Samples that are made text of at once.
_PIECE: Final = 64
_ENTRIES: Final = tuple(2**k for k in range(13))
"""Upper bounds of the buckets that the entries of runs are counted in."""

Samples = Mapping[tuple[str, ...], float]


def text(totals: Totals) -> Iterator[bytes]:
    """The text format in pieces, each of which is made in some hundred microseconds."""
    for metric in metrics(totals):
        samples = metric.samples
        for begin in range(0, max(1, len(samples)), _PIECE):
            metric.samples = samples[begin : begin + _PIECE]
            piece = generate_latest(_One(metric))
            # Two lines say what the metric is, once.
            yield piece if begin == 0 else piece.split(b"\n", 2)[2]


class _One:
    """What the library makes text of: a registry with one metric."""

    def __init__(self, metric: Metric):
        self._metric = metric

    def collect(self) -> list[Metric]:
        """As a registry."""
        return [self._metric]


def metrics(totals: Totals) -> Iterator[Metric]:
    """All metrics of a server."""
    yield from _of_server(totals)
    yield from _of_sessions(totals)
    yield from _of_checkpoints(totals)
    yield from _of_runs(totals.models)


def _of_server(totals: Totals) -> Iterator[Metric]:
    server = totals.server
    build = InfoMetricFamily("gatestream_build", "The version of the server.")
    build.add_metric([], {"version": gatestream.__version__})
    yield build
    models = InfoMetricFamily("gatestream_model", "What is served.", labels=["model"])
    for name, now in totals.now.items():
        for version, provider in now.versions.items():
            models.add_metric([name], {"version": version, "provider": provider})
    yield models
    yield _gauge("gatestream_processes", "Processes that serve: 1, or workers.", [], {(): totals.processes})
    yield _counter("gatestream_worker_deaths", "Workers that died and were started anew.", [], {(): server.deaths})
    of = ["protocol"]
    streams = {(protocol,): stats for protocol, stats in server.streams.items()}
    yield _gauge("gatestream_streams", "Streams that are open.", of, {k: s.open for k, s in streams.items()})
    yield _counter(
        "gatestream_streams_opened", "Streams that were opened.", of, {k: s.opened for k, s in streams.items()}
    )
    yield _counter(
        "gatestream_streams_ended",
        "Streams that have ended, by gRPC status.",
        [*of, "code"],
        {(*k, code): count for k, s in streams.items() for code, count in s.ended.items()},
    )
    yield _counter(
        "gatestream_messages_received",
        "Messages that came on streams.",
        of,
        {k: s.received for k, s in streams.items()},
    )
    yield _counter(
        "gatestream_messages_sent", "Messages that were sent on streams.", of, {k: s.sent for k, s in streams.items()}
    )
    yield _counter(
        "gatestream_calls",
        "Calls of other methods that were let in.",
        ["method"],
        {(method,): count for method, count in server.calls.items()},
    )
    yield _counter(
        "gatestream_refusals",
        "Errors that clients were told, by gRPC status and reason.",
        ["code", "reason"],
        server.refusals,
    )
    yield _gauge(
        "gatestream_reply_bytes",
        "Bytes of answers not yet sent, and of rows not yet computed with the answers that they will have.",
        [],
        {(): totals.reply_bytes},
    )
    yield _gauge("gatestream_reply_bytes_limit", "Their bound.", [], {(): totals.most_reply_bytes})
    yield _counter(
        "gatestream_self_check_differences",
        "Differences found where numbers of the server's own must add up.",
        [],
        {(): server.differences},
    )


def _of_checkpoints(totals: Totals) -> Iterator[Metric]:
    counted, now = totals.server.checkpoints, totals.checkpoints
    for name, help_, value in (
        ("gatestream_checkpoints_written", "Checkpoints of sessions that were written.", counted.written),
        ("gatestream_checkpoint_bytes", "Bytes of states that were written.", counted.bytes),
        ("gatestream_checkpoint_seconds", "Seconds that the store took to write them.", counted.seconds),
        ("gatestream_checkpoint_failures", "Rounds of checkpoints that the store did not take.", counted.failures),
        ("gatestream_sessions_left_in_store", "Ended sessions that the store was not told of.", counted.left),
    ):
        yield _counter(name, help_, [], {(): value})
    yield _gauge("gatestream_sessions_not_durable", "Kept sessions whose state is not stored.", [], {(): now.dirty})
    yield _gauge("gatestream_not_durable_seconds", "Seconds since all of them were stored.", [], {(): now.age})


def _of_sessions(totals: Totals) -> Iterator[Metric]:
    def gauge(name: str, help_: str, attribute: str) -> Metric:
        return _gauge(name, help_, ["model"], {(k,): getattr(now, attribute) for k, now in totals.now.items()})

    yield _gauge(
        "gatestream_sessions",
        "Sessions that there are, by who holds them: a stream, nobody, or nobody as a sequence of the Open Inference "
        "Protocol.",
        ["model", "state"],
        {(name, state): count for name, now in totals.now.items() for state, count in _states(now)},
    )
    yield gauge("gatestream_sessions_limit", "Their bound.", "most_sessions")
    yield gauge("gatestream_state_bytes", "Bytes of the states of all sessions.", "state_bytes")
    yield gauge("gatestream_rows_pending", "Steps and controls accepted and not done yet.", "rows")
    yield gauge("gatestream_rows_limit", "Their bound.", "most_rows")
    yield _counter(
        "gatestream_sessions_opened",
        "Sessions that were made.",
        ["model"],
        {(name,): stats.opened for name, stats in totals.models.items()},
    )
    yield _counter(
        "gatestream_sessions_ended",
        "Sessions that have ended, by why.",
        ["model", "reason"],
        {(name, why): count for name, stats in totals.models.items() for why, count in stats.ended.items()},
    )


def _states(now: ModelNow) -> list[tuple[str, int]]:
    return [("attached", now.attached), ("detached", now.detached), ("sequence", now.sequences), ("parked", now.parked)]


def _of_runs(models: Mapping[str, ModelStats]) -> Iterator[Metric]:
    yield _counter(
        "gatestream_runs",
        "Runs of the model, by where they were made.",
        ["model", "where"],
        {(name, where): count for name, stats in models.items() for where, count in stats.runs.items()},
    )
    yield _counter(
        "gatestream_runs_failed",
        "Runs of the model that failed.",
        ["model"],
        {(name,): stats.failed_runs for name, stats in models.items()},
    )
    yield _counter(
        "gatestream_steps", "Steps that were taken.", ["model"], {(name,): stats.rows for name, stats in models.items()}
    )
    entries = HistogramMetricFamily("gatestream_run_entries", "Sessions that a run stepped.", labels=["model"])
    for name, stats in models.items():
        entries.add_metric([name], _buckets(_ENTRIES, _by_entries(stats)), stats.entries)
    yield entries
    yield _times(
        "gatestream_queue_wait_seconds",
        "Time from when the first of a run's steps came, or had a run before this one, until the run began.",
        {name: stats.wait for name, stats in models.items()},
    )
    yield _times("gatestream_run_seconds", "Time that a run took.", {name: stats.run for name, stats in models.items()})
    yield _times(
        "gatestream_step_seconds",
        "Time of each step from when the first step of its run came until the run was over.",
        {name: stats.step for name, stats in models.items()},
    )


def _gauge(name: str, help_: str, labels: Sequence[str], samples: Samples) -> Metric:
    return _filled(GaugeMetricFamily(name, help_, labels=labels), samples)


def _counter(name: str, help_: str, labels: Sequence[str], samples: Samples) -> Metric:
    return _filled(CounterMetricFamily(name, help_, labels=labels), samples)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, samples: Samples) -> Metric:
    for labels, value in samples.items():
        family.add_metric(labels, value)
    return family


def _times(name: str, help_: str, by_model: Mapping[str, Times]) -> Metric:
    family = HistogramMetricFamily(name, help_, labels=["model"])
    for model, times in by_model.items():
        family.add_metric([model], _buckets(SECONDS, times.counts), times.seconds)
    return family


def _by_entries(stats: ModelStats) -> list[int]:
    counts = [0] * (len(_ENTRIES) + 1)
    for entries, (runs, _) in stats.sizes.items():
        # The bounds are powers of two.
        counts[min((entries - 1).bit_length(), len(_ENTRIES))] += runs
    return counts


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[Any]:
    """Cumulative, each with its bound."""
    return list(zip([*map(_shown, bounds), "+Inf"], itertools.accumulate(counts), strict=True))


def _shown(bound: float) -> str:
    return f"{bound:g}"
