from pathlib import Path

import pytest

from benchmarks.__main__ import PAGE, PUBLISHED
from benchmarks.harness.report import Report, Section, Verdict
from benchmarks.harness.statistics import Spread
from benchmarks.harness.table import put_between_marks, render

SECTION = Section(
    "single",
    1,
    "One session",
    "Hidden 128.",
    contenders={"gatestream": {"steps_per_s": Spread(12_345.0, 12_000.0, 13_000.0), "unknown": Spread(1.0, 1.0, 1.0)}},
    verdicts=[
        Verdict("p50 over the floor", Spread(1.31, 1.2, 1.5), 1.3, at_most=True),
        Verdict("steps/s over limit-run", Spread(0.6, 0.6, 0.6), 0.6, at_most=False),
        Verdict("until SERVING", Spread(0.5, 0.4, 0.6), 1.5, at_most=True, unit="s"),
    ],
    notes=["A note."],
    points={"line": [{"x": 1.0}]},
)
REPORT = Report({"processor": "2 cores"}, {"windows": "3"}, [SECTION])


def test_a_report_survives_json(tmp_path: Path) -> None:
    REPORT.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == REPORT


def test_a_bound_holds_at_its_edge_and_by_the_median() -> None:
    assert [verdict.hit for verdict in SECTION.verdicts] == [False, True, True]


def test_every_target_has_its_row() -> None:
    text = render(REPORT)
    assert "| 1 p50 over the floor | at most 1.3 | 1.31 (1.20 to 1.50) | **missed** |" in text
    assert "| 1 steps/s over limit-run | at least 0.6 | 0.60 | hit |" in text
    assert "| 1 until SERVING | at most 1.5 s | 0.50 s (0.40 to 0.60) | hit |" in text


def test_a_contender_s_figures_stand_in_columns_that_have_a_name() -> None:
    text = render(REPORT)
    assert "| | steps/s |" in text
    assert "| gatestream | 12,345 ±4% |" in text
    assert "unknown" not in text


def test_a_page_keeps_what_is_written_by_hand() -> None:
    page = put_between_marks(PAGE.read_text(), "generated")
    again = put_between_marks(page, "generated once more")
    assert "generated once more" in again
    assert again.replace("generated once more", "generated") == page
    with pytest.raises(ValueError, match="no lines"):
        put_between_marks("a page without marks", "generated")


def test_no_published_number_was_typed_by_hand() -> None:
    page = PAGE.read_text()
    assert page == put_between_marks(page, render(Report.load(PUBLISHED)))
