"""An inspection, drawn: each cell as data flow shows it, with the file's own names and shapes."""

from collections.abc import Sequence
from dataclasses import dataclass

from gatestream.export.drawing.findings import Findings
from gatestream.export.drawing.inspection import Inspection
from gatestream.export.drawing.svg import (
    CHARACTER,
    INK,
    PAPER,
    box,
    document,
    dot,
    group,
    label,
    operation,
    wire,
    words,
)
from gatestream.export.drawing.views import View, of_cell, of_layer
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_ORDER = {"LSTM": "figo", "GRU": "zrn"}
"""The gates from left to right, so that no wire crosses another gate's."""

_FILL = {"f": "#fdebdc", "i": "#e0eefb", "g": "#e6f4e4", "o": "#f1e7f8", "z": "#fdebdc", "r": "#f1e7f8", "n": "#e6f4e4"}
_EDGE = {"f": "#c4631c", "i": "#2368a8", "g": "#3a7d34", "o": "#76459c", "z": "#c4631c", "r": "#76459c", "n": "#3a7d34"}

_MARGIN, _GAP, _TITLE, _PANEL, _RADIUS = 24.0, 22.0, 88.0, 376.0, 13.0

_C, _MEET, _OUT, _BOX, _H, _X = 72.0, 124.0, 144.0, 180.0, 296.0, 336.0
"""From a panel's top: the line of the state that is kept, where two gates meet, where an LSTM's o does its work, the
gates, and, below boxes of three lines, the lines of h and x."""

_BOX_HEIGHT, _LINE = 86.0, 16.0
_TITLE_CHARACTER, _FORMULA_CHARACTER = 7.4, 6.0


@dataclass(frozen=True, slots=True)
class _Layout:
    """Widths, the same for all cells: of the names on the left, of a gate, of all; and what boxes are higher by."""

    left: float
    gate: float
    total: float
    more: float

    def centre(self, kind: str, symbol: str) -> float:
        return self.left + _ORDER[kind].index(symbol) * (self.gate + _GAP) + self.gate / 2

    def right(self, kind: str) -> float:
        """Where the gates end."""
        count = len(_ORDER[kind])
        return self.left + count * self.gate + (count - 1) * _GAP

    @property
    def panel(self) -> float:
        return _PANEL + self.more


def draw(inspection: Inspection | Findings) -> str:
    """An SVG image, cells one above another, the first at the bottom.

    Of RNNs, which have no gates, nothing is drawn.
    """
    if isinstance(inspection, Inspection):
        structure = inspection.structure
        views = [of_layer(structure, layer) for layer in range(len(structure.cells))]
        title = _title(inspection)
    else:
        views = [of_cell(cell, inspection.outputs(cell)) for cell in inspection.cells if cell.kind in _ORDER]
        title = _title_of_any(inspection)
    layout = _layout(views)
    panels = [
        group(0, _TITLE + layout.panel * (len(views) - 1 - k), _cell(view, layout)) for k, view in enumerate(views)
    ]
    return document(layout.total, _TITLE + layout.panel * len(views), [*title, *panels])


def _layout(views: Sequence[View]) -> _Layout:
    def longest(texts: list[str]) -> float:
        return max(map(len, texts), default=0) * CHARACTER

    def ends(view: View, ends: Sequence[tuple[str, int]]) -> list[str]:
        shown = [end for end in ends if view.kind == "LSTM" or end not in (view.c, view.c_next)]
        return [text for name, size in shown for text in (name, f"[batch, {size}]")]

    left = longest([text for view in views for text in ends(view, (view.c, view.h, view.x))])
    right = longest([text for view in views for text in ends(view, (view.c_next, view.h_next))])
    gates = [gate for view in views for gate in view.gates.values()]
    heads = [_TITLE_CHARACTER * len(gate.title) + _FORMULA_CHARACTER * len(gate.formula) + 30 for gate in gates]
    gate = max([longest([line for gate in gates for line in gate.weights]) + 20, *heads])
    left += _MARGIN + 30
    kinds = {view.kind for view in views} or {"LSTM"}
    plain = _Layout(left, gate, 0, _LINE * max(0, max((len(each.weights) for each in gates), default=0) - 3))
    total = max(plain.right(kind) for kind in kinds) + 100 + right + _MARGIN
    return _Layout(plain.left, plain.gate, total, plain.more)


