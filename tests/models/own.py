"""Modules of torch as people write them: every kind of state, none of it a package's.

Each takes [batch, time, *] of its inputs, or one step, behind them its constants, behind those its states, and gives
its output, with the states' successors where there are any.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, normalize, softplus
from torch.nn.utils.parametrizations import weight_norm


class Own(nn.Module):
    """What the export is told of a module.

    Attributes:
        INPUTS: with their types and axes.
        STATES: those that `forward` takes.
        CONSTANTS: those that a session is given.
        TOLERANCE: of its numbers, in its own type.
    """

    INPUTS: ClassVar[Sequence[str]] = ("x:float32[6]",)
    STATES: ClassVar[Sequence[str]] = ()
    CONSTANTS: ClassVar[Mapping[str, None]] = {}
    TOLERANCE: ClassVar[float] = 1e-5

    @classmethod
    def sample(cls, rows: int, steps: int) -> tuple[list[Tensor], list[Tensor]]:
        """Random inputs [rows, steps, *], and constants [rows, *], of the types that they are said to have."""
        generator = torch.Generator().manual_seed(1)

        def draw(port: str, *sizes: int) -> Tensor:
            kind, own = _said(port)
            return torch.randn((*sizes, *own), generator=generator).to(kind)

        return [draw(port, rows, steps) for port in cls.INPUTS], [draw(port, rows) for port in cls.CONSTANTS]

    @torch.no_grad()
    def whole(self, inputs: Sequence[Tensor], constants: Sequence[Tensor]) -> Tensor:
        """What torch gives of all steps, [rows, steps, *], from states of zeros."""
        rows = len(inputs[0])
        states = [torch.zeros(rows, *own, dtype=kind) for kind, own in map(_said, self.STATES)]
        if "[batch," not in self.INPUTS[0]:
            found = self(*inputs, *constants, *states)
            whole: Tensor = found[0] if self.STATES else found
            return whole
        ys = []
        for step in zip(*(each.unbind(1) for each in inputs), strict=True):
            y, *states = self(*step, *constants, *states)
            ys.append(y)
        return torch.stack(ys, dim=1)


def _said(port: str) -> tuple[torch.dtype, list[int]]:
    """Of "x:float32[batch,6]": its type, and what it is of one row and step."""
    kind, _, axes = port.partition(":")[2].rstrip("]").partition("[")
    return getattr(torch, kind), [int(axis) for axis in axes.split(",") if axis != "batch"]


class TargetSpeaker(Own):
    """A mask of one speaker's voice: a GRU that hears at every step whose."""

    CONSTANTS: ClassVar = {"speaker:float32[5]": None}

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6 + 5, 12, num_layers=2, batch_first=True)
        self.mask = nn.Linear(12, 6)

    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        voice = normalize(speaker, dim=1)[:, None].expand(-1, x.shape[1], -1)
        ys, _ = self.gru(torch.cat([x, voice], 2))
        return x * torch.sigmoid(self.mask(ys))


class HalfGRU(Own):
    """In float16, as it was trained for a phone."""

    INPUTS: ClassVar = ("x:float16[6]",)
    TOLERANCE: ClassVar = 4e-3

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 10, batch_first=True)
        self.head = nn.Linear(10, 3)
        self.half()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.gru(x)[0])
        return found


class DoubleLSTM(Own):
    """In float64, as those who simulate write it."""

    INPUTS: ClassVar = ("x:float64[6]",)
    TOLERANCE: ClassVar = 1e-12

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 10, batch_first=True)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.lstm(x)[0]
        return found


