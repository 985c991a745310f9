from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings

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