def _title(inspection: Inspection) -> list[str]:
    spec = inspection.artifact.spec
    form = "ONNX LSTM operator" if inspection.structure.fused else "equations in an ONNX Scan"
    return [
        words(_MARGIN, 34, f"{spec.name}, version {spec.version}", size=19, bold=True),
        words(_MARGIN, 56, f"{spec.description}. Form {inspection.report.form}: {form}, opset {spec.opset}.", size=12),
        label(_MARGIN, 74, f"weights {spec.weights_fingerprint}", faint=True),
    ]


def _title_of_any(findings: Findings) -> list[str]:
    spec = findings.spec
    kinds = [f"{cell.kind} {cell.hidden}" for cell in findings.cells]
    found = f"Found by data flow: {', '.join(kinds) or 'no cell'}."
    if spec is None:
        return [
            words(_MARGIN, 34, findings.path.name, size=19, bold=True),
            words(_MARGIN, 56, f"No artifact of gatestream. {found}", size=12),
        ]
    form = pb.Form.Name(spec.form).removeprefix("FORM_").lower()
    said = "as in the source" if spec.form == pb.FORM_UNSPECIFIED else form
    return [
        words(_MARGIN, 34, f"{spec.name}, version {spec.version}", size=19, bold=True),
        words(_MARGIN, 56, f"{found} Form {said}, opset {spec.opset}.", size=12),
        label(_MARGIN, 74, f"weights {spec.weights_fingerprint}", faint=True),
    ]


def _cell(view: View, layout: _Layout) -> list[str]:
    lstm = view.kind == "LSTM"
    left, right = layout.left - 14, layout.right(view.kind) + 66
    return [
        box(left, 22, right - left, layout.panel - 26, "#fafbfc", "#c9d1d9"),
        words(left + 12, 42, view.title, size=12, bold=True),
        label(left + 22 + _TITLE_CHARACTER * len(view.title), 42, view.where, faint=True),
        *(_lstm_wires(view, layout) if lstm else _gru_wires(view, layout)),
        *(part for symbol in _ORDER[view.kind] for part in _gate(view, symbol, layout)),
        *_ends(view, layout),
    ]


def _lstm_wires(view: View, layout: _Layout) -> list[str]:
    f, i, g, o = (layout.centre("LSTM", symbol) for symbol in "figo")
    meet, tanh, end = (i + g) / 2, layout.right("LSTM") + 34, layout.total - _MARGIN
    h, x = _H + layout.more, _X + layout.more
    return [
        # c' = f * c + i * g
        wire((_MARGIN, _C), (f - _RADIUS, _C)),
        wire((f, _BOX), (f, _C + _RADIUS)),
        wire((f + _RADIUS, _C), (meet - _RADIUS, _C)),
        wire((i, _BOX), (i, _MEET), (meet - _RADIUS, _MEET)),
        wire((g, _BOX), (g, _MEET), (meet + _RADIUS, _MEET)),
        wire((meet, _MEET - _RADIUS), (meet, _C + _RADIUS)),
        wire((meet + _RADIUS, _C), (end, _C)),
        operation(f, _C, "×", _RADIUS),
        operation(meet, _MEET, "×", _RADIUS),
        operation(meet, _C, "+", _RADIUS),
        # h' = o * tanh(c')
        dot(tanh, _C),
        wire((tanh, _C), (tanh, _OUT - _RADIUS)),
        box(tanh - 20, _C + 16, 40, 20, PAPER, INK),
        words(tanh, _C + 30, view.squash, size=11, anchor="middle"),
        wire((o, _BOX), (o, _OUT), (tanh - _RADIUS, _OUT)),
        wire((tanh + _RADIUS, _OUT), (end, _OUT)),
        operation(tanh, _OUT, "×", _RADIUS),
        # W x + R h + b
        wire((_MARGIN, h), (o - 16, h), tip=False),
        wire((_MARGIN, x), (o + 16, x), tip=False),
    ]


