"""The few shapes that a drawing of a cell is made of, as SVG text."""

from xml.sax.saxutils import escape as _xml

from gatestream.files.marks import MARK
from gatestream.files.names import shown

INK, FAINT, PAPER = "#22272e", "#667080", "#ffffff"
CHARACTER = 6.05
"""Width of a character of a label, px."""

_STYLE = f"""<style>
text {{ fill: {INK}; font-family: Helvetica, Arial, sans-serif; }}
.label {{ font: 10px 'DejaVu Sans Mono', Menlo, Consolas, monospace; }}
.faint {{ fill: {FAINT}; }}
.wire {{ stroke: {INK}; stroke-width: 1.4; fill: none; }}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 8 4 0 8z" fill="{INK}"/></marker></defs>"""


def escape(text: str) -> str:
    """As it may stand in XML, which cannot hold control characters at all."""
    return _xml(shown(text))


def document(width: float, height: float, parts: list[str]) -> str:
    """A whole image, on white paper."""
    size = f'width="{width:.0f}" height="{height:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" {size}>',
            f"<!-- {MARK} -->",
            _STYLE,
            f'<rect {size} fill="{PAPER}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def group(x: float, y: float, parts: list[str]) -> str:
    """Parts, moved."""
    return "\n".join([f'<g transform="translate({x:.1f} {y:.1f})">', *parts, "</g>"])


def label(x: float, y: float, text: str, *, anchor: str = "start", faint: bool = False) -> str:
    """A name or a shape, monospaced."""
    look = "label faint" if faint else "label"
    return f'<text class="{look}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def words(x: float, y: float, text: str, *, size: int, bold: bool = False, anchor: str = "start") -> str:
    """Words for a person."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{weight} text-anchor="{anchor}">{escape(text)}</text>'


def wire(*points: tuple[float, float], tip: bool = True) -> str:
    """A line through points, with an arrow's tip at its end."""
    path = " ".join(f"{'L' if k else 'M'}{x:.1f} {y:.1f}" for k, (x, y) in enumerate(points))
    return f'<path class="wire" d="{path}"{" marker-end=" + chr(34) + "url(#tip)" + chr(34) if tip else ""}/>'


def dot(x: float, y: float) -> str:
    """Where a wire forks."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{INK}"/>'


def operation(x: float, y: float, symbol: str, radius: float) -> str:
    """An elementwise operation."""
    circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{PAPER}" stroke="{INK}" stroke-width="1.4"/>'
    return circle + words(x, y + 5, symbol, size=15, anchor="middle")


def box(x: float, y: float, width: float, height: float, fill: str, edge: str) -> str:
    """A rounded box, its left top corner at x, y."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="7" fill="{fill}" '
        f'stroke="{edge}" stroke-width="1.4"/>'
    )
