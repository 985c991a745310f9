"""color-MNIST: digits in one colour on another, both known but for noise from the digit (Ardizzone et al. 2019)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from basis_cli.api import InputError, datasets

HUES = ((0, 20), (50, 10), (110, 30), (180, 20), (235, 25), (305, 25))  # degrees: mean and standard deviation
PAIRS = ((0, 2), (1, 3), (2, 4), (3, 5), (4, 0), (5, 1), (0, 4), (2, 0), (4, 2), (5, 3))  # digit, background
STRENGTH = 0.8  # saturation and value of both


def load(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures ``(n, 3, 28, 28)`` uint8 and labels of the digits ``(n,)``, made of MNIST's files in ``folder``.

    Hue and saturation have smooth noise, value white noise; each split is always the same.
    """
    try:
        digits = datasets.load_dataset("mnist", split, folder)
    except InputError as error:
        raise FileNotFoundError(folder) from error
    rng = np.random.default_rng(split == "test")
    parts = [slice(first, first + 1000) for first in range(0, len(digits.labels), 1000)]
    coloured = [_coloured(digits.images[part, 0] / np.float32(255), digits.labels[part], rng) for part in parts]
    return np.concatenate(coloured), digits.labels


def _coloured(ink: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Digits ``(n, h, w)`` in [0, 1] as ``(n, 3, h, w)`` uint8."""
    means, deviations = np.array(HUES, float).T
    pairs = np.array(PAIRS)[labels]
    hues = (means[pairs] + deviations[pairs] * rng.standard_normal(pairs.shape)).astype(np.float32)
    rgb = np.zeros((len(ink), 3, *ink.shape[1:]), np.float32)
    for hue, share in zip(hues.T, (ink, 1 - ink), strict=True):
        rgb += share[:, None] * _rgb(
            hue[:, None, None] / 360 + 0.25 * _smooth(rng, ink.shape, 4),
            STRENGTH + 0.3 * _smooth(rng, ink.shape, 2),
            STRENGTH + 0.05 * rng.standard_normal(ink.shape, np.float32),
        )
    return (rgb * 255 + 0.5).astype(np.uint8)


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """White noise blurred by a Gaussian of ``sigma`` pixels."""
    return gaussian_filter(rng.standard_normal(shape, np.float32), (0, sigma, sigma), truncate=3)


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Hue, in turns, saturation and value ``(n, h, w)`` as red, green and blue ``(n, 3, h, w)``."""
    saturation, value = saturation.clip(0, 1)[:, None], value.clip(0, 1)[:, None]
    distance = np.abs(
        (hue[:, None] * 6 - np.array([0, 2, 4], np.float32)[:, None, None]) % 6 - 3
    )  # 3 at the primary itself
    return value * (1 - saturation * (1 - (distance - 1).clip(0, 1)))