class TiedLayers(Own):
    """One GRU called twice in a step, the second time on what the first gave."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        below, _ = self.gru(x)
        above: Tensor = self.gru(below)[0]
        return x + above


class NormalisedCell(nn.Module):
    """An LSTM cell whose sums and cell state are normalised (Ba et al., 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.R = nn.Linear(6, 32, bias=False), nn.Linear(8, 32, bias=False)
        self.norm_W, self.norm_R, self.norm_c = nn.LayerNorm(32), nn.LayerNorm(32), nn.LayerNorm(8)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = (x.new_zeros(len(x), 8),) * 2 if state is None else state
        i, f, g, o = (self.norm_W(self.W(x)) + self.norm_R(self.R(h))).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * self.norm_c(c).tanh(), c


class LayerNormLSTM(Own):
    """That cell in a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = NormalisedCell()

    def forward(self, x: Tensor) -> Tensor:
        state, hs = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            hs.append(state[0])
        return torch.stack(hs, dim=1)


class ConvCell(nn.Module):
    """An LSTM cell of maps (Shi et al., 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 + 3, 4 * 3, 3, padding=1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = self.gates(torch.cat([x, h], 1)).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class ConvLSTM(Own):
    """That cell in a loop over images of two channels."""

    INPUTS: ClassVar = ("x:float32[2,5,6]",)

    def __init__(self) -> None:
        super().__init__()
        self.cell = ConvCell()

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 3, 5, 6)
        hs = []
        for image in x.unbind(1):
            h, c = self.cell(image, h, c)
            hs.append(h)
        return torch.stack(hs, dim=1)


class GRUD(Own):
    """GRU-D (Che et al., 2018): values, which of them were measured, and how long ago; all that decays is a state."""

    INPUTS: ClassVar = ("x:float32[batch,6]", "measured:float32[batch,6]", "since:float32[batch,6]")
    STATES: ClassVar = ("h:float32[batch,9]", "last:float32[batch,6]")

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(12, 9)
        self.decay_h, self.decay_x = nn.Linear(6, 9), nn.Linear(6, 6)
        self.mean = nn.Parameter(torch.randn(6))

    def forward(
        self, x: Tensor, measured: Tensor, since: Tensor, h: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        seen = torch.sigmoid(measured)
        last = seen * x + (1 - seen) * last
        kept = torch.exp(-torch.relu(self.decay_x(since)))
        filled = seen * x + (1 - seen) * (kept * last + (1 - kept) * self.mean)
        h = self.cell(torch.cat([filled, seen], 1), h * torch.exp(-torch.relu(self.decay_h(since))))
        return h, h, last


class WeightNorm(Own):
    """Weight normalisation, which is computed from two parameters whenever the module is called."""

    def __init__(self) -> None:
        super().__init__()
        self.into = weight_norm(nn.Linear(6, 8))
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.out = weight_norm(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.lstm(torch.relu(self.into(x)))[0])
        return found


class S4D(Own):
    """S4D (Gu et al., 2022): a diagonal recurrence of complex numbers, carried as pairs of real ones."""

    INPUTS: ClassVar = ("u:float32[batch,6]",)
    STATES: ClassVar = ("s:float32[batch,6,8,2]",)

    def __init__(self) -> None:
        super().__init__()
        self.log_step = nn.Parameter(torch.rand(6) * 2 - 4)
        self.log_real = nn.Parameter(torch.log(0.5 * torch.ones(6, 8)))
        self.imaginary = nn.Parameter(math.pi * torch.arange(8.0).repeat(6, 1))
        self.C = nn.Parameter(torch.randn(6, 8, 2) * 0.5)
        self.D = nn.Parameter(torch.randn(6))

    def forward(self, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        step = torch.exp(self.log_step)[:, None]
        real, angle = -torch.exp(self.log_real) * step, self.imaginary * step
        a, b = torch.exp(real) * torch.cos(angle), torch.exp(real) * torch.sin(angle)
        re, im = s[..., 0], s[..., 1]
        re, im = a * re - b * im + step * u[:, :, None], b * re + a * im
        y = 2 * (self.C[..., 0] * re - self.C[..., 1] * im).sum(-1) + self.D * u
        return torch.nn.functional.gelu(y), torch.stack([re, im], -1)


class Mamba(Own):
    """A selective state-space layer (Gu and Dao, 2023), one step: a short convolution's cache and the states."""

    INPUTS: ClassVar = ("u:float32[batch,6]",)
    STATES: ClassVar = ("cache:float32[batch,12,3]", "s:float32[batch,12,4]")

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(6, 24, bias=False)
        self.conv = nn.Conv1d(12, 12, 4, groups=12)
        self.select = nn.Linear(12, 2 + 8, bias=False)
        self.step = nn.Linear(2, 12)
        self.log_A = nn.Parameter(torch.log(torch.arange(1.0, 5).repeat(12, 1)))
        self.D = nn.Parameter(torch.ones(12))
        self.out = nn.Linear(12, 6, bias=False)

    def forward(self, u: Tensor, cache: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, gate = self.into(u).chunk(2, dim=1)
        window = torch.cat([cache, x[:, :, None]], 2)
        x = torch.nn.functional.silu(conv1d(window, self.conv.weight, self.conv.bias, groups=12)[:, :, 0])
        low, B, C = self.select(x).split([2, 4, 4], dim=1)
        delta = softplus(self.step(low))[:, :, None]
        s = torch.exp(-delta * torch.exp(self.log_A)) * s + delta * B[:, None] * x[:, :, None]
        y = (s * C[:, None]).sum(-1) + self.D * x
        return self.out(y * torch.nn.functional.silu(gate)), window[:, :, 1:], s


class RWKV(Own):
    """RWKV's time mixing (Peng et al., 2023), one step: the last input, and sums that cannot overflow."""

    INPUTS: ClassVar = ("x:float32[batch,6]",)
    STATES: ClassVar = tuple(f"{name}:float32[batch,6]" for name in ("before", "top", "bottom", "most"))

    def __init__(self) -> None:
        super().__init__()
        self.decay, self.bonus = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))
        self.mix = nn.Parameter(torch.rand(3, 6))
        self.key, self.value, self.receive, self.out = (nn.Linear(6, 6, bias=False) for _ in range(4))

    def forward(self, x: Tensor, before: Tensor, top: Tensor, bottom: Tensor, most: Tensor) -> tuple[Tensor, ...]:
        k, v, r = (m * x + (1 - m) * before for m in self.mix)
        k, v, r = self.key(k), self.value(v), torch.sigmoid(self.receive(r))
        now = torch.maximum(most, self.bonus + k)
        past, this = torch.exp(most - now), torch.exp(self.bonus + k - now)
        y = (past * top + this * v) / (past * bottom + this)
        decayed = most - torch.exp(self.decay)
        most = torch.maximum(decayed, k)
        past, this = torch.exp(decayed - most), torch.exp(k - most)
        return self.out(r * y), x, past * top + this * v, past * bottom + this, most


class MinGRU(Own):
    """minGRU (Feng et al., 2024), over a sequence: neither gate nor candidate reads the state."""

    STATES: ClassVar = ("h:float32[batch,8]",)

    def __init__(self) -> None:
        super().__init__()
        self.update, self.candidate = nn.Linear(6, 8), nn.Linear(6, 8)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        z, n = torch.sigmoid(self.update(x)), self.candidate(x)
        hs = []
        for t in range(x.shape[1]):
            h = (1 - z[:, t]) * h + z[:, t] * n[:, t]
            hs.append(h)
        return torch.stack(hs, dim=1), h


class TCN(Own):
    """A temporal convolutional network (Bai et al., 2018): dilated causal convolutions and their caches."""

    REACH: ClassVar = (2, 4, 8)
    STATES: ClassVar = tuple(f"cache_{k}:float32[batch,6,{reach}]" for k, reach in enumerate(REACH))

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(6, 6, 3, dilation=reach // 2) for reach in self.REACH)

    def forward(self, x: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        y, kept = x.transpose(1, 2), []
        for layer, cache in zip(self.layers, caches, strict=True):
            window = torch.cat([cache, y], 2)
            kept.append(window[:, :, -cache.shape[2] :])
            y = y + torch.relu(layer(window))
        return y.transpose(1, 2), *kept


OWN: Sequence[type[Own]] = (
    TargetSpeaker,
    HalfGRU,
    DoubleLSTM,
    TiedLayers,
    LayerNormLSTM,
    ConvLSTM,
    GRUD,
    WeightNorm,
    S4D,
    Mamba,
    RWKV,
    MinGRU,
    TCN,
)


def made(cls: type[Own]) -> Own:
    """With random weights of a fixed seed."""
    torch.manual_seed(0)
    return cls().eval()
