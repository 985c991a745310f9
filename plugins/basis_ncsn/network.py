"""Noise-conditional score networks by name: plain modules with one method in common, ``score(x, sigma)``."""

from __future__ import annotations

from torch import nn

from .refinenet import RefineNet, ResNet
from .unet import UNet

NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet, "refinenet": RefineNet, "resnet": ResNet}
