"""Weights from a file into a module: every one, from wherever in the file they are, or one line that says why not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gatestream.export.errors import SourceError
from gatestream.export.sources.weights import load


def module(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.ModuleDict({"gru": nn.GRU(3, 4, bias=False), "head": nn.Linear(4, 2)})


STATE = dict(module(1).state_dict())


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    into = module()
    assert str(load(into, tmp_path / "w.safetensors")) == "4 tensors"
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in into.state_dict().items())


@pytest.mark.parametrize(
    ("contents", "prefix", "said"),
    [
        (STATE, "", "4 tensors"),
        ({"state_dict": STATE, "epoch": 3, "lr": [1e-3]}, "", "4 tensors behind 'state_dict.'; ignored 'epoch', 'lr'"),
        (prefixed("module.", STATE), "module.", "4 tensors behind 'module.'"),
        (
            {"state_dict": prefixed("model.", STATE) | {"loss.weight": torch.ones(2)}, "epoch": 3},
            "model.",
            "4 tensors behind 'state_dict.model.'; ignored 'state_dict.loss.weight', 'epoch'",
        ),
        ({"model": STATE, "ema": prefixed("", STATE)}, "ema.", "4 tensors behind 'ema.'; ignored 'model'"),
        (
            {"model": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}},
            "",
            "4 tensors behind 'model.'; ignored 'optimizer'",
        ),
    ],
)
def test_wherever_in_a_checkpoint(contents: dict[str, object], prefix: str, said: str, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "w.pt")
    into = module()
    assert str(load(into, tmp_path / "w.pt", prefix=prefix)) == said
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in into.state_dict().items())


class Evil:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('ran', 'w')",)


SHORT = {name: tensor for name, tensor in STATE.items() if name != "head.bias"}


@pytest.mark.parametrize(
    ("contents", "prefix", "said"),
    [
        (SHORT, "", "missing 'head.bias'"),
        (STATE | {"tail.bias": torch.ones(2)}, "", "unexpected 'tail.bias'"),
        (STATE | {"head.bias": torch.ones(3)}, "", "'head.bias' is [3], the module's is [2]"),
        (prefixed("module.", STATE), "", "all of the module's are there behind 'module.': --prefix module."),
        (STATE, "model.", "no tensor's name begins with 'model.'; there are 'gru.weight_ih_l0', 'gru.weight_hh_l0'"),
        ({"model": STATE, "ema": STATE}, "", "several state dicts: --prefix with one of 'model.', 'ema.'"),
        ({"epoch": 3}, "", "no state dict"),
        ([1, 2], "", "holds a list, expected a state dict"),
        ({"w": Evil()}, "", "reading it would run code of the file's: save module.state_dict() alone"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    contents: object, prefix: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(contents, tmp_path / "w.pt")
    into = module()
    before = {name: tensor.clone() for name, tensor in into.state_dict().items()}
    with pytest.raises(SourceError) as refused:
        load(into, tmp_path / "w.pt", prefix=prefix)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()
    assert all(torch.equal(tensor, before[name]) for name, tensor in into.state_dict().items())


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_file_that_is_none(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(SourceError, match=r"w\.\w+: (not|neither) a safetensors file"):
        load(module(), tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load(module(), tmp_path / "nowhere.pt")
