import resource
from pathlib import Path

import pytest

from benchmarks.__main__ import PAGE, PUBLISHED
from benchmarks.harness.report import Report, Section, Verdict
from benchmarks.harness.statistics import Spread
from benchmarks.harness.table import put_between_marks, put_on_page, render

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


@pytest.mark.parametrize("most", [None, 10, 4000])
def test_what_is_published_is_written_whole_or_not_at_all(tmp_path: Path, most: int | None) -> None:
    page, published = tmp_path / "page.md", tmp_path / "published.json"
    for link, text in ((page, PAGE.read_text()), (published, "{}")):
        (tmp_path / f"real-{link.name}").write_text(text)
        link.symlink_to(f"real-{link.name}")
    before = page.read_text(), published.read_text()
    if most is None:
        put_on_page(REPORT, page, published)
    else:
        # As of a disk that is full: a file gets no longer than this. The figures would fit, the page does not.
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                put_on_page(REPORT, page, published)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = put_between_marks(before[0], render(REPORT))
    assert page.read_text() == (after if most is None else before[0])
    if most == 10:
        assert published.read_text() == before[1]
    else:
        assert Report.load(published) == REPORT
    assert page.is_symlink()
    assert published.is_symlink()
    assert {each.name for each in tmp_path.iterdir()} == {
        "page.md", "published.json", "real-page.md", "real-published.json"
    }  # fmt: skip


def test_a_page_without_marks_publishes_nothing(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("by hand")
    with pytest.raises(ValueError, match="no lines"):
        put_on_page(REPORT, tmp_path / "page.md", tmp_path / "published.json")
    assert [each.name for each in tmp_path.iterdir()] == ["page.md"]


def test_no_published_number_was_typed_by_hand() -> None:
    page = PAGE.read_text()
    assert page == put_between_marks(page, render(Report.load(PUBLISHED)))
