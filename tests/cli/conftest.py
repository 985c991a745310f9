"""Runs the real application in this process, on small pictures that the toy priors model."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from basis_cli import plugins
from basis_cli.cli.app import app

COLOUR = """
    from basis_cli.api import PriorSpec, hookimpl

    @hookimpl
    def basis_priors():
        return [PriorSpec("blobs", "Soft coloured blobs", (3, 8, 8), load="colour:load")]

    def load(spec, weights, device):
        from basis_toy.prior import soft_blobs
        return soft_blobs(spec.shape)
"""


@pytest.fixture
def basis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``basis("separate", "mix.png", ...)`` in an empty folder, as a user would type it."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """``picture("mix.png", seed=0)`` writes a small gray picture and returns its path."""

    def write(name: str = "mix.png", seed: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
        pixels = np.random.default_rng(seed).integers(60, 200, size, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def digits(tmp_path: Path) -> Callable[..., Path]:
    """``digits(size=8)`` writes MNIST's files with 20 random pictures in each split and returns their folder."""

    def write(size: int = 8) -> Path:
        pixels, labels = np.random.default_rng(0).integers(0, 255, (20, size, size)), np.arange(20) % 10
        for split in ("train", "t10k"):
            for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
                header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
                (tmp_path / f"{split}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
        return tmp_path

    return write


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """``plugin("name", source)`` installs a third-party distribution with that module and entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))
    installed = []

    def install(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[basis]\n{name} = {name}\n")
        installed.append(name)
        plugins.plugins.cache_clear()

    yield install
    plugins.plugins.cache_clear()
    for name in installed:
        sys.modules.pop(name, None)


@pytest.fixture
def colour(plugin):
    """A prior of small colour pictures, ``--prior blobs``."""
    plugin("colour", COLOUR)


@pytest.fixture
def photo(tmp_path):
    """``photo("a.png", (8, 8))`` writes a small colour picture and returns its path."""

    def write(name="photo.png", size=(8, 8), seed=0, **options):
        pixels = np.random.default_rng(seed).integers(60, 200, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name, **options)
        return tmp_path / name

    return write
