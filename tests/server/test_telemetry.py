"""What is counted, against a plain count of the same runs."""

import pickle
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.server.errors import Draining, Exhausted, NotOffered, Reason, ServerError, Unauthenticated
from gatestream.server.telemetry import SECONDS, ModelNow, ModelStats, RunStats, ServerStats, Totals, summed

TIMES = st.one_of(st.sampled_from([0.0, *SECONDS]), st.floats(0, 5))
RUNS = st.lists(
    st.builds(
        RunStats,
        entries=st.integers(1, 600),
        rows=st.integers(1, 10_000),
        waited=TIMES,
        seconds=TIMES,
        where=st.sampled_from(["alone", "at_once", "loop", "thread"]),
    ),
    max_size=20,
)


def counted(runs: list[RunStats]) -> ModelStats:
    stats = ModelStats()
    stats.ran(list(chain.from_iterable(runs)))
    return stats


def bucket(seconds: float) -> int:
    return next((k for k, bound in enumerate(SECONDS) if seconds <= bound), len(SECONDS))


@given(RUNS)
def test_runs_are_counted_as_one_would_count_them(runs: list[RunStats]) -> None:
    stats = counted(runs)
    assert {where: count for where, count in stats.runs.items() if count} == Counter(run.where for run in runs)
    assert stats.rows == sum(run.rows for run in runs)
    assert stats.entries == sum(run.entries for run in runs)
    assert {size: count for size, (count, _) in stats.sizes.items()} == Counter(run.entries for run in runs)
    assert sum(seconds for _, seconds in stats.sizes.values()) == pytest.approx(sum(run.seconds for run in runs))
    assert stats.waited == pytest.approx(sum(run.waited * run.entries for run in runs))
    for times, weighed in (
        (stats.run, [(run.seconds, 1) for run in runs]),
        (stats.wait, [(run.waited, 1) for run in runs]),
        (stats.step, [(run.waited + run.seconds, run.rows) for run in runs]),
    ):
        buckets: Counter[int] = Counter()
        for seconds, weight in weighed:
            buckets[bucket(seconds)] += weight
        assert {k: count for k, count in enumerate(times.counts) if count} == buckets
        assert times.seconds == pytest.approx(sum(seconds * weight for seconds, weight in weighed))


@given(RUNS, st.integers(0, 20))
def test_what_two_have_counted_is_what_one_would_have(runs: list[RunStats], cut: int) -> None:
    whole, parts = counted(runs), ModelStats()
    for some in (runs[:cut], runs[cut:]):
        # As it comes from a worker.
        parts.add(pickle.loads(pickle.dumps(counted(some))))
    assert (parts.runs, parts.rows, parts.entries) == (whole.runs, whole.rows, whole.entries)
    assert [t.counts for t in (parts.run, parts.wait, parts.step)] == [
        t.counts for t in (whole.run, whole.wait, whole.step)
    ]
    for mine, theirs in ((parts.step.seconds, whole.step.seconds), (parts.waited, whole.waited)):
        assert mine == pytest.approx(theirs)


def test_a_run_that_failed_is_no_run_that_was_made() -> None:
    stats = ModelStats()
    stats.failed(3)
    stats.failed(1)
    assert (stats.failed_runs, stats.failed_entries, stats.entries, sum(stats.runs.values())) == (2, 4, 0, 0)


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (Exhausted("full"), "RESOURCE_EXHAUSTED", "ROWS_EXHAUSTED"),
        (Exhausted("full", Reason.STREAMS_EXHAUSTED), "RESOURCE_EXHAUSTED", "STREAMS_EXHAUSTED"),
        (Draining("stops"), "UNAVAILABLE", "DRAINING"),
        (Unauthenticated("no token"), "UNAUTHENTICATED", "UNSPECIFIED"),
        (NotOffered("no"), "UNIMPLEMENTED", "UNSPECIFIED"),
    ],
)
def test_a_refusal_is_counted_by_its_code_and_reason(error: ServerError, code: str, reason: str) -> None:
    stats = ServerStats()
    stats.refused(error)
    stats.refused(error)
    assert stats.refusals == {(code, reason): 2}


def some_totals() -> Totals:
    totals = Totals(processes=1, reply_bytes=10, most_reply_bytes=100)
    stats = totals.models["m"] = ModelStats(opened=5, rows=7)
    stats.ended["IDLE"] = 2
    totals.now["m"] = ModelNow({"1": "CPU"}, 2, 1, 0, 3, 10, 24, 3, 100)
    streams = totals.server.streams["gatestream"]
    streams.opened, streams.received = 4, 9
    streams.ended["OK"] = 1
    totals.server.refusals["A", "B"] = 6
    return totals


def test_all_workers_together() -> None:
    one = some_totals()
    both = summed([one, one])
    assert both.models["m"].opened == 10
    assert both.now["m"] == ModelNow({"1": "CPU"}, 4, 2, 0, 6, 20, 48, 6, 200)
    assert (both.processes, both.reply_bytes, both.most_reply_bytes) == (2, 20, 200)
    assert both.server.streams["gatestream"].open == 6
    assert both.server.refusals == {("A", "B"): 12}
    assert one == some_totals(), "none is changed by the sum"


def test_of_a_worker_that_is_gone_what_it_counted_stays_and_what_it_had_has_ended() -> None:
    past = Totals()
    for _ in range(2):
        past.bury(some_totals())
    assert past.now == {}
    assert (past.processes, past.reply_bytes) == (0, 0)
    stats, streams = past.models["m"], past.server.streams["gatestream"]
    assert (stats.opened, stats.rows, stats.ended["IDLE"], stats.ended["WORKER_DIED"]) == (10, 14, 4, 6)
    assert stats.opened == stats.ended.total()
    assert (streams.opened, streams.open, streams.received) == (8, 0, 18)
    assert streams.ended == {"OK": 2, "UNAVAILABLE": 6}
