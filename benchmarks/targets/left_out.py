"""What the server's changes to gRPC give: contenders that leave them out, beside the server that has them."""

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.harness.statistics import Figures, column, ratios

WITHOUT: Final = {
    "without grpc-poller": "-grpc-poller",
    "without grpc-poller and grpc-reader": "-grpc-poller,-grpc-reader",
}
"""By what a contender is called, its `--tuning`."""
_FIGURES: Final = {"messages_per_s": "messages/s", "p50_us": "p50", "server_cpu_us": "server CPU a message"}


def notes(windows: Mapping[str, Sequence[Figures]], ours: str) -> list[str]:
    """The ratios of a contender and of the same one without the changes, which are called so after it."""
    found = []
    for how in WITHOUT:
        with_all, without = windows[ours], windows[f"{ours}, {how}"]
        over = [f"{name} {ratios(column(without, key), column(with_all, key))}" for key, name in _FIGURES.items()]
        found.append(f"{how.capitalize()}, over {ours}: {', '.join(over)}.")
    return found
