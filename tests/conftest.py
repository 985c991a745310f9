from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import settings

from basis_cli import plugins
from basis_cli.api import SamplerSpec
from basis_cli.data.datasets import Dataset

# The first call pays for imports, and a shared machine is slow at times; the same examples every time.
settings.register_profile("basis", deadline=None, derandomize=True)
settings.load_profile("basis")


@pytest.fixture
def drawn_from():
    """A function of a prior and a number: so many samples of it as a data set of 8-bit pictures."""

    def drawn(prior, n: int) -> Dataset:
        pixels = prior.sample(n, torch.Generator().manual_seed(0)).mul(255).round().clamp(0, 255).to(torch.uint8)
        return Dataset("samples", "test", pixels.numpy(), np.arange(n) % 10)

    return drawn


@pytest.fixture
def sampler(monkeypatch):
    """``sampler("name", function)``: a sampler of that name, as a plugin would bring it."""

    def add(name: str, function) -> None:
        module = ModuleType(f"sampler_{name}")
        module.draw = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        specs = plugins.sampler_specs() | {name: SamplerSpec(name, "", f"{module.__name__}:draw")}
        monkeypatch.setattr(plugins, "sampler_specs", lambda: specs)

    return add
