"""The curves, drawn."""

from pathlib import Path
from typing import Any, Final

from benchmarks.harness.report import Report
from benchmarks.targets.curves import LATENCY, THROUGHPUT
from gatestream.files.writing import replacing

# Of a rate asked for, what must have been answered for the point to be a latency and not a queue.
_KEPT_UP: Final = 0.97
_COLOURS: Final = {
    "limit-run": "#9aa0a6",
    "limit-echo, a stream each": "#c5a880",
    "gatestream": "#1f6feb",
    "gatestream, packed": "#1f6feb",
    "gatestream, a stream each": "#79b8ff",
    "by-hand": "#d1495b",
    "by-hand, a stream each": "#d1495b",
}


def draw(report: Report, folder: Path) -> list[Path]:
    """Draw what the report has points for; the files."""
    import matplotlib as mpl

    mpl.use("svg")
    points = {name: line for section in report.sections for name, line in section.points.items()}
    files = []
    for prefix, name, paint in (
        (THROUGHPUT, "performance-throughput", _throughput),
        (LATENCY, "performance-latency", _latency),
    ):
        lines = {key.removeprefix(prefix): line for key, line in points.items() if key.startswith(prefix)}
        if lines:
            files.append(_save(lines, paint, folder / f"{name}.svg"))
    return files


def _save(lines: dict[str, list[dict[str, float]]], paint: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.hashsalt": "gatestream", "font.size": 10}):
        figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        paint(axes, lines)
        axes.grid(color="#e6e6e6")
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        with replacing(path) as draft:
            figure.savefig(draft, metadata={"Date": None})
        plt.close(figure)
    return path


def _throughput(axes: Any, lines: dict[str, list[dict[str, float]]]) -> None:
    for name, line in lines.items():
        axes.plot(
            [point["sessions"] for point in line],
            [point["steps_per_s"] for point in line],
            marker="o",
            markersize=4,
            color=_COLOURS[name],
            linestyle="--" if name.startswith("limit") else "-",
            label=name,
        )
    axes.set_xscale("log", base=2)
    _logarithmic(axes.yaxis, "{x:,.0f}")
    ticks = [point["sessions"] for point in next(iter(lines.values()))]
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    axes.set_xlabel("sessions")
    axes.set_ylabel("steps a second")
    axes.set_title("Hidden 128: steps a second", loc="left")


def _latency(axes: Any, lines: dict[str, list[dict[str, float]]]) -> None:
    for name, line in lines.items():
        kept = [point for point in line if point["messages_per_s"] >= _KEPT_UP * point["rate"]]
        for figure, style in (("p50_us", "-"), ("p99_us", ":")):
            axes.plot(
                [point["rate"] for point in kept],
                [point[figure] / 1000 for point in kept],
                marker="o",
                markersize=4,
                color=_COLOURS[name],
                linestyle=style,
                label=f"{name}, {'median' if figure == 'p50_us' else '99th percentile'}",
            )
    _logarithmic(axes.yaxis, "{x:g}")
    axes.set_xlabel("steps a second asked for, by 64 sessions (a line ends where it cannot keep up)")
    axes.set_ylabel("milliseconds from when a step was due")
    axes.set_title("Hidden 1024: latency under load", loc="left")


def _logarithmic(axis: Any, form: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.axes.set_yscale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter(form))
