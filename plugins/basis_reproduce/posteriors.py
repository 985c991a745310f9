"""Every posterior of a task on the same photographs: near the truth, like photographs, varied, quick."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from basis_cli.api import Task, UsageError, WeightsError, imagenet, posterior, protocols, samplers, tasks

from . import Report, Row, Setup
from .figures import sheet

PRIOR = "ncsn-photo"
"""What samplers ask, each with the settings of its task's command."""
SHOWN = 8
WHY = (
    "PSNR in dB. imagenet-FD: Frechet distance of one answer to each picture, and FWV: faithfulness-weighted variance "
    "of all, x 10,000, both on EfficientNet-Lite0's features, which no method was trained with. FWV rewards variety "
    "near the truth only. Few pictures make the distance large: compare within a table. Seconds are of all answers to "
    "one picture."
)


def colorize(setup: Setup, **counts: int) -> Report:
    """Photographs of which the luma is given."""
    return _compared(setup, tasks.built_in()["colorize"](), ("cinn-colour", "imle-colour"), **counts)


def upscale(setup: Setup, *, factor: int, **counts: int) -> Report:
    """Photographs of which each pixel stood for ``factor`` x ``factor``."""
    models = ("imle-upscale16",) if factor == 16 else ()
    return _compared(setup, _undoing("upscale", factor=factor), models, **counts)


def decompress(setup: Setup, *, quality: int, **counts: int) -> Report:
    """JPEG files of a low quality."""
    return _compared(setup, _undoing("decompress", quality=quality), ("imle-decompress",), **counts)


def _undoing(verb: str, **damage: int) -> Task:
    """The task that undoes a ``damage`` to whole pictures."""
    kind = tasks.built_in()[verb].damage
    assert kind
    return kind(**damage).task()


def _compared(setup: Setup, task: Task, models: Sequence[str], *, pictures: int, samples: int) -> Report:
    """A sampler and direct ``models`` for one task, and the picture as it was given.

    Raises:
        UsageError: one sample has no variety.
    """
    if samples < 2:
        raise UsageError("the variety of one sample cannot be measured", "--set samples=10")
    data = setup.data(setup.folders.get("photographs", "cifar10"))
    shown, sampling = data[: min(SHOWN, pictures)], posterior.Sampling(seed=setup.seed)
    y = protocols.observed(task, shown[None], sampling)
    ways: dict[str, tuple[Any, Any]] = {PRIOR: (setup.prior(PRIOR), None)}
    left_out: list[str] = []
    rows: list[Row] = []
    for name in models:
        try:
            ways[name] = None, setup.model(name, task.name)
        except WeightsError as error:
            left_out.append(f"{name}: {error.message}")
    drawn = {"given": task.baseline(y, data.shape)}
    for name, (prior, model) in ways.items():
        asked: dict[str, Any] = {"model": model, "name": name, "sampling": sampling}
        measure = partial(
            protocols.evaluate_restoration,
            data,
            prior,
            task,
            **asked,
            pictures=pictures,
            samples=samples,
            compute=setup.compute,
            network=imagenet.imagenet(setup.device),
        )
        found = setup.once(f"{name}: {pictures} pictures, {samples} samples", measure)
        quality = found["quality"]
        rows += _judged("untouched", quality["baseline"]) if not rows else []
        rows += _judged(name, quality["one sample"], quality[f"mean of {samples}"])
        for of, value in found["diversity"].items():
            if of.startswith("FWV"):
                rows.append(Row(name, None, 1e4 * value["mean"], 1e4 * value["standard_error"], of=of))
        rows.append(Row(name, None, found["seconds"] / pictures, of="seconds"))
        drawn[name] = _answers(setup, protocols.restoring(data, prior, task, **asked), y)
    drawn["truth"] = shown

    def draw(figure: Any) -> None:
        sheet(figure.subplots(), torch.stack(list(drawn.values())), list(drawn))

    why = f"{WHY} {pictures} pictures of {setup.album}, {samples} answers to each."
    return Report(rows, draw, why, left_out, size=(7.0, 0.8 * len(drawn)))


def _answers(setup: Setup, asked: Any, y: Tensor) -> Tensor:
    """One answer ``(n, c, h, w)`` to each of ``y``."""
    seeds = samplers.picture_seeds(setup.seed, y, 1)
    found = posterior.drawn(asked, y, seeds, compute=setup.compute, rank=False)
    return torch.stack([one.x[0, 0] for one in found.ranked])


def _judged(name: str, one: dict[str, float], mean: dict[str, float] | None = None) -> list[Row]:
    """How near one answer, and the mean of several, are to the truth, and how much one is like a photograph."""
    near = {"PSNR, one": one} | ({"PSNR, mean": mean} if mean else {})
    rows = [Row(name, None, of["psnr"], of["psnr_standard_error"], of=what) for what, of in near.items()]
    return [*rows, Row(name, None, one["imagenet-FD"], of="imagenet-FD")]