def _gru_wires(view: View, layout: _Layout) -> list[str]:
    z, r, n = (layout.centre("GRU", symbol) for symbol in "zrn")
    end, fork, half = layout.total - _MARGIN, layout.left - 4, layout.gate / 2
    h, x = _H + layout.more, _X + layout.more
    middle = _BOX + (_BOX_HEIGHT + layout.more) / 2
    kept = [wire((z, _BOX), (z, _C + _RADIUS)), dot(z, _MEET), operation(z, _C, "×", _RADIUS)]
    if view.complement:
        kept += [wire((z, _MEET), (n - _RADIUS, _MEET)), *_one_minus(z, (_C + _MEET) / 2 + 6)]
    else:
        kept += [wire((z, _MEET), (n - _RADIUS, _MEET)), *_one_minus((z + n) / 2, _MEET)]
    return [
        # h' = (1 - z) * n + z * h
        wire((_MARGIN, _C), (z - _RADIUS, _C)),
        *kept,
        wire((n, _BOX), (n, _MEET + _RADIUS)),
        wire((n, _MEET - _RADIUS), (n, _C + _RADIUS)),
        wire((z + _RADIUS, _C), (n - _RADIUS, _C)),
        wire((n + _RADIUS, _C), (end, _C)),
        operation(n, _MEET, "×", _RADIUS),
        operation(n, _C, "+", _RADIUS),
        # r resets what n sees of h
        wire((r + half, middle), (n - half, middle)),
        # W x + R h + b
        dot(fork, _C),
        wire((fork, _C), (fork, h), (n - 16, h), tip=False),
        wire((_MARGIN, x), (n + 16, x), tip=False),
    ]


def _one_minus(x: float, y: float) -> list[str]:
    return [box(x - 18, y - 10, 36, 20, PAPER, INK), words(x, y + 4, "1 −", size=11, anchor="middle")]


def _gate(view: View, symbol: str, layout: _Layout) -> list[str]:
    gate, width, centre = view.gates[symbol], layout.gate, layout.centre(view.kind, symbol)
    x, height, last = centre - width / 2, _BOX_HEIGHT + layout.more, symbol == _ORDER[view.kind][-1]
    h_line, x_line = _H + layout.more, _X + layout.more
    fed = [
        wire((centre - 16, h_line), (centre - 16, _BOX + height)),
        wire((centre + 16, x_line), (centre + 16, _BOX + height)),
        *([] if last else [dot(centre - 16, h_line), dot(centre + 16, x_line)]),
    ]
    return [
        *(fed if gate.weights else []),
        box(x, _BOX, width, height, _FILL[symbol], _EDGE[symbol]),
        words(x + 10, _BOX + 20, gate.title, size=13, bold=True),
        words(x + width - 10, _BOX + 20, gate.formula, size=11, anchor="end"),
        *(label(x + 10, _BOX + 42 + _LINE * k, line) for k, line in enumerate(gate.weights)),
        label(centre + 7, _BOX - 8, gate.activation, faint=True),
    ]


def _ends(view: View, layout: _Layout) -> list[str]:
    """What comes in on the left and goes out on the right."""
    end, h_line, x_line = layout.total - _MARGIN, _H + layout.more, _X + layout.more
    if view.kind == "LSTM":
        lines = [(_MARGIN, _C, view.c), (_MARGIN, h_line, view.h), (_MARGIN, x_line, view.x)]
        lines += [(end, _C, view.c_next), (end, _OUT, view.h_next)]
    else:
        lines = [(_MARGIN, _C, view.h), (_MARGIN, x_line, view.x), (end, _C, view.h_next)]
    return [
        part
        for x, y, (name, size) in lines
        for part in (
            label(x, y - 8, name, anchor="end" if x == end else "start"),
            label(x, y + 14, f"[batch, {size}]", anchor="end" if x == end else "start", faint=True),
        )
    ]
