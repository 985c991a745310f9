from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores: a thread each, before torch counts them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

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


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


@pytest.fixture(scope="session")
def chromium():
    """A browser, if there is one: Debian's chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, to drive a browser")
    if not CHROMIUM:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def browser(chromium):
    """A context of its own: no cookies of another test."""
    context = chromium.new_context(accept_downloads=True)
    yield Pages(context)
    context.close()


class Pages:
    """Opens pages; one of another colour scheme or size in a context of its own."""

    def __init__(self, context):
        self.context = context

    def new_page(self, **options):
        return self.context.browser.new_page(**options) if options else self.context.new_page()


@pytest.fixture
def axe():
    """``axe(page)``: its serious faults of accessibility, by axe-core; none found if that is not there."""
    file = Path(os.environ.get("AXE", "node_modules/axe-core/axe.min.js"))

    def faults(page) -> list[str]:
        if not file.is_file():
            return []
        page.evaluate(file.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run().then(result => result.violations)")
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        return [f"{each['id']}: {node['html'][:200]}" for each in serious for node in each["nodes"]]

    return faults
