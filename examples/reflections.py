"""Synthetic reflections and what `basis separate --mixing reflection` makes of them: docs/results/photographs.md.

python examples/reflections.py FOLDER [FOLDER ...] [--count 60] [--seed 1] [--sheet FILE]

Each window is `min(1, x1 + b B x2)` of two photographs of the folders, drawn without replacement, in 8 bits: a
reflection of a brightness b between .15 and .4, blurred by 2 to 4 pixels.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

import basis_cli

BRIGHTNESS, BLUR = (0.15, 0.4), (2, 4)
LIGHT = 0.12
"""What reflections like these add on average, of 300 train pictures."""


def read(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"), np.float32) / 255


def windows(files: list[Path], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Backgrounds and windows ``(n, h, w, 3)``."""
    draw = random.Random(seed)
    draw.shuffle(files)
    backgrounds, seen = [], []
    for i in range(count):
        background, other = read(files[2 * i]), read(files[2 * i + 1])
        brightness, blur = draw.uniform(*BRIGHTNESS), draw.uniform(*BLUR)
        reflection = brightness * gaussian_filter(other, (blur, blur, 0))
        backgrounds.append(background)
        seen.append(np.round((background + reflection).clip(0, 1) * 255) / 255)
    return np.stack(backgrounds), np.stack(seen)


def psnr(x: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return -10 * np.log10(np.square(x.clip(0, 1) - truth).mean((1, 2, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sheet", type=Path, help="PNG file of the first six: window, x1, x2, truth")
    given = parser.parse_args()
    files = [file for folder in given.folders for file in sorted(folder.iterdir())]
    truth, seen = windows(files, given.count, given.seed)
    answers = []
    for first in range(0, given.count, 4):
        y = np.ascontiguousarray(seen[first : first + 4].transpose(0, 3, 1, 2))
        result = basis_cli.separate(y, mixing="reflection", prior="ncsn-photo")
        answers.append(result.components[:, :, 0].numpy().transpose(0, 1, 3, 4, 2))
    x = np.concatenate(answers, axis=1)
    rows = {"window": seen, "window - light": seen - LIGHT, "x1": x[0]}
    before = psnr(seen, truth)
    for name, pictures in rows.items():
        value = psnr(pictures, truth)
        gain = value - before
        error = [each.std(ddof=1) / len(each) ** 0.5 for each in (value, gain)]
        print(f"{name:15s} {value.mean():.2f} +- {error[0]:.2f} dB, gain {gain.mean():.2f} +- {error[1]:.2f}")
    if given.sheet:
        shown = [np.concatenate(list(each[:6]), axis=1) for each in (seen, x[0], x[1], truth)]
        Image.fromarray((np.concatenate(shown).clip(0, 1) * 255).round().astype(np.uint8)).save(given.sheet)


main()
