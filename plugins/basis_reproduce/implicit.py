"""The experiments of conditional IMLE (TIM / CHIMLE, Peng, Moazeni & Li 2022): how many modules, how many codes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from basis_imle.files import read
from basis_imle.layouts import drawn, load
from basis_imle.model import Imle
from basis_imle.training import observed, train
from torch import Tensor

from basis_cli.api import UsageError, diversity, imagenet, training

from . import Report, Row, Setup
from .figures import sheet

MODULES: dict[int, dict[str, Any]] = {
    1: {"channels": (24,), "growth": (12,), "blocks": (2,)},
    4: {"channels": (32, 24, 24, 24), "growth": (12, 12, 12, 12), "blocks": (1, 1, 1, 1)},
}
"""Small networks of one module and of four, for pictures of 32 x 32."""
SHARES = (1 / 3, 1 / 3, 1 / 5)
"""Of the codes tried for a picture, those for each of the coarse modules; the rest is for the last."""
PUBLISHED_MODULES = {1: (94.84, 0.0513, 0.00301, 0.000110), 4: (72.75, 0.0495, 0.00380, 0.000223)}
PUBLISHED_SAMPLES = {10: 79.54, 60: 76.20, 120: 72.75}
PUBLISHED_LAYOUT = (59.71, 0.0254, 0.000980, 0.000011)
DISTANCES = "published FID, ours imagenet-FD"
COMPARED = (
    "The published distances are FID at 256 x 256 and variances in LPIPS, ours are both on EfficientNet-Lite0's "
    "features: the order is what can be compared. "
)
QUICK = COMPARED + (
    "Ours are small networks that learn to undo JPEG of quality 5 to 10 on CIFAR-10, at equal steps; the published "
    "ones were trained a hundred epochs and more."
)


def _tried(count: int, modules: int) -> list[int]:
    """``count`` codes, shared among ``modules``."""
    if modules == 1:
        return [count]
    coarse = [max(1, round(share * count)) for share in SHARES]
    return [*coarse, max(1, count - sum(coarse))]


def _trained(setup: Setup, folder: Path, modules: int, codes: int, **how: Any) -> Imle:
    """A network that undoes JPEG on CIFAR-10, after ``steps`` of training in ``folder``, which goes on from there."""
    data, test = setup.data("cifar10", "train"), setup.data("cifar10")
    steps, batch = how["iterations"], how["batch"]
    settings = training.Settings(
        steps=steps, batch=batch, learning_rate=5e-4, optimizer="adam", decay="constant", warmup=20, flip=True
    )
    path = train(
        data,
        test,
        folder,
        settings,
        config={"task": "decompress", **MODULES[modules]},
        samples=_tried(codes, modules),
        pool=how["pool"],
        round_steps=max(1, how["pool"] * 6 // batch),
        device=setup.device,
        resume=True,
        callback=lambda step, metrics: setup.say(f"{modules} modules, {codes} codes, step {step} of {steps}"),
    )
    return Imle(read(path), (32, 32))


def _damaged(setup: Setup, count: int) -> tuple[Tensor, Tensor]:
    """Test pictures of CIFAR-10 ``(n, 3, 32, 32)`` and what JPEG leaves of them."""
    truth = setup.data("cifar10")[:count]
    generator = torch.Generator().manual_seed(setup.seed)
    return truth, torch.cat([observed("decompress", one, generator) for one in truth.split(1)])


def _measured(setup: Setup, each: Tensor, truth: Tensor) -> dict[str, Any]:
    """The Frechet distance of first samples, and the variances of all, with their standard errors."""
    network = imagenet.imagenet(setup.device)
    varied = diversity.diversity(network, each, truth)
    distance = diversity.likeness(network, {"first": each[:, 0]}, truth)["first"]["imagenet-FD"]
    names = [f"FWV {bandwidth:g}" for bandwidth in diversity.BANDWIDTHS]
    return {"imagenet-FD": distance} | {name: list(varied[name].values()) for name in names}


def _rows(what: str, published: Sequence[float], found: dict[str, Any]) -> list[Row]:
    distance, *variances = found
    rows = [Row(f"Frechet distance, {what}", published[0], found[distance], None, DISTANCES)]
    for name, value in zip(variances, published[1:], strict=True):
        rows.append(Row(f"{name}, {what}", value, *found[name]))
    return rows


def modules(setup: Setup, *, iterations: int, batch: int, pool: int, codes: int, pictures: int, samples: int) -> Report:
    """Tables 8 and 9: one module that tries all codes at once, and four that try them one after the other."""
    truth, y = _damaged(setup, pictures)
    rows, shown = [], [y, truth]
    for count, published in PUBLISHED_MODULES.items():
        with tempfile.TemporaryDirectory() as folder:
            model = _trained(setup, Path(folder), count, codes, iterations=iterations, batch=batch, pool=pool)
        each = setup.answers(model, y, samples)
        rows += _rows(f"{count} module{'s'[: count - 1]}", published, _measured(setup, each, truth))
        shown += [each[:, 0], each[:, 1]]

    def draw(figure: Any) -> None:
        names = ["given", "truth", "1 module", "another", "4 modules", "another"]
        sheet(figure.subplots(), torch.stack(shown)[:, :12], names)

    return Report(rows, draw, QUICK, size=(6.0, 3.2))


def codes(setup: Setup, *, iterations: int, batch: int, pool: int, pictures: int, samples: int) -> Report:
    """Table 10: four modules, with 10, 60 and 120 codes tried for each picture."""
    truth, y = _damaged(setup, pictures)
    rows, shown = [], [y, truth]
    for count, published in PUBLISHED_SAMPLES.items():
        with tempfile.TemporaryDirectory() as folder:
            model = _trained(setup, Path(folder), 4, count, iterations=iterations, batch=batch, pool=pool)
        each = setup.answers(model, y, samples)
        found = _measured(setup, each, truth)
        distance, varied = found["imagenet-FD"], found["FWV 0.2"]
        rows.append(Row(f"Frechet distance, {count} codes", published, distance, None, DISTANCES))
        rows.append(Row(f"FWV 0.2, {count} codes", None, *varied))
        shown.append(each[:, 0])

    def draw(figure: Any) -> None:
        names = ["given", "truth", *(f"{count} codes" for count in PUBLISHED_SAMPLES)]
        sheet(figure.subplots(), torch.stack(shown)[:, :12], names)

    return Report(rows, draw, QUICK, size=(6.0, 2.8))


def stability(setup: Setup, *, iterations: int, batch: int, pool: int, codes: int, pictures: int, times: int) -> Report:
    """The same inputs and codes in the course of training."""
    truth, y = _damaged(setup, pictures)
    found, steps = [], [iterations * (i + 1) // times for i in range(times)]
    with tempfile.TemporaryDirectory() as folder:
        for step in steps:
            model = _trained(setup, Path(folder), 4, codes, iterations=step, batch=batch, pool=pool)
            found.append(setup.answers(model, y, 1)[:, 0])
    rows = []
    for step, before, after in zip(steps[1:], found[:-1], found[1:], strict=True):
        moved = 255 * (after - before).square().mean((1, 2, 3)).sqrt()
        error = float(moved.std() / len(moved) ** 0.5)
        rows.append(Row(f"rms change of answers up to step {step}, of 255", None, float(moved.mean()), error))

    def draw(figure: Any) -> None:
        names = ["given", *(f"step {step}" for step in steps), "truth"]
        sheet(figure.subplots(), torch.stack([y, *found, truth])[:, :12], names)

    why = (
        "The paper shows an animation of samples that become sharper and stay the same, where those of a GAN change. "
        "Rows are times here, columns inputs: with one code an input keeps its answer while details come."
    )
    return Report(rows, draw, why, size=(6.0, 0.6 * (times + 2)))


def layout(setup: Setup, *, pictures: int, samples: int) -> Report:
    """Tables 6 and 7: streets from their layouts.

    Raises:
        UsageError: no folder of layouts was given.
    """
    model: Imle = setup.model("imle-layout", "paint")
    if "streets" not in setup.folders:
        raise UsageError("this needs streets and their layouts", "--data streets=FOLDER")
    images = load(Path(setup.folders["streets"]), "test").images[:pictures]
    truth = torch.from_numpy(images[:, :3]).float() / 255
    layouts = torch.stack([torch.from_numpy(drawn(classes)) for classes in images[:, 3]])
    each = setup.answers(model.sized((truth.shape[2], truth.shape[3])), layouts, samples)
    rows = _rows("layouts", PUBLISHED_LAYOUT, _measured(setup, each, truth))
    shown = torch.stack([layouts, *each[:, :4].unbind(1), truth])[:, :10]

    def draw(figure: Any) -> None:
        names = [f"sample {i + 1}" for i in range(len(shown) - 2)]
        sheet(figure.subplots(), shown, ["layout", *names, "truth"])

    why = COMPARED + "The published ones are of streets of a game, 256 pixels wide, ours of photographs of 64."
    return Report(rows, draw, why, size=(7.0, 4.2))
