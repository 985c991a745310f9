"""The training loop: which pictures it sees, and when it stops. What plugins train with it, they test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from basis_cli import training
from basis_cli.errors import NotFiniteError, RunWarning, UsageError
from basis_cli.training import Settings


class Constant(nn.Module):
    """A network that answers with its only number."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))


def loss(network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    return (network.value - x.mean()) ** 2


def exported(network: nn.Module, path: Path) -> None:
    path.write_text(str(float(network.value)))


def test_squares_are_cut_from_everywhere():
    """Every picture's pixels count up, so a square's corner says where it was cut and the rest must follow."""
    data = torch.arange(2 * 3 * 5 * 7).view(2, 3, 5, 7)
    chosen = torch.arange(400) % 2
    assert torch.equal(training.taken(data, chosen, None, torch.Generator()), data[chosen])
    squares = training.taken(data, chosen, 4, torch.Generator().manual_seed(0))
    assert squares.shape == (400, 3, 4, 4)
    corners = squares[:, 0, 0, 0] - 105 * chosen
    for square, corner, which in zip(squares, corners.tolist(), chosen, strict=True):
        top, left = divmod(corner, 7)
        assert torch.equal(square, data[which, :, top : top + 4, left : left + 4])
    assert {divmod(corner, 7) for corner in corners.tolist()} == {(y, x) for y in range(2) for x in range(4)}


def test_a_crop_larger_than_the_pictures():
    assert Settings(crops=(4,)).shape((3, 5, 7)) == (3, 4, 4)
    assert Settings().shape((3, 5, 7)) == (3, 5, 7)
    with pytest.raises(UsageError, match="no square of 6 pixels"):
        Settings(crops=(6,)).shape((3, 5, 7))


def run(out: Path, losses: list[float], steps: int = 12, resume: bool = False, **settings) -> dict[int, float]:
    """Train a :class:`Constant`, measured every second step as ``losses`` say; its average after each of these."""
    values: dict[int, float] = {}

    def evaluate(average: nn.Module) -> dict[str, float]:
        step = 2 * (len(values) + 1)
        values[step] = float(average.value)
        return {"held_out_loss": losses[len(values) - 1]}

    training.fit(
        Constant(),
        loss,
        np.full((4, 1, 2, 2), 255, np.uint8),
        Settings(steps=steps, batch=2, warmup=1, sheet_every=2, save_every=2, bf16=False, **settings),
        out,
        device="cpu",
        resume=resume,
        export=exported,
        evaluate=evaluate,
    )
    return values


def test_stops_when_the_held_out_loss_rises_and_keeps_the_best(tmp_path):
    with pytest.warns(RunWarning, match="best at step 4 of 8"):
        values = run(tmp_path, [3.0, 1.0, 2.0, 1.0], patience=2)
    assert list(values) == [2, 4, 6, 8]
    assert float((tmp_path / "weights.safetensors").read_text()) == values[4] != values[8]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["held_out_loss"] for line in lines] == [3.0, 1.0, 2.0, 1.0]


def test_a_run_that_stopped_does_not_go_on_when_resumed(tmp_path):
    with pytest.warns(RunWarning):
        values = run(tmp_path, [1.0, 2.0, 2.0], patience=2)
    with pytest.warns(RunWarning):
        assert run(tmp_path, [], resume=True, patience=2) == {}
    assert float((tmp_path / "weights.safetensors").read_text()) == values[2]
    after = run(tmp_path, [9.0, 9.0, 9.0], resume=True)  # without patience it does, and the last weights are kept
    assert float((tmp_path / "weights.safetensors").read_text()) == after[6]


def test_a_held_out_loss_that_is_no_number_ends_the_run(tmp_path):
    with pytest.raises(NotFiniteError, match="held-out loss is nan at step 4"):
        run(tmp_path, [1.0, float("nan")], patience=2)


def test_without_patience_the_last_weights_are_kept(tmp_path):
    values = run(tmp_path, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert float((tmp_path / "weights.safetensors").read_text()) == values[12]


def test_the_best_weights_outlive_a_resumed_run(tmp_path):
    first = run(tmp_path, [2.0, 1.0], steps=4, patience=3)
    with pytest.warns(RunWarning, match="best at step 4 of 10"):
        run(tmp_path, [5.0, 5.0, 5.0], resume=True, patience=3)
    assert float((tmp_path / "weights.safetensors").read_text()) == first[4]
