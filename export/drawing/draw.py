"""An inspection, drawn: each cell as data flow shows it, with the file's own names and shapes."""

from dataclasses import dataclass

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
from gatestream.export.finder.structure import Cell, Gate, Structure
from gatestream.protos.roles import BY_SYMBOL

_ORDER = "figo"
"""The gates from left to right, so that no wire crosses another gate's."""

_FILL = {"f": "#fdebdc", "i": "#e0eefb", "g": "#e6f4e4", "o": "#f1e7f8"}
_EDGE = {"f": "#c4631c", "i": "#2368a8", "g": "#3a7d34", "o": "#76459c"}

_MARGIN, _GAP, _TITLE, _PANEL, _RADIUS = 24.0, 22.0, 88.0, 376.0, 13.0

_C, _MEET, _OUT, _BOX, _H, _X = 72.0, 124.0, 144.0, 180.0, 296.0, 336.0
"""From a panel's top: the line of the cell state, where i and g meet, where o does its work, the gates, the lines of
h and x."""

_BOX_HEIGHT = 86.0


@dataclass(frozen=True, slots=True)
class _Layout:
    """Widths, the same for all layers: of the names on the left, of a gate, of all."""

    left: float
    gate: float
    total: float

    def centre(self, symbol: str) -> float:
        return self.left + _ORDER.index(symbol) * (self.gate + _GAP) + self.gate / 2

    @property
    def right(self) -> float:
        """Where the gates end."""
        return self.left + 4 * self.gate + 3 * _GAP


def draw(inspection: Inspection) -> str:
    """An SVG image, layers one above another, the first at the bottom."""
    structure = inspection.structure
    layout = _layout(structure)
    panels = [
        group(0, _TITLE + _PANEL * (len(structure.cells) - 1 - layer), _cell(structure, layer, layout))
        for layer in range(len(structure.cells))
    ]
    return document(layout.total, _TITLE + _PANEL * len(structure.cells), [*_title(inspection), *panels])


def _layout(structure: Structure) -> _Layout:
    def longest(texts: list[str]) -> float:
        return max(map(len, texts)) * CHARACTER

    cells = structure.cells
    left = longest([name for cell in cells for name in (cell.c, cell.h, cell.x)])
    right = longest([name for cell in cells for name in (cell.c_next, cell.h_next)])
    gate = longest([line for cell in cells for gate in cell.gates.values() for line in _weights(gate)]) + 20
    left += _MARGIN + 30
    return _Layout(left, gate, left + 4 * gate + 3 * _GAP + 100 + right + _MARGIN)


def _title(inspection: Inspection) -> list[str]:
    spec = inspection.artifact.spec
    form = "ONNX LSTM operator" if inspection.structure.fused else "equations in an ONNX Scan"
    return [
        words(_MARGIN, 34, f"{spec.name}, version {spec.version}", size=19, bold=True),
        words(_MARGIN, 56, f"{spec.description}. Form {inspection.report.form}: {form}, opset {spec.opset}.", size=12),
        label(_MARGIN, 74, f"weights {spec.weights_fingerprint}", faint=True),
    ]


def _weights(gate: Gate) -> list[str]:
    return [f"{name} {weight} {list(weight.shape)}" for name, weight in (("W", gate.W), ("R", gate.R), ("b", gate.b))]


def _cell(structure: Structure, layer: int, layout: _Layout) -> list[str]:
    cell = structure.cells[layer]
    f, i, g, o = (layout.centre(symbol) for symbol in _ORDER)
    meet, tanh, end = (i + g) / 2, layout.right + 34, layout.total - _MARGIN
    wires = [
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
        words(tanh, _C + 30, "tanh", size=11, anchor="middle"),
        wire((o, _BOX), (o, _OUT), (tanh - _RADIUS, _OUT)),
        wire((tanh + _RADIUS, _OUT), (end, _OUT)),
        operation(tanh, _OUT, "×", _RADIUS),
        # W x + R h + b
        wire((_MARGIN, _H), (o - 16, _H), tip=False),
        wire((_MARGIN, _X), (o + 16, _X), tip=False),
    ]
    left, right = layout.left - 14, layout.right + 66
    return [
        box(left, 22, right - left, _PANEL - 26, "#fafbfc", "#c9d1d9"),
        words(left + 12, 42, f"layer {layer}", size=12, bold=True),
        label(left + 64, 42, f"in '{cell.node}'", faint=True),
        *wires,
        *(part for symbol in _ORDER for part in _gate(structure, layer, symbol, layout.centre(symbol), layout.gate)),
        *_ends(cell, end),
    ]


def _gate(structure: Structure, layer: int, symbol: str, centre: float, width: float) -> list[str]:
    gate, role = structure.cells[layer].gates[symbol], BY_SYMBOL[symbol]
    nonlinearity = "tanh" if role.activation == "Tanh" else "σ"
    output = structure.activations.get(symbol)
    activation = f"{gate.activation} → {output}[:, :, {layer}]" if output else symbol
    x = centre - width / 2
    return [
        wire((centre - 16, _H), (centre - 16, _BOX + _BOX_HEIGHT)),
        wire((centre + 16, _X), (centre + 16, _BOX + _BOX_HEIGHT)),
        *([] if symbol == "o" else [dot(centre - 16, _H), dot(centre + 16, _X)]),
        box(x, _BOX, width, _BOX_HEIGHT, _FILL[symbol], _EDGE[symbol]),
        words(x + 10, _BOX + 20, f"{role.name} {symbol}", size=13, bold=True),
        words(x + width - 10, _BOX + 20, f"{nonlinearity}(W x + R h + b)", size=11, anchor="end"),
        *(label(x + 10, _BOX + 42 + 16 * k, line) for k, line in enumerate(_weights(gate))),
        label(centre + 7, _BOX - 8, activation, faint=True),
    ]


def _ends(cell: Cell, end: float) -> list[str]:
    """What comes in on the left and goes out on the right."""
    hidden, inputs = cell.gates["i"].W.shape
    lines = [(_MARGIN, _C, cell.c, hidden), (_MARGIN, _H, cell.h, hidden), (_MARGIN, _X, cell.x, inputs)]
    lines += [(end, _C, cell.c_next, hidden), (end, _OUT, cell.h_next, hidden)]
    return [
        part
        for x, y, name, size in lines
        for part in (
            label(x, y - 8, name, anchor="end" if x == end else "start"),
            label(x, y + 14, f"[batch, {size}]", anchor="end" if x == end else "start", faint=True),
        )
    ]
