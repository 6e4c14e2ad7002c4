"""Modules as users have them, small."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Explicit(nn.Module):
    """A GRU and a linear head that takes its state and gives it back."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        ys, h = self.gru(x, h)
        return self.head(ys), h


class Hidden(nn.Module):
    """An LSTM of two layers and a head, states nowhere to be seen."""

    def __init__(self, bias: bool = True, batch_first: bool = True, proj_size: int = 0) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, 2, bias=bias, batch_first=batch_first, proj_size=proj_size, dropout=0.5)
        self.head = nn.Linear(proj_size or 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.lstm(x)[0])
        return found


class Nested(nn.Module):
    """Two GRUs at unlike depths, one of which starts from what was learned, and an RNN behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self.body = nn.ModuleDict({"low": nn.GRU(5, 6, batch_first=True), "high": nn.GRU(6, 7, bias=False)})
        self.start = nn.Parameter(torch.randn(1, 1, 7))
        self.last = nn.RNN(7, 3, nonlinearity="relu", batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low, _ = self.body["low"](self.encoder(x))
        high, _ = self.body["high"](low.transpose(0, 1), self.start.expand(-1, len(x), -1).contiguous())
        scores, _ = self.last(high.transpose(0, 1))
        return {"scores": scores, "features": low, "loudness": scores.norm(dim=2)}


class Packed(nn.Module):
    """Packs, runs, unpacks."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        ys, _ = self.lstm(packed)
        return pad_packed_sequence(ys, batch_first=True)[0]


