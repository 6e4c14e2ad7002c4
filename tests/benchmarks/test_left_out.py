from typing import Any

from benchmarks.targets.left_out import WITHOUT, notes
from gatestream.server.config import chosen_tunings


def window(rate: float, wait: float, cpu: float) -> dict[str, float]:
    return {"messages_per_s": rate, "p50_us": wait, "server_cpu_us": cpu}


def test_each_contender_is_told_over_the_one_with_all() -> None:
    windows: dict[str, Any] = {"ours": [window(100, 10, 4), window(200, 20, 8)]}
    for factor, how in enumerate(WITHOUT, 2):
        windows[f"ours, {how}"] = [window(50, 10 * factor, 5), window(100, 20 * factor, 8)]
    assert notes(windows, "ours") == [
        "Without grpc-poller, over ours: messages/s 0.50 (0.50 to 0.50), p50 2.00 (2.00 to 2.00), "
        "server CPU a message 1.12 (1.00 to 1.25).",
        "Without grpc-poller and grpc-reader, over ours: messages/s 0.50 (0.50 to 0.50), p50 3.00 (3.00 to 3.00), "
        "server CPU a message 1.12 (1.00 to 1.25).",
    ]


def test_the_server_takes_what_they_leave_out() -> None:
    for tuning in WITHOUT.values():
        assert not {"grpc-poller"} & chosen_tunings(tuning).keys()
