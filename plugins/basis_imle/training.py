"""``basis train imle``: conditional implicit maximum likelihood (Li & Malik 2018), hierarchical (Peng et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from basis_cli.api import Dataset, UsageError, checkpoint, operators, samplers, training, write_sheet

from .distance import FeatureDistance
from .files import read, save
from .network import Generator
from .search import codes, hierarchical_search, targets

QUALITIES = (5, 10)
"""Of the JPEG files that "decompress" learns from, the first and the last."""
Callback = Callable[[int, dict[str, float]], None]


def observed(task: str, x: Tensor, generator: torch.Generator, factor: int = 16) -> Tensor:
    """What is given of pictures ``x`` ``(n, 3, h, w)`` in [0, 1], of layouts ``(n, 4, h, w)`` with classes / 255."""
    if task == "paint":
        return (255 * x[:, 3]).round().long()
    if task == "colorize":
        return operators.Gray(operators.LUMA)(x[None])
    if task == "upscale":
        return operators.Downsample(factor, (x.shape[2], x.shape[3]))(x[None])
    low, high = QUALITIES
    quality = int(torch.randint(low, high + 1, (), generator=generator, device=x.device))
    jpeg = operators.Jpeg(operators.standard_tables(quality)[:2], (x.shape[2], x.shape[3]))
    return (jpeg(x[None]) * 255).round() / 255


class Chosen(nn.Module):
    """A network in training, and what is observed of a round's pictures and which codes were chosen for them."""

    seeds: Tensor
    y: Tensor

    def __init__(self, network: Generator, pool: int, seen: Sequence[int]):
        super().__init__()
        self.network = network
        self.register_buffer("seeds", torch.zeros(pool, len(network.parts), dtype=torch.int64))
        self.register_buffer("y", torch.zeros(pool, *seen, dtype=torch.int64 if network.task == "paint" else None))


def candidates(seed: int, round_: int, pool: int, counts: Sequence[int]) -> list[Tensor]:
    """Seeds of the codes that are tried in a round, ``(pool, m_i)`` for each module: new ones every round."""
    generator = np.random.default_rng((seed, round_))
    return [torch.from_numpy(generator.integers(2**62, size=(pool, count))) for count in counts]


def imle_loss(network: Chosen, x: Tensor, places: Tensor, distance: nn.Module) -> Tensor:
    """Mean distance of every module's picture, made of the chosen codes, to the truth ``x`` ``(n, 3 or 4, h, w)``."""
    x, generator = x[:, :3], network.network
    size = (x.shape[2], x.shape[3])
    z = codes(network.seeds[places], generator.lengths(size), x.device)
    made = generator(network.y[places], z, size)
    return sum(distance(a, b).mean() for a, b in zip(made, targets(x, len(made)), strict=True))  # type: ignore[return-value]


