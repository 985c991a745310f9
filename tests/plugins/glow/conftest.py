"""What the tests of Glow share: small models with no zeros in them, pictures, short trainings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from basis_glow import prior, training
from basis_glow.network import Glow
from torch import Tensor

from basis_cli.api import PriorSpec
from basis_cli.data.datasets import Dataset
from basis_cli.training import Settings

TINY = {"levels": 2, "depth": 2, "width": 8}


TINY = {"levels": 2, "depth": 2, "width": 8}
QUICK = {"steps": 6, "batch": 8, "warmup": 2, "save_every": 2, "optimizer": "adam", "bf16": False}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def roughened(net: Glow, amount: float = 0.05) -> Glow:
    """``net`` with noise on every parameter: as initialized, some are zero and hide what is behind them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in filter(lambda p: p.requires_grad, net.parameters()):
            parameter += amount * torch.randn(parameter.shape, generator=generator)
    return net


def glow(shape=(1, 8, 8), conditional=False, **config) -> Glow:
    return roughened(Glow(shape, **TINY | config, conditional=conditional)).requires_grad_(False)


def pictures(n: int, shape=(1, 8, 8)) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


def correlated(n: int) -> Tensor:
    """Pictures of 8 x 8 pixels about 0.4 with four directions of large variance, and a little in all others."""
    generator = torch.Generator().manual_seed(2)
    patterns = torch.randn(4, 64, generator=generator) / 7
    flat = torch.randn(n, 4, generator=generator) @ patterns + 0.02 * torch.randn(n, 64, generator=generator)
    return (0.4 + flat).view(n, 1, 8, 8)


def whitened(**config) -> Glow:
    net = glow(conditional=True, whiten=6, **config)
    net.whitening.fit(correlated(500))
    return net


def saved(path: Path, sigma: float | None = None, shape=(1, 8, 8), seed: int = 0) -> Glow:
    torch.manual_seed(seed)
    net = glow(shape, conditional=sigma is None)
    prior.save(path, net, sigma, {"data": "none"})
    return net


def spec(shape=(1, 8, 8)) -> PriorSpec:
    return PriorSpec(name="small", summary="", shape=shape, load="basis_glow.prior:load")


def tiny(split: str, shape=(1, 8, 8)) -> Dataset:
    """Soft gray ramps: easy enough that a few steps help."""
    rng = np.random.default_rng(len(split))
    ramps = 60 + 12 * np.arange(8)[None, :] + rng.integers(0, 40, (40, 1, 1))
    return Dataset("tiny", split, np.broadcast_to(ramps[:, None], (40, *shape)).astype(np.uint8), np.zeros(40, int))


def train(
    out: Path,
    conditional: bool = False,
    resume: bool = False,
    score_matching: float = 0.0,
    whiten: int = 0,
    smooth: bool = False,
    start_from: Path | None = None,
    images: np.ndarray | None = None,
    **settings,
) -> Path:
    return training.train(
        tiny("train") if images is None else Dataset("given", "train", images, np.zeros(len(images), int)),
        tiny("test"),
        out,
        Settings(**QUICK | settings),
        config=TINY | {"conditional": conditional, "whiten": whiten, "smooth": smooth},
        device="cpu",
        resume=resume,
        start_from=start_from,
        score_matching=score_matching,
    )


def climb(start: Path, out: Path, sigmas=(0.01, 0.1), resume: bool = False, **more) -> Path:
    settings = Settings(**QUICK | {"learning_rate": 1e-3} | more.pop("settings", {}))
    return training.finetune(
        tiny("train"),
        tiny("test"),
        out,
        settings,
        start_from=start,
        sigmas=sigmas,
        device="cpu",
        resume=resume,
        **more,
    )


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("start"))


def given(function: Callable) -> Callable:
    """A fixture that is ``function`` itself: test files cannot import from here."""
    return pytest.fixture(scope="session", name=function.__name__)(lambda: function)


given_roughened = given(roughened)
given_glow = given(glow)
given_pictures = given(pictures)
given_correlated = given(correlated)
given_whitened = given(whitened)
given_saved = given(saved)
given_spec = given(spec)
given_tiny = given(tiny)
given_train = given(train)
given_climb = given(climb)
