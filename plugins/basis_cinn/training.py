"""``basis train cinn`` and ``cinn-colour``: maximum likelihood of pictures given their class, of colours given gray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from basis_cli.api import Dataset, UsageError, bits_per_dim, checkpoint, training, write_sheet

from . import lab
from .files import read, save
from .network import ClassFlow, ColourFlow

FITTED = 20_000  # pictures that principal directions are taken from

Callback = Callable[[int, dict[str, float]], None]


def no_callback(step: int, metrics: dict[str, float]) -> None:
    """Does nothing; called as that of :func:`basis_cli.training.fit`."""


def noisy(x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """``x`` with white noise of standard deviation ``noise``."""
    return x + noise * torch.randn(x.shape, generator=generator, device=x.device)


def class_bits(network: nn.Module, x: Tensor, generator: torch.Generator, labels: Tensor, noise: float) -> Tensor:
    """Mean bits/dim of pictures ``x`` with noise, given their ``labels`` ``(n,)``."""
    return bits_per_dim(network(noisy(x, noise, generator), labels), x[0].numel()).mean()


@torch.no_grad()
def measured(network: ClassFlow, pictures: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean bits/dim of noisy ``pictures`` given their ``labels``, and the share of labels that Bayes' rule finds."""
    generator = torch.Generator(pictures.device).manual_seed(0)
    x = noisy(pictures, network.noise, generator)
    each = torch.cat([network.log_probs(part) for part in x.split(500)])
    own = each.gather(1, labels[:, None])[:, 0]
    return {
        "bits_per_dim": float(bits_per_dim(own, network.size).mean()),
        "bayes_accuracy": float((each.argmax(1) == labels).float().mean()),
    }


def train_classes(
    data: Dataset,
    held_out: Dataset,
    out: Path,
    settings: training.Settings,
    *,
    config: dict[str, Any] | None = None,
    device: str = "auto",
    resume: bool = False,
    start_from: Path | None = None,
    notes: dict[str, str] | None = None,
    callback: Callback = no_callback,
) -> Path:
    """Train a :class:`ClassFlow` on ``data`` and its labels, and return the file of its weights.

    ``config`` are the network's own arguments; ``start_from`` is a file of such a network's weights.

    Raises:
        UsageError: the pictures have no classes, or ``config`` does not make a network for them, or not the one in
            ``start_from``.
        WeightsError: ``start_from`` cannot be read.
        and what :func:`basis_cli.training.fit` raises.
    """
    classes = int(data.labels.max()) + 1
    if classes < 2:
        raise UsageError(f"{data.name} says nothing of classes", "--data mnist")
    torch.manual_seed(settings.seed)
    try:
        network = ClassFlow(data.shape, classes=classes, **config or {})
    except ValueError as error:
        raise UsageError(str(error), "see basis train cinn --help") from error
    if start_from:
        checkpoint.begin_with(network, read(start_from), start_from)
    elif network.principal is not None:
        chosen = torch.linspace(0, len(data.images) - 1, min(FITTED, len(data.images))).long()
        network.principal.fit(data[chosen.numpy()].flatten(1))

    def loss(model: nn.Module, x: Tensor, generator: torch.Generator, labels: Tensor) -> Tensor:
        return class_bits(model, x, generator, labels, network.noise)

    def evaluate(average: Any) -> dict[str, float]:
        place = next(average.parameters()).device
        found = measured(average, held_out[:1000].to(place), torch.as_tensor(held_out.labels[:1000]).long().to(place))
        return found | {"held_out_loss": found["bits_per_dim"]}

    @torch.no_grad()
    def sheet(average: Any, path: Path) -> None:
        place = next(average.parameters()).device
        y = torch.arange(classes, device=place).repeat_interleave(8)
        z = torch.randn(len(y), average.size, generator=torch.Generator(place).manual_seed(0), device=place)
        x = average.decode(0.88 * z, y).nan_to_num(0).clamp(0, 1).cpu()
        write_sheet(path, x.numpy(), columns=8)

    training.fit(
        network,
        loss,
        data.images,
        settings,
        out,
        labels=data.labels,
        device=device,
        resume=resume,
        architecture=network.config | {"shape": list(network.shape)},
        export=lambda average, path: save(path, average, notes or {}),  # type: ignore[arg-type]
        sheet=sheet,
        evaluate=evaluate,
        callback=callback,
    )
    return out / "weights.safetensors"


GRAY = 3.0
"""Mean difference of channels, in 8-bit levels, up to which a picture is gray: it says nothing of colours."""


def in_colour(images: np.ndarray) -> np.ndarray:
    """Those of ``(n, 3, h, w)`` uint8 that are not gray."""
    spread = [np.ptp(part.astype(np.int16), axis=1).mean(axis=(1, 2)) for part in np.array_split(images, 100)]
    return images[np.concatenate(spread) > GRAY]


