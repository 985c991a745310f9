"""The answers for one input as files, and what a record says of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.tags import Tags
    from ..posterior import Result
    from .inputs import Place


def numbers(values: Tensor, digits: int) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [None if math.isnan(value) else round(value, digits) for value in values.tolist()]


def component_files(base: Path, k: int, answers: int, place: Place) -> list[list[Path]]:
    """``BASE.x1.png ...`` of one answer; ``BASE.s1.x1.png ...`` of each of several; the one picture that is named."""
    if place.stem is not None and k == answers == 1:
        return [[Path(f"{base}{place.ending}")]]
    prefixes = [""] if answers == 1 else [f".s{i + 1}" for i in range(answers)]
    return [[Path(f"{base}{prefix}.x{i + 1}{place.ending}") for i in range(k)] for prefix in prefixes]


def std_files(base: Path, k: int) -> list[Path]:
    """``BASE.x1.std.png ...``"""
    return [Path(f"{base}.x{i + 1}.std.png") for i in range(k)]


def listed(record: Path) -> set[Path]:
    """The files beside it that a ``record`` lists; none if it is not there or is damaged."""
    try:
        about = json.loads(record.read_text())
        names = [name for answer in about["answers"] for name in answer["components"]]
        names += [*about.get("uncertainty", {}).get("files", []), *about.get("frames", [])]
        names += [about.get("sheet", ""), about.get("samples", "")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    return {record.with_name(Path(name).name) for name in names if name}


def write_answers(
    base: Path, result: Result, place: Place, opacity: np.ndarray | None, tags: Tags
) -> list[dict[str, Any]]:
    """Write the components of each answer, and return what a record says of them."""
    from ..data import images
    from ..posterior.ranking import bits_per_dim

    k, _, samples = result.components.shape[:3]
    answers = []
    for sample, files in enumerate(component_files(base, k, samples, place)):
        for i, file in enumerate(files):
            pixels = result.components[i, 0, sample].numpy()
            images.write_picture(file, pixels, bits=place.bits, opacity=opacity, tags=tags)
        answer: dict[str, Any] = {
            "components": [str(file) for file in files],
            "residual_8bit_rms": numbers(result.residual[0, sample : sample + 1], 4)[0],
        }
        if result.alpha is not None:
            alpha = result.alpha[:, 0, sample]  # (k,), or (k, m) of several observations, which a record has as rows
            answer["alpha"] = numbers(alpha, 4) if alpha.ndim == 1 else [numbers(row, 4) for row in alpha.T]
        if result.alpha_spread is not None:
            answer["alpha_spread"] = round(float(result.alpha_spread[0, sample]), 4)
        if result.surprise is not None:
            answer["surprise"] = numbers(result.surprise[:, 0, sample], 3)
        if result.psnr is not None:
            answer["psnr_db"] = numbers(result.psnr[:, 0, sample], 3)
        if result.log_prob is not None:
            nats = result.log_prob[:, 0, sample]
            bits = bits_per_dim(nats, result.components[0, 0, 0].numel())
            answer["log_prob_nats"] = numbers(nats, 2)
            answer["bits_per_dim"] = numbers(bits, 4)
        answers.append(answer)
    return answers


def write_std(base: Path, result: Result) -> dict[str, Any]:
    """Write each component's standard deviation, white at a quarter, and return what a record says of it."""
    from ..data import images

    assert result.std is not None, "uncertainty is refused for a single sample"
    std = result.std[:, 0].clamp_max(0.25)
    files = std_files(base, len(std))
    for file, component in zip(files, std, strict=True):
        images.write_png(file, images.to_pillow((4 * component).numpy()))
    means = [round(float(component.mean()), 5) for component in result.std[:, 0]]
    found: dict[str, Any] = {"files": [str(file) for file in files], "white": 0.25, "mean_std": means}
    if result.draws is not None:
        found |= {"draws": result.draws.shape[2], "answers": [round(weight, 4) for weight in result.weights[0]]}
    return {"uncertainty": found}


def write_sheet(path: Path, result: Result, references: list[np.ndarray]) -> None:
    """A row for each component: the input (in the first), the answers, and the truth if it is known."""
    from ..data import images

    answers = result.components[:, 0].numpy()
    k, _, c, h, w = answers.shape
    seen = images.filled(result.y[0, :c].numpy(), (c, h, w))
    rows = []
    for i in range(k):
        rows += [seen if i == 0 else np.ones_like(seen), *answers[i], *references[i : i + 1]]
    images.write_sheet(path, np.stack(rows), columns=len(rows) // k)


def write_samples(path: Path, result: Result) -> None:
    """All samples of one input as the sampler left them, most probable first: a row for each component."""
    from ..data import images

    x = result.ranked[0].x
    images.write_sheet(path, x.flatten(0, 1).numpy(), columns=x.shape[1])