class CellLoop(nn.Module):
    """Cells of two kinds in a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTMCell(4, 6)
        self.second = nn.GRUCell(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 6)
        g = x.new_zeros(len(x), 5)
        ys = []
        for t in range(x.shape[1]):
            h, c = self.first(x[:, t], (h, c))
            g = self.second(h, g)
            ys.append(g)
        return torch.stack(ys, dim=1)


class Elman(nn.Module):
    """An RNNCell of a ReLU in a loop, and one without biases behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.RNNCell(4, 6, nonlinearity="relu")
        self.high = nn.RNNCell(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        low, high = x.new_zeros(len(x), 6), x.new_zeros(len(x), 3)
        ys = []
        for step in x.unbind(1):
            low = self.low(step, low)
            high = self.high(low, high)
            ys.append(high)
        return torch.stack(ys, dim=1)


class MinGRU(nn.Module):
    """minGRU (Feng et al., 2024), step after step."""

    def __init__(self) -> None:
        super().__init__()
        self.update = nn.Linear(4, 6)
        self.candidate = nn.Linear(4, 6)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        z, n = torch.sigmoid(self.update(x)), self.candidate(x)
        hs = []
        for t in range(x.shape[1]):
            h = (1 - z[:, t]) * h + z[:, t] * n[:, t]
            hs.append(h)
        return torch.stack(hs, dim=1), h


class StateSpace(nn.Module):
    """A diagonal linear recurrence of complex numbers, as pairs, one step a call, its state in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.rand(6) * 0.5 + 0.4)
        self.angle = nn.Parameter(torch.rand(6))
        self.into = nn.Linear(4, 6)
        self.out = nn.Linear(6, 3)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        return torch.full((batch, 6), 0.5), torch.arange(6.0).expand(batch, 6)

    def example_inputs(self, batch: int) -> Tensor:
        return torch.zeros(batch, 4)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        real, imaginary = state
        a, b = self.decay * torch.cos(self.angle), self.decay * torch.sin(self.angle)
        real, imaginary = a * real - b * imaginary + self.into(x), b * real + a * imaginary
        return self.out(real), (real, imaginary)


class ConvCache(nn.Module):
    """A causal convolution whose last samples are carried, a counter of steps, and an embedding of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.conv = nn.Conv1d(4, 5, 3)

    def forward(self, token: Tensor, *states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cache, count = states
        x = torch.cat([cache, self.embed(token).transpose(1, 2)], dim=2)
        steps = count[:, None] + torch.arange(1, token.shape[1] + 1)
        return self.conv(x).transpose(1, 2) / steps[..., None], x[:, :, -2:], count + token.shape[1]


class HiddenConv(nn.Module):
    """An LSTM behind a causal convolution that pads by itself: a state that nobody carries."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.lstm = nn.LSTM(4, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x.transpose(1, 2), (2, 0))
        found: Tensor = self.lstm(self.conv(padded).transpose(1, 2))[0]
        return found


class Windows(nn.Module):
    """Windows of 48 samples, two convolutions along each."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv1d(1, 8, 16, stride=8)  # 5 positions
        self.features = nn.Conv1d(8, 6, 3, stride=2, padding=1)  # 3 positions

    def convolved(self, windows: Tensor) -> Tensor:
        found = torch.relu(self.filters(windows[:, None]))
        return torch.relu(self.features(found)).flatten(1)


class Windowed(Windows):
    """And an LSTM behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(18, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found = self.convolved(x.flatten(0, 1)).reshape(x.shape[0], x.shape[1], 18)
        hidden: Tensor = self.lstm(found)[0]
        return hidden


class WindowedLoop(Windows):
    """And a cell behind them, in a loop over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(18, 6)

    def forward(self, x: Tensor) -> Tensor:
        state, ys = None, []
        for t in range(x.shape[1]):
            state = self.cell(self.convolved(x[:, t]), state)
            ys.append(state[0])
        return torch.stack(ys, dim=1)


class OneNumber(nn.Module):
    """A number for each step, with no axis of its own: [batch, time]."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(x)[0].mean(-1)
        return y


class LastStep(nn.Module):
    """Gives what it thinks after the last step alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, h = self.gru(x)
        found: Tensor = self.head(h[-1])
        return found


class Tutorial(nn.Module):
    """As tutorials have it: zeros of its own, the last step alone."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 6, 2, batch_first=True)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(2, x.size(0), 6).to(x.device).requires_grad_()
        c0 = torch.zeros(2, x.size(0), 6).to(x.device).requires_grad_()
        out, _ = self.rnn(x, (h0.detach(), c0.detach()))
        found: Tensor = self.fc(out[:, -1, :])
        return found


class Both(nn.Module):
    """Takes one state, and hides another."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.GRUCell(4, 5)
        self.hidden = nn.RNN(5, 6, batch_first=True)

    def forward(self, x: Tensor, states: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        h = states["h"]
        hs = []
        for step in x.unbind(1):
            h = self.seen(step, h)
            hs.append(h)
        return self.hidden(torch.stack(hs, dim=1))[0], {"h": h}


class Attribute(nn.Module):
    """Hangs its state on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.gru = nn.GRU(4, 6, batch_first=True)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        gru = self.inner.gru
        assert isinstance(gru, nn.GRU)
        ys, last = gru(x, self.last)
        self.last = last.detach()
        found: Tensor = ys
        return found


class Buffer(nn.Module):
    """Keeps a running mean in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Module()
        self.norm.register_buffer("mean", torch.zeros(4))
        self.gru = nn.GRU(4, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.norm.mean
        assert isinstance(mean, Tensor)
        mean.mul_(0.9).add_(0.1 * x.mean(dim=(0, 1)))
        found: Tensor = self.gru(x - mean)[0]
        return found


class Wrapped(nn.Module):
    """A GRU between whatever is put before and behind it."""

    def __init__(self, before: nn.Module | None = None, behind: nn.Module | None = None) -> None:
        super().__init__()
        self.before = before or nn.Identity()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.behind = behind or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.behind(self.gru(self.before(x))[0])
        return found


class Reversed(nn.Module):
    """Looks at the sequence from its end."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1).cumsum(1).flip(1)


class BothDirections(nn.Module):
    """Reads the sequence from its end too."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.lstm(x)[0]
        return found


class Pooled(nn.Module):
    """Divides by how far it has come in what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.arange(1, x.shape[1] + 1)[:, None]


class Noisy(nn.Module):
    """Drops out, whether it is trained or not."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5)


class Mixed(nn.Module):
    """Centres rows by each other."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Decoder(nn.Module):
    """Starts a GRU from what another came to."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(4, 6, batch_first=True)
        self.decoder = nn.GRU(4, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.decoder(x, self.encoder(x)[1])[0]
        return found


class TwoPasses(nn.Module):
    """Reads the sequence again, knowing how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.gru(x)
        found: Tensor = self.gru(x, last)[0]
        return found


class Shared(nn.Module):
    """One cell for two layers, each with its own state, in a loop; another that takes two steps for each."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 4)
        self.twice = nn.LSTMCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        low = high = h = c = x.new_zeros(len(x), 4)
        ys = []
        for step in x.unbind(1):
            low = self.cell(step, low)
            high = self.cell(low, high)
            for _ in range(2):
                h, c = self.twice(high, (h, c))
            ys.append(h)
        return torch.stack(ys, dim=1)


class OwnCell(nn.Module):
    """A cell that torch does not have: an LSTM whose cell state is normalised. Without a state it starts from zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Linear(4, 24)
        self.R = nn.Linear(6, 24, bias=False)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = (x.new_zeros(len(x), 6),) * 2 if state is None else state
        i, f, g, o = (self.W(x) + self.R(h)).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * self.norm(c).tanh(), c


class OwnLoop(nn.Module):
    """Such a cell behind one of torch's, in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.GRUCell(4, 4)
        self.cell = OwnCell()

    def forward(self, x: Tensor) -> Tensor:
        h, state, ys = torch.ones(x.shape[0], 4), None, []
        for t in range(x.shape[1]):
            h = self.below(x[:, t], h)
            state = self.cell(h, state)
            ys.append(state[0])
        return torch.stack(ys, dim=1)


@dataclass
class Decayed:
    """What a module of another library returns."""

    y: Tensor
    h: Tensor


class Decaying(nn.Module):
    """As GRU-D: the state decays by how long the step took, before the cell sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Linear(4, 6)
        self.cell = nn.GRUCell(4, 6)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor | Decayed:
        state = x.new_zeros(len(x), 6) if h is None else h
        hs = []
        for step in x.unbind(1):
            state = self.cell(step, state * torch.exp(-self.decay(step).relu()))
            hs.append(state)
        ys = torch.stack(hs, dim=1)
        return ys if h is None else Decayed(ys, state)


class Sorting(nn.Module):
    """Sorts the rows by their lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        lengths, order = lengths.sort(descending=True)
        packed = pack_padded_sequence(x[order], lengths, batch_first=True)
        ys, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        found: Tensor = ys[order.sort()[1]]
        return found


class Twice(nn.Module):
    """Runs one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.gru(self.gru(x)[0])[0]
        return found


class Normalised(nn.Module):
    """Normalises the state between two steps."""

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.cell = nn.GRUCell(4, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 6)
        hs = []
        for step in x.unbind(1):
            h = self.norm(self.cell(step, h))
            hs.append(h)
        return hs[-1] if self.last else torch.stack(hs, dim=1)


class Rows(nn.Module):
    """Takes row after row."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        ys = self.gru(x)[0]
        return torch.stack([2 * row for row in ys])


class Subsampled(nn.Module):
    """Takes every other step."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::2]


class Growing(nn.Module):
    """A state that grows."""

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        cache = torch.cat([cache, x], dim=1)
        return cache.mean(1, keepdim=True) + x, cache


class Loud(nn.Module):
    """Amplifies, so that float32 loses more inside a step than the usual tolerance."""

    def __init__(self) -> None:
        super().__init__()
        self.gather = nn.Linear(256, 4)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = 0.5 * h + torch.sin(300 * self.gather(x))
        return h, h


class Brain(nn.Module):
    """A GRU in bfloat16 inside of what is float32."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.gru(x.bfloat16())[0].float()
        return found


class Half(nn.Module):
    """A leaky sum in float16."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(4, 4).half()

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        hs = []
        for step in self.into(x).unbind(1):
            h = 0.5 * h + step
            hs.append(h)
        return torch.stack(hs, dim=1), h
