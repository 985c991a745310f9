"""Muon, how the learning rate falls, and the average of the weights, against what is known in closed form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from basis_cli import training
from basis_cli.errors import UsageError
from basis_cli.training import Muon, Settings, learning_rate_factor
from basis_cli.training.optimizers import optimizers_of, shorten

BAND = (0.67, 1.21)
"""Between these the five Newton-Schulz iterations leave every singular value that is not tiny."""


class Climber(nn.Module):
    """One number, whose slope in :func:`climbing` is always -1: Adam adds the learning rate at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros((), dtype=torch.float64))


def climbing(network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    return -network.value


def climb(out: Path, steps: int, resume: bool = False, **settings) -> tuple[float, float]:
    """The last value and the average of a :class:`Climber` after ``steps``."""
    network = Climber()
    how = Settings(**{"steps": steps, "batch": 1, "learning_rate": 1.0, "warmup": 1, "bf16": False} | settings)
    pictures = np.zeros((2, 1, 2, 2), np.uint8)
    average = training.fit(network, climbing, pictures, how, out, device="cpu", resume=resume)
    return network.value.item(), average.value.item()


# --- the learning rate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("cosine", {0: 1, 1 / 6: 0.9330127, 1 / 3: 0.75, 1 / 2: 0.5, 2 / 3: 0.25, 1: 0, 1.2: 0}),
        ("inverse-square-root", {0: 1, 0.05: 1, 0.1: 1, 0.225: 2 / 3, 0.4: 0.5, 0.9: 1 / 3, 1: 0.3162278}),
        ("constant", {0: 1, 0.5: 1, 1: 1}),
    ],
)
def test_the_learning_rate_falls_with_progress(decay, expected):
    settings = Settings(decay=decay, warmup=10)
    factors = [learning_rate_factor(settings, 1000, progress) for progress in expected]
    assert factors == pytest.approx(list(expected.values()), abs=1e-6)


@pytest.mark.parametrize("decay", ["cosine", "inverse-square-root", "constant"])
def test_the_learning_rate_rises_in_even_steps_while_warming_up(decay):
    settings = Settings(decay=decay)
    factors = [learning_rate_factor(settings, step, 0.0) for step in (0, 49, 99, 198, 199, 5000)]
    assert factors == pytest.approx([0.005, 0.25, 0.5, 0.995, 1, 1])
    assert learning_rate_factor(Settings(decay=decay, warmup=0), 0, 0.0) == 1


def test_warming_up_and_falling_multiply():
    assert learning_rate_factor(Settings(warmup=200), 49, 1 / 3) == pytest.approx(0.25 * 0.75)


def test_an_unknown_decay_is_refused():
    with pytest.raises(UsageError, match="no decay is called 'linear'"):
        learning_rate_factor(Settings(decay="linear"), 0, 0.0)


@pytest.mark.parametrize(
    ("decay", "warmup", "distance"),
    [("cosine", 1, 50.5), ("constant", 1, 100), ("constant", 49, 76), ("inverse-square-root", 1, 53.6)],
)
def test_a_run_goes_as_far_as_its_learning_rates_add_up_to(tmp_path, decay, warmup, distance):
    """Half of the steps and half a step; all of them; less the 24 that warming up costs; and
    10 + sum of sqrt(10 / k) for k = 10 ... 99, about 10 + 2 sqrt(10) (sqrt(99.5) - sqrt(9.5))."""
    last, _ = climb(tmp_path, 100, decay=decay, warmup=warmup)
    assert last == pytest.approx(distance, abs=0.1)


# --- the average -----------------------------------------------------------------------------------------------------


def test_the_average_of_a_short_run_weighs_steps_by_a_power(tmp_path):
    """With exponent 1 the steps weigh 1, 3 and 5 ninths, and the values are 1, 2 and 3."""
    assert climb(tmp_path, 3, decay="constant", ema=1.0) == pytest.approx((3, 22 / 9))


