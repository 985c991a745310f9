"""A score network in diffusers' format: a folder that their pipelines and EDM schedulers take. Needs diffusers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, EDMEulerScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from basis_cli.api import WeightsError, checkpoint

from .prior import read
from .training import SIGMAS
from .unet import UNet


class ScoreUNet(ModelMixin, ConfigMixin):
    """:class:`UNet` for schedulers that precondition: over pictures in [-1, 1], whose mean they take to be zero.

    ``network`` are the arguments of the U-Net; the rest is what diffusers calls a network's shape.
    """

    @register_to_config
    def __init__(self, sample_size: tuple[int, int], in_channels: int, out_channels: int, network: dict[str, Any]):
        super().__init__()
        self.unet = UNet(**network)

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> Any:
        """What the scheduler takes for ``F(c_in x, c_noise)``: ``timestep`` is ``c_noise = log(sigma) / 4``, one for
        all pictures ``sample`` ``(n, c, h, w)``."""
        c_noise = torch.as_tensor(timestep, device=sample.device).reshape(-1)[:1].to(sample.dtype)
        mean, std = 2 * self.unet.mean - 1, 2 * self.unet.std
        sigma = torch.exp(4 * c_noise)[:, None, None, None]
        c_in = (sigma**2 + std**2).rsqrt()
        raw = self.unet.raw(sample - c_in * mean, c_noise - math.log(2) / 4).float()
        raw = raw + mean * sigma / std * c_in  # the scheduler scales all of x, we only what differs from the mean
        return _Output(raw) if return_dict else (raw,)


class _Output:
    def __init__(self, sample: Tensor):
        self.sample = sample


def export(weights: Path, folder: Path) -> None:
    """Write the score network in ``weights`` as a pipeline of diffusers, which ``diffusers:FOLDER`` reads again.

    Raises:
        WeightsError: not a score network, or not a U-Net.
    """
    network, (channels, height, width) = read(weights)
    with checkpoint.opened(weights, "basis-ncsn", "a score network", "") as (_, about):
        config = json.loads(about["config"])
    if not isinstance(network, UNet):
        raise WeightsError(f"{weights} holds a {about['backbone']}", "only a unet has a form in diffusers")
    exported = ScoreUNet([height, width], channels, channels, config)  # type: ignore[arg-type]  # lists, as in JSON
    exported.unet.load_state_dict(network.state_dict())
    low, high = 2 * SIGMAS[0], 2 * network.sigma_max
    scheduler = EDMEulerScheduler(sigma_min=low, sigma_max=high, sigma_data=2 * network.std)
    DDPMPipeline(exported, scheduler).save_pretrained(folder)
