"""The text of a scrape, read by Prometheus' own parser."""

import pytest
from hypothesis import given, settings

from gatestream.server.metrics import text
from gatestream.server.telemetry import SECONDS, ModelNow, ModelStats, RunStats, Totals
from tests.server.test_telemetry import RUNS, counted
from tests.support.scrape import families, samples


def said(totals: Totals) -> dict[tuple[str, ...], float]:
    return dict(samples(b"".join(text(totals)).decode()))


def of(stats: ModelStats) -> Totals:
    totals = Totals(processes=1)
    totals.models["m"] = stats
    totals.now["m"] = ModelNow({"7": "CPUExecutionProvider"}, 2, 1, 3, 4, 10, 24, 5, 100)
    return totals


@settings(max_examples=30)
@given(RUNS)
def test_runs_as_prometheus_has_them(runs: list[RunStats]) -> None:
    got = said(of(counted(runs)))
    assert got["gatestream_steps_total", "m"] == sum(run.rows for run in runs)
    for name, values in (
        ("gatestream_run_seconds", [run.seconds for run in runs]),
        ("gatestream_queue_wait_seconds", [run.waited for run in runs]),
        ("gatestream_run_entries", [run.entries for run in runs]),
    ):
        assert got[f"{name}_count", "m"] == got[f"{name}_bucket", "+Inf", "m"] == len(values)
        assert got[f"{name}_sum", "m"] == pytest.approx(sum(values))
        for bound in [2.0**k for k in range(13)] if name.endswith("entries") else SECONDS:
            (count,) = (
                n for k, n in got.items() if k[0] == f"{name}_bucket" and k[1] != "+Inf" and float(k[1]) == bound
            )
            assert count == sum(value <= bound for value in values)
    assert got["gatestream_step_seconds_count", "m"] == got["gatestream_steps_total", "m"]


def test_what_there_is() -> None:
    stats = ModelStats(opened=8)
    stats.ended["IDLE"] += 2
    totals = of(stats)
    totals.server.refusals["RESOURCE_EXHAUSTED", "ROWS_EXHAUSTED"] = 4
    totals.server.streams["gatestream"].opened = 3
    totals.server.streams["gatestream"].ended["OK"] = 2
    got = said(totals)
    assert {
        state: got["gatestream_sessions", "m", state] for state in ("attached", "detached", "sequence", "parked")
    } == {
        "attached": 2,
        "detached": 1,
        "sequence": 3,
        "parked": 4,
    }
    assert got["gatestream_sessions_opened_total", "m"] == 8
    assert got["gatestream_sessions_ended_total", "m", "IDLE"] == 2
    # A series is there before the first of its kind, so that a rate sees it.
    assert got["gatestream_sessions_ended_total", "m", "DRAINED"] == 0
    assert got["gatestream_model_info", "m", "CPUExecutionProvider", "7"] == 1
    assert got["gatestream_refusals_total", "RESOURCE_EXHAUSTED", "ROWS_EXHAUSTED"] == 4
    assert (got["gatestream_streams", "gatestream"], got["gatestream_streams", "open_inference"]) == (1, 0)
    assert (got["gatestream_rows_pending", "m"], got["gatestream_state_bytes", "m"]) == (5, 24)


def test_every_name_is_ours_and_every_metric_has_a_help() -> None:
    found = families(b"".join(text(of(ModelStats()))).decode())
    assert len(found) > 20
    for name, family in found.items():
        assert name.startswith("gatestream_")
        assert len(family.documentation) > 10 or family.documentation == "Their bound."
        assert family.type in ("counter", "gauge", "histogram")


def test_a_models_name_may_be_anything() -> None:
    totals = Totals()
    totals.models['a"b\\c\nd'] = ModelStats(rows=1)
    assert said(totals)["gatestream_steps_total", 'a"b\\c\nd'] == 1


def test_the_pieces_of_a_metric_with_many_samples_are_one_metric() -> None:
    totals = Totals()
    for k in range(20):
        totals.models[f"m{k}"] = ModelStats(rows=k)
    made = list(text(totals))
    assert max(piece.count(b"\n") for piece in made) <= 66
    whole = b"".join(made).decode()
    assert whole.count("# TYPE gatestream_run_seconds histogram") == 1
    assert len(families(whole)["gatestream_run_seconds"].samples) == 20 * (len(SECONDS) + 3)