def test_the_average_lags_behind_a_ramp_by_an_eighteenth_of_the_run(tmp_path):
    """The mean time under ``t^16`` is 17 / 18 of the run: 85 of 90 steps, and half a step as values change in steps."""
    assert climb(tmp_path, 90, decay="constant") == pytest.approx((90, 85.5), abs=0.05)


def test_the_average_does_not_know_how_long_the_run_will_be(tmp_path):
    """Nor does it matter that the run was stopped and went on."""
    assert climb(tmp_path, 40, decay="constant") == pytest.approx((40, 40 * 17 / 18 + 0.5), abs=0.05)
    assert climb(tmp_path, 90, decay="constant", resume=True) == pytest.approx((90, 85.5), abs=0.05)


# --- Muon ------------------------------------------------------------------------------------------------------------


def orthogonal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))[0]


def matrix_of(values: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix ``u diag(values) v^T`` with those singular values, ``u`` and ``v``."""
    u, v = orthogonal(rows, len(values), 1), orthogonal(columns, len(values), 2)
    return u @ values.diag() @ v.T, u, v


def moved(gradients: list[Tensor], shape: tuple[int, ...], lr: float, **options) -> Tensor:
    """What Muon adds to a weight of ``shape`` in the last of ``len(gradients)`` steps, as a matrix."""
    weight = nn.Parameter(torch.zeros(shape))
    optimizer = Muon([weight], lr=lr, **options)
    for gradient in gradients:
        before = weight.detach().clone()
        weight.grad = gradient.reshape(shape).clone()
        optimizer.step()
    return (weight.detach() - before).flatten(1)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((32, 32, 1, 1), 0.02), ((32, 4, 3, 3), 0.02), ((64, 32, 1, 1), 0.02 * 2**0.5), ((144, 4, 3, 3), 0.02 * 2)],
)
def test_a_step_of_muon_is_orthogonal_and_of_the_size_of_the_learning_rate(shape, size):
    rows, columns = shape[0], int(np.prod(shape[1:]))
    values = torch.logspace(0, -1.5, min(rows, columns))
    gradient, u, v = matrix_of(values, rows, columns)
    step = moved([1e3 * gradient], shape, lr=0.02)
    along = -(u.T @ step @ v) / size
    assert BAND[0] < along.diagonal().min()
    assert along.diagonal().max() < BAND[1]
    assert (along - along.diagonal().diag()).abs().max() < 0.03  # in bfloat16 where CPUs multiply it
    assert torch.linalg.svdvals(step / size)[len(values) - 1] > BAND[0]


def test_muons_step_does_not_depend_on_the_size_of_the_gradient():
    gradient, _, _ = matrix_of(torch.linspace(1, 0.1, 32), 32, 48)
    small, large = (moved([scale * gradient], (32, 48, 1, 1), lr=0.1) for scale in (1e-2, 1e2))
    torch.testing.assert_close(small, large, atol=4e-3, rtol=0)  # of 0.1; in bfloat16 where CPUs multiply it


def test_muons_momentum_is_nesterovs():
    """A gradient comes back negated and smaller. Looking ahead, Nesterov's momentum turns round once it is as large as
    0.95^2 / 1.95 = 0.463 of the first; plain momentum only at 0.95."""
    values = torch.ones(32)
    first, u, v = matrix_of(values, 32, 32)
    second, _, _ = matrix_of(-torch.linspace(0.3, 0.6, 32), 32, 32)
    along = -(u.T @ moved([first, second], (32, 32, 1, 1), lr=1.0) @ v).diagonal()
    back = torch.linspace(0.3, 0.6, 32)
    assert (along[back < 0.45] > 0.3).all()
    assert (along[back > 0.48] < -0.3).all()


def test_muon_leaves_weights_without_a_gradient_alone():
    weight = nn.Parameter(torch.ones(4, 4))
    Muon([weight]).step()
    assert torch.equal(weight, torch.ones(4, 4))


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(32, 64, 3)
        self.narrow = nn.Conv2d(64, 16, 3)
        self.first = nn.Conv2d(1, 64, 3)
        self.linear = nn.Linear(64, 64)
        self.norm = nn.GroupNorm(8, 64)
        self.fixed = nn.Conv2d(64, 64, 3).requires_grad_(False)


def held(optimizer: torch.optim.Optimizer, network: nn.Module) -> set[str]:
    names = {id(p): name for name, p in network.named_parameters()}
    return {names[id(p)] for group in optimizer.param_groups for p in group["params"]}


def test_hidden_matrices_are_muons_at_20_times_the_learning_rate():
    network = Layers()
    adam, muon = optimizers_of(network, Settings(learning_rate=3e-3))
    assert isinstance(muon, Muon)
    assert held(muon, network) == {"hidden.weight"}
    rest = {"hidden.bias", "narrow.weight", "narrow.bias", "first.weight", "first.bias"}
    assert held(adam, network) == rest | {"linear.weight", "linear.bias", "norm.weight", "norm.bias"}
    assert [group["lr"] for group in muon.param_groups] == pytest.approx([0.06])
    assert [group["lr"] for group in adam.param_groups] == [3e-3]


def test_adam_may_have_everything():
    network = Layers()
    (adam,) = optimizers_of(network, Settings(optimizer="adam"))
    assert isinstance(adam, torch.optim.Adam)
    assert len(held(adam, network)) == 10


def test_training_moves_hidden_matrices_by_muons_learning_rate(tmp_path):
    """In one step by 20 x 1e-3 in every direction, up to the band; and in many the loss falls."""
    pictures = np.random.default_rng(0).integers(0, 256, (16, 32, 4, 4), dtype=np.uint8)
    network = nn.Conv2d(32, 32, 1)
    begun = network.weight.detach().clone()

    def loss(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return ((model(x - 0.5) - 4 * (x.flip(1) - 0.5)) ** 2).mean()

    settings = {"batch": 16, "warmup": 1, "decay": "constant", "bf16": False}
    training.fit(network, loss, pictures, Settings(steps=1, **settings), tmp_path, device="cpu")
    change = torch.linalg.svdvals((network.weight - begun).detach().flatten(1)) / 0.02
    assert BAND[0] < change.min()
    assert change.max() < BAND[1]
    training.fit(network, loss, pictures, Settings(steps=100, **settings), tmp_path, device="cpu", resume=True)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.5 * losses[0]


def test_gradients_are_shortened_together_and_short_ones_are_left():
    long, short = ([nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1))] for _ in range(2))
    for (three, one), size in ((long, 4.0), (short, 0.1)):
        three.grad, one.grad = torch.tensor([size, 0, size]), torch.tensor([-size])
        shorten([three, one], 1.0)
    torch.testing.assert_close(long[0].grad, torch.tensor([1.0, 0, 1.0]) / 3**0.5)
    torch.testing.assert_close(long[1].grad, torch.tensor([-1.0]) / 3**0.5)
    assert torch.equal(short[0].grad, torch.tensor([0.1, 0, 0.1]))
    assert torch.equal(short[1].grad, torch.tensor([-0.1]))


@pytest.mark.parametrize("explode", [lambda value: -1e300 * value, lambda value: -(value - value.detach()).sqrt()])
def test_a_run_that_clips_survives_one_exploding_picture(tmp_path, explode):
    """The slope of the first is finite, and counts as one; that of the second is not, and does not count."""

    def loss(network, x, generator):
        return explode(network.value) if network.value == 0.5 else climbing(network, x, generator)

    network = Climber()
    run = {"optimizer": "adam", "learning_rate": 0.5, "decay": "constant", "warmup": 1, "bf16": False}
    training.fit(network, loss, np.zeros((1, 1, 1, 1), np.uint8), Settings(steps=3, batch=1, clip=1.0, **run), tmp_path)
    assert 1 < network.value.item() <= 1.5