def train(
    data: Dataset,
    held_out: Dataset,
    out: Path,
    settings: training.Settings,
    *,
    config: dict[str, Any],
    samples: Sequence[int] = (20, 20, 10, 5),
    pool: int = 256,
    round_steps: int = 400,
    device: str = "auto",
    resume: bool = False,
    start_from: Path | None = None,
    notes: dict[str, str] | None = None,
    callback: Callback = lambda step, metrics: None,
) -> Path:
    """Train a :class:`Generator` and return the file of its weights, ``out/weights.safetensors``.

    In rounds: for each of ``pool`` pictures the nearest of ``samples`` codes is chosen, module by module
    (:func:`hierarchical_search`), then ``round_steps`` steps bring what the chosen codes make nearer to the pictures.

    Args:
        config: the network's own arguments, ``task`` at least. For "paint" the data are those of
            :func:`.layouts.load`.
        samples: codes tried for each module.

    Raises:
        UsageError: ``config`` does not make a network for these pictures, or not the one in ``start_from``.
        WeightsError: ``start_from`` cannot be read.
        and what :func:`basis_cli.training.fit` raises.
    """
    torch.manual_seed(settings.seed)
    shape = settings.shape(data.shape)
    try:
        network = Generator(**config)
    except ValueError as error:
        raise UsageError(str(error), "see basis train imle --help") from error
    _check(network, data, shape, samples)
    if start_from:
        checkpoint.begin_with(network, read(start_from), start_from)
    pool = min(pool, len(data.images))
    seen = tuple(observed(network.task, torch.zeros(1, *shape), torch.Generator(), network.factor).shape[1:])
    model, distance = Chosen(network, pool, seen), FeatureDistance()

    def begin(model: nn.Module, x: Tensor, round_: int) -> None:
        """Choose codes for a round's pictures ``x``."""
        assert isinstance(model, Chosen)
        distance.to(x.device)
        generator = torch.Generator(x.device).manual_seed(samplers.image_seed(settings.seed, round_))
        model.y.copy_(torch.cat([observed(network.task, part, generator, network.factor) for part in x.split(32)]))
        tried = candidates(settings.seed, round_, len(x), samples)
        model.seeds.copy_(hierarchical_search(model.network, model.y, x[:, :3], tried, distance)[0])

    def loss(model: nn.Module, x: Tensor, generator: torch.Generator, places: Tensor) -> Tensor:
        return imle_loss(model, x, places, distance)  # type: ignore[arg-type]

    tests = torch.from_numpy(held_out.images[:64]).float() / 255

    @torch.no_grad()
    def evaluate(average: Any) -> dict[str, float]:
        """The distance of the nearest of ten answers, and how far answers to one picture are apart."""
        place = next(average.parameters()).device
        x = tests[: len(tests) // 16 * 16 or len(tests)].to(place)
        y = observed(network.task, x, torch.Generator(place).manual_seed(0), network.factor)
        several = torch.stack([answers(average.network, y, [i] * len(x), _size(x)) for i in range(10)])
        each = torch.stack([distance(one, x[:, :3]) for one in several])
        near = float(each.min(0).values.mean())
        return {"held_out_loss": near, "mean_of_ten": float(each.mean()), "std": float(several.std(0).mean())}

    @torch.no_grad()
    def sheet(average: Any, path: Path) -> None:
        place = next(average.parameters()).device
        x = tests[:12].to(place)
        y = observed(network.task, x, torch.Generator(place).manual_seed(0), network.factor)
        rows = [answers(average.network, y, [i] * len(x), _size(x)) for i in range(5)]
        write_sheet(path, torch.cat([*rows, x[:, :3]]).clamp(0, 1).cpu().numpy(), columns=len(x))

    training.fit(
        model,
        loss,
        data.images,
        settings,
        out,
        device=device,
        resume=resume,
        architecture=network.config | {"samples": list(samples), "pool": pool, "round_steps": round_steps},
        rounds=training.Rounds(pool, round_steps, begin),
        export=lambda average, path: save(path, average.network, notes or {}),  # type: ignore[arg-type, union-attr]
        sheet=sheet,
        evaluate=evaluate,
        callback=callback,
    )
    return out / "weights.safetensors"


def answers(network: Generator, y: Tensor, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
    """A picture ``(n, 3, *size)`` of each ``y``, from its own seed."""
    each = torch.tensor([[samplers.image_seed(seed, i) for i in range(len(network.parts))] for seed in seeds])
    return network(y, codes(each, network.lengths(size), y.device), size)[-1]


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def _check(network: Generator, data: Dataset, shape: tuple[int, int, int], samples: Sequence[int]) -> None:
    """Raise a :class:`UsageError` if the network cannot learn from these pictures."""
    channels, h, w = shape
    if channels != (4 if network.task == "paint" else 3):
        raise UsageError(
            f"{data.name} has pictures of {channels} channels", "pictures in colour; with layouts to paint"
        )
    if network.task == "upscale" and (h % network.factor or w % network.factor):
        raise UsageError(f"{w} x {h} pixels cannot be shrunk {network.factor} times")
    if h % network.stride or w % network.stride:
        raise UsageError(f"{w} x {h} pixels are no multiples of {network.stride}", "another --size, or fewer modules")
    if len(samples) != len(network.parts) or min(samples) < 1:
        raise UsageError(f"{len(network.parts)} modules need as many counts of samples above zero")
