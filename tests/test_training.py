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
    assert (squares.shape, squares.dtype) == ((400, 3, 4, 4), torch.float32)
    squares = squares.long()
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


class Clock:
    """Stands in for the computer's: it moves on by ``seconds`` with every step."""

    def __init__(self, seconds: float, monkeypatch: pytest.MonkeyPatch):
        self.now, self.seconds, self.shapes, self.fails_at = 1e4, seconds, [], 0
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def loss(self, network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        if torch.is_grad_enabled():  # else it is what fit looks at before it saves, and no step
            self.shapes.append(tuple(x.shape))
            if len(self.shapes) == self.fails_at:
                raise KeyboardInterrupt
            self.now += self.seconds
        return loss(network, x, generator)


def timed(clock: Clock, out: Path, resume: bool = False, **settings) -> list[dict[str, float]]:
    """Train by ``clock``; the lines of metrics of the whole run."""
    how = Settings(**{"steps": 10, "batch": 2, "warmup": 1, "save_every": 50, "bf16": False} | settings)
    pictures = np.full((4, 1, 2, 2), 255, np.uint8)
    training.fit(Constant(), clock.loss, pictures, how, out, device="cpu", resume=resume)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_of_hours_ends_by_the_clock_and_its_learning_rate_falls_by_it(tmp_path, monkeypatch):
    """At 12 seconds a step an hour is 300 steps, whatever ``steps`` says; the clock is read every 50."""
    lines = timed(Clock(12, monkeypatch), tmp_path, hours=1.0)
    assert [line["step"] for line in lines] == [50, 100, 150, 200, 250, 300]
    assert [line["progress"] for line in lines] == pytest.approx([1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1])
    share = [line["learning_rate"] / 1e-3 for line in lines]  # of the 50 steps before
    assert share == pytest.approx([1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873], abs=1e-6)
    assert lines[-1]["seconds"] == pytest.approx(3600)


def test_a_run_of_hours_that_was_killed_has_only_the_rest_of_its_time(tmp_path, monkeypatch):
    clock = Clock(12, monkeypatch)
    clock.fails_at = 180
    with pytest.raises(KeyboardInterrupt):
        timed(clock, tmp_path, hours=1.0)
    lines = timed(Clock(24, monkeypatch), tmp_path, resume=True, hours=1.0)  # it goes on at half the speed
    assert [line["step"] for line in lines] == [50, 100, 150, 200, 250]  # 150 x 12 s and 75 x 24 s, then the next 50
    assert lines[3]["learning_rate"] == pytest.approx(0.5e-3)
    assert lines[3]["progress"] == pytest.approx(1 / 2 + 50 * 24 / 3600)
    with monkeypatch.context() as over:
        again = Clock(12, over)
        assert timed(again, tmp_path, resume=True, hours=1.0) == lines
        assert again.shapes == []
    longer = timed(Clock(24, monkeypatch), tmp_path, resume=True, hours=2.0)
    assert longer[-1]["progress"] >= 1
    assert longer[-1]["step"] > 250


@pytest.mark.parametrize(
    ("crops", "batch", "shapes"),
    [
        ((4,), 8, [(8, 1, 4, 4)] * 5),
        ((4, 8), 8, [(8, 1, 4, 4), (2, 1, 8, 8)] * 2 + [(8, 1, 4, 4)]),
        ((4, 8, 6), 9, [(9, 1, 4, 4), (2, 1, 8, 8), (4, 1, 6, 6), (9, 1, 4, 4), (2, 1, 8, 8)]),
        ((8, 4), 2, [(2, 1, 8, 8), (8, 1, 4, 4)] * 2 + [(2, 1, 8, 8)]),
        ((2, 8), 4, [(4, 1, 2, 2), (1, 1, 8, 8)] * 2 + [(4, 1, 2, 2)]),
    ],
)
def test_crops_take_turns_and_as_many_pixels_as_the_first(tmp_path, monkeypatch, crops, batch, shapes):
    clock = Clock(1, monkeypatch)
    how = Settings(steps=5, batch=batch, warmup=1, bf16=False, crops=crops)
    training.fit(Constant(), clock.loss, np.zeros((3, 1, 8, 9), np.uint8), how, tmp_path, device="cpu")
    assert clock.shapes == shapes


def checkered(n: int, side: int) -> Tensor:
    """Pixels that are 0 and 255 by turns: the mean of any 2 x 2 is 127.5, which no pixel is."""
    return 255 * ((torch.arange(side)[:, None] + torch.arange(side)) % 2).expand(n, 1, side, side)


def test_with_two_octaves_half_of_the_crops_are_means_of_two_by_two():
    """Pixels count up, so a square's corner says where it was cut: the mean of 2 x 2 is its corner and (1 + 9) / 2."""
    data = torch.arange(2 * 9 * 9).view(2, 1, 9, 9)
    chosen = torch.arange(200) % 2
    squares = training.taken(data, chosen, 4, torch.Generator().manual_seed(0), octaves=2)
    assert squares.shape == (200, 1, 4, 4)
    rows, columns = torch.arange(4)[:, None], torch.arange(4)
    corners = squares[:, :, :1, :1]
    assert torch.equal(squares[:100], corners[:100] + 9 * rows + columns)
    assert torch.equal(squares[100:], corners[100:] + 2 * (9 * rows + columns))
    shrunk = (corners[100:].flatten() - 5 - 81 * chosen[100:]).tolist()
    assert set(shrunk) == {0, 1, 9, 10}, "cut from everywhere"


def test_octaves_that_do_not_fit_are_left_out():
    generator, chosen = torch.Generator().manual_seed(0), torch.zeros(9, dtype=torch.int64)
    for octaves, side, shrunk in ((1, 16, 0), (2, 7, 0), (2, 16, 4), (3, 15, 4), (3, 16, 6)):
        squares = training.taken(checkered(1, side), chosen, 4, generator, octaves)
        assert squares.shape == (9, 1, 4, 4)
        assert int((squares == 127.5).all(3).all(2).sum()) == shrunk


def test_a_run_sees_its_octaves(tmp_path):
    seen = []

    def looking(network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(x)
        return loss(network, x, generator)

    how = Settings(steps=2, batch=6, warmup=1, bf16=False, crops=(4,), octaves=2)
    training.fit(Constant(), looking, checkered(3, 9).byte().numpy(), how, tmp_path, device="cpu")
    for x in seen:
        assert set(x[:3].unique().tolist()) == {0.0, 1.0}
        assert torch.equal(x[3:], torch.full((3, 1, 4, 4), 0.5))