def colour_loss(network: nn.Module, x: Tensor, generator: torch.Generator, noise: float) -> Tensor:
    """Mean of ``-log p(colours | lightness)`` in nats a number, of pictures ``x`` ``(n, 3, h, w)``."""
    lightness, colours = lab.to_lab(x)
    return -network(noisy(colours, noise, generator), lightness).mean() / colours[0].numel()


def pretraining_loss(network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """Mean square error of the colours that :class:`Regression` expects."""
    lightness, colours = lab.to_lab(x)
    return (network(lightness) - colours).square().mean()


class Regression(nn.Module):
    """A conditioning network that says what colours it expects: what a fixed one is trained for beforehand."""

    def __init__(self, condition: nn.Module, features: int):
        super().__init__()
        self.condition, self.last = condition, nn.Conv2d(features, 2, 1)

    def forward(self, lightness: Tensor) -> Tensor:
        return self.last(self.condition(lightness)[0])


def train_colours(
    data: Dataset,
    held_out: Dataset,
    out: Path,
    settings: training.Settings,
    *,
    config: dict[str, Any] | None = None,
    device: str = "auto",
    resume: bool = False,
    start_from: Path | None = None,
    notes: dict[str, str] | None = None,
    callback: Callback = no_callback,
) -> Path:
    """Train a :class:`ColourFlow` on pictures of ``data``, gray ones left out, and return the file of its weights.

    ``config`` are the network's own arguments. A "fixed" conditioning network is trained first, by as many steps, to
    expect colours (``out/condition``), and then no more.

    Raises:
        UsageError: the pictures are gray or no squares, or ``config`` does not make a network for them, or not the one
            in ``start_from``.
        WeightsError: ``start_from`` cannot be read.
        and what :func:`basis_cli.training.fit` raises.
    """
    channels, height, width = settings.shape(data.shape)
    if channels != 3 or height != width:
        raise UsageError(f"{data.name} has no square pictures in colour", "--data color-mnist, or a folder of pictures")
    images, tests = in_colour(data.images), in_colour(held_out.images)[:500]
    if not len(images) or not len(tests):
        raise UsageError(f"all pictures of {data.name} are gray", "choose others")
    torch.manual_seed(settings.seed)
    try:
        network = ColourFlow(height, **config or {})
    except ValueError as error:
        raise UsageError(str(error), "see basis train cinn-colour --help") from error
    begun = training.to_be_continued(out, resume)
    if start_from:
        checkpoint.begin_with(network, read(start_from), start_from)
    elif network.conditioning == "fixed" and not begun:
        _pretrain(network, images, out / "condition", settings, device)
    if network.conditioning == "fixed":
        assert network.condition is not None
        network.condition.requires_grad_(False)

    def loss(model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return colour_loss(model, x, generator, network.noise)

    @torch.no_grad()
    def evaluate(average: Any) -> dict[str, float]:
        place = next(average.parameters()).device
        generator = torch.Generator(place).manual_seed(0)
        parts = torch.from_numpy(tests).to(place).split(50)
        losses = [colour_loss(average, part / 255, generator, network.noise) * len(part) for part in parts]
        return {"held_out_loss": float(sum(losses)) / len(tests)}

    @torch.no_grad()
    def sheet(average: Any, path: Path) -> None:
        place = next(average.parameters()).device
        truth = torch.from_numpy(tests[:8]).to(place) / 255
        lightness, _ = lab.to_lab(truth)
        z = torch.randn(4, len(truth), average.size, generator=torch.Generator(place).manual_seed(0), device=place)
        rows = [lab.to_rgb(lightness, average.decode(each, lightness)) for each in z]
        write_sheet(
            path,
            torch.cat([lab.to_rgb(lightness, lab.neutral(lightness)), *rows, truth]).nan_to_num(0).cpu().numpy(),
            columns=8,
        )

    training.fit(
        network,
        loss,
        images,
        settings,
        out,
        device=device,
        resume=resume,
        architecture=network.config,
        export=lambda average, path: save(path, average, notes or {}),  # type: ignore[arg-type]
        sheet=sheet,
        evaluate=evaluate,
        callback=callback,
    )
    return out / "weights.safetensors"


def _pretrain(network: ColourFlow, images: np.ndarray, out: Path, settings: training.Settings, device: str) -> None:
    """Train the conditioning network of ``network`` alone, in the folder ``out``."""
    assert network.condition is not None
    regression = Regression(network.condition, network.config["features"][0])
    found = training.fit(regression, pretraining_loss, images, settings, out, device=device, resume=True)
    network.condition.load_state_dict(found.condition.cpu().state_dict())  # type: ignore[operator, union-attr]
