"""Training that goes wrong: nothing good is replaced, and what is missing is said at once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from basis_cli import training
from basis_cli.cli.app import app
from basis_cli.errors import NotFiniteError
from basis_cli.training import Settings


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))


def train(out: Path, broken_at: int | None = None, resume: bool = False) -> nn.Module:
    """Six steps, each saved. The loss at ``broken_at`` is zero, and its gradient is not a number."""
    calls = iter(range(1, 1000))

    def loss(network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        if torch.is_grad_enabled() and next(calls) == broken_at:
            return (network.value - network.value.detach()).abs().sqrt()
        return (network.value - x.mean()) ** 2

    settings = Settings(steps=6, batch=2, save_every=1, bf16=False, warmup=1)
    return training.fit(
        Constant(), loss, np.full((4, 1, 2, 2), 255, np.uint8), settings, out, device="cpu", resume=resume
    )


def test_an_update_that_breaks_the_weights_does_not_replace_the_saved_state(tmp_path):
    unbroken = train(tmp_path / "unbroken")
    with pytest.raises(NotFiniteError, match=r"the weights are not finite after step 4 \(--resume"):
        train(tmp_path / "run", broken_at=4)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 3
    assert train(tmp_path / "run", resume=True).value == unbroken.value


@pytest.mark.parametrize("prior", ["ncsn", "glow", "features"])
def test_a_missing_accelerate_is_said_before_pictures_are_read(monkeypatch, prior):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setattr("basis_cli.data.datasets.load_dataset", None)
    result = CliRunner().invoke(app, ["train", prior, "--data", "nowhere"])
    assert result.exit_code == 2
    assert "pip install 'basis-cli[train]'" in result.stderr


def test_nor_does_one_that_leaves_no_way_on(tmp_path):
    """Weights so large that the next loss overflows are finite themselves."""

    def loss(network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return (network.value - 1) ** 2 if network.value < 1.5 else network.value * torch.inf

    def run(rate: float, resume: bool) -> None:
        settings = Settings(steps=6, batch=2, save_every=1, bf16=False, warmup=1, learning_rate=rate, optimizer="adam")
        images = np.zeros((4, 1, 2, 2), np.uint8)
        training.fit(Constant(), loss, images, settings, tmp_path, device="cpu", resume=resume)

    with pytest.raises(NotFiniteError, match="the loss is inf after step 2"):
        run(1.0, resume=False)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 1
    run(1e-3, resume=True)
