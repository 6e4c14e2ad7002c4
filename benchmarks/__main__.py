"""`python -m benchmarks`: measure the server against its limits, on this machine."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from benchmarks import models
from benchmarks.harness import machine
from benchmarks.harness.bench import FULL, QUICK, Bench
from benchmarks.harness.generator import NoCompilerError, build
from benchmarks.harness.pictures import draw
from benchmarks.harness.processes import ROOT, ContenderError
from benchmarks.harness.report import Report
from benchmarks.harness.table import put_on_page, render, render_section
from benchmarks.targets.registry import TARGETS
from gatestream.files.writing import write

RESULTS: Final = Path(__file__).parent / "results"
PUBLISHED: Final = Path(__file__).parent / "published.json"
PAGE: Final = ROOT / "docs" / "performance.md"
# Above this, what else runs will be measured too.
_BUSY: Final = 0.3


@click.group(invoke_without_command=True)
@click.option("--quick", is_flag=True, help="Some three minutes: short windows, few repeats.")
@click.option("--only", multiple=True, metavar="TARGET", help=f"Any of {', '.join(TARGETS)}, or the target's number.")
@click.option("--all", "everything", is_flag=True, help="Also what has no bound: models, weights, curves.")
@click.option("--crowd", type=click.IntRange(20_000), help="Sessions that are many, instead of 100,000.")
@click.pass_context
def main(context: click.Context, quick: bool, only: tuple[str, ...], everything: bool, crowd: int | None) -> None:
    """Measure gatestream side by side with its limits; print ratios."""
    if context.invoked_subcommand:
        return
    chosen = [
        key
        for key, target in TARGETS.items()
        if key in only or str(target.number) in only or (not only and (target.bounded or everything))
    ]
    if not chosen:
        raise click.BadParameter(f"no target is called {', '.join(only)}; expected some of {', '.join(TARGETS)}")
    if machine.load() > _BUSY * machine.cores():
        click.echo(f"The machine is busy (load {machine.load():.1f}): the figures will be blurred.", err=True)
    pace = QUICK if quick else FULL
    if crowd is not None:
        pace = replace(pace, crowd=crowd)
    settings = {"windows": f"{pace.repeats} of {pace.seconds:g} s for each contender, interleaved; medians"}
    report = Report(machine.describe(), settings)
    began = time.monotonic()
    try:
        build()
        click.echo("Exporting the models, where that is not done yet ...", err=True)
        models.prepare()
        for number, key in enumerate(chosen, 1):
            click.echo(f"[{number}/{len(chosen)}] {key}, {time.monotonic() - began:.0f} s so far", err=True)
            section_began = time.monotonic()
            with Bench(pace, key) as bench:
                section = TARGETS[key].measure(bench)
            section.seconds = time.monotonic() - section_began
            report.sections.append(section)
            report.save(RESULTS / "latest.json")
            click.echo(render_section(section))
    except (NoCompilerError, ContenderError) as error:
        raise click.ClickException(str(error)) from error
    report.settings["took"] = f"{(time.monotonic() - began) / 60:.0f} minutes"
    report.save(RESULTS / "latest.json")
    write(RESULTS / "latest.md", render(report).encode())
    pictures = draw(report, RESULTS)
    click.echo(f"{(time.monotonic() - began) / 60:.1f} minutes. Written: ", nl=False)
    click.echo(", ".join(str(path) for path in (RESULTS / "latest.md", RESULTS / "latest.json", *pictures)))


@main.command()
def publish() -> None:
    """Make the last run the one in docs/performance.md."""
    report = Report.load(RESULTS / "latest.json")
    if missing := TARGETS.keys() - {section.key for section in report.sections}:
        raise click.ClickException(f"the last run lacks {', '.join(sorted(missing))}; run with --all first")
    put_on_page(report, PAGE, PUBLISHED)
    draw(report, ROOT / "docs" / "images")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
