"""``basis weights convert ncsn``: the checkpoints that Song & Ermon's code writes, as safetensors."""

from __future__ import annotations

import pickle
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basis_cli.api import WeightsError

from .prior import save
from .refinenet import RefineNet

WRAPPED = ("state_dict", "model_state_dict", "model")
"""Under which names a training script may keep the state dict, beside its epoch and its optimizer."""
PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")
"""What ``DataParallel`` and ``torch.compile`` put before each name."""


def _state_dict(checkpoint: Path) -> dict[str, Tensor]:
    """The network's tensors in ``checkpoint``: ``[state dict, optimizer state]`` as published, the first alone, or as
    others wrap it (:data:`WRAPPED`, :data:`PREFIXES`)."""
    if not checkpoint.is_file():
        raise WeightsError(f"no file {checkpoint}", "give the checkpoint.pth that the authors' code saved")
    try:
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        hint = "only tensors and plain containers are ever loaded: anything else in a pickle could run code"
        raise WeightsError(f"{checkpoint} is no checkpoint, or holds more than weights", hint) from error
    except Exception as error:  # a damaged pickle may raise anything
        reason = textwrap.shorten(str(error), 160)
        raise WeightsError(f"cannot read {checkpoint}: {reason}", "is the download complete?") from error
    if isinstance(loaded, list | tuple) and loaded:
        loaded = loaded[0]
    while isinstance(loaded, Mapping) and (inside := next((loaded[key] for key in WRAPPED if key in loaded), None)):
        loaded = inside
    if not isinstance(loaded, Mapping) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise WeightsError(f"{checkpoint} holds no state dict", "give the checkpoint.pth that the authors' code saved")
    state = {PREFIXES.sub("", str(name), count=1): tensor for name, tensor in loaded.items()}
    if len(state) < len(loaded):
        raise WeightsError(f"{checkpoint} holds several networks", "save the state dict of one of them")
    return state


def _network(state: dict[str, Tensor]) -> tuple[RefineNet, dict[str, int]]:
    """The network whose tensors ``state`` are, and its arguments. Raises ``ValueError`` naming the first misfit."""
    with torch.device("meta"):  # shapes only: nothing is allocated for a checkpoint that does not fit
        misfits = sorted(state.keys() ^ RefineNet().state_dict().keys())
        if misfits:
            raise ValueError(f"{misfits[0]} is {'unexpected' if misfits[0] in state else 'missing'}")
        filters, channels = state["begin_conv.bias"].numel(), state["end_conv.bias"].numel()
        levels = state["normalizer.embed.weight"].numel() // max(1, 3 * filters)
        config: dict[str, Any] = {"channels": channels, "filters": filters, "levels": levels}
        network = RefineNet(**config)
    for name, tensor in network.state_dict().items():
        if state[name].shape != tensor.shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}")
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return network, config


def convert(checkpoint: Path, out: Path, size: int | None = None) -> dict[str, Any]:
    """Convert the authors' ``checkpoint.pth`` to ``out``, a file for :func:`basis_ncsn.prior.read`.

    Filters, channels and the number of noise levels are read off the tensors. What no tensor tells is taken to be as
    published: levels from 1 to 0.01, and pictures ``size`` pixels wide and high, by default 28 if gray, else 32.
    Weights stay float32, so the scores are the authors'.

    Returns:
        The network's arguments (``channels``, ``filters``, ``levels``), the pictures' ``shape`` and how many
        ``parameters`` there are.

    Raises:
        WeightsError: no such file, not a checkpoint, one that holds more than tensors, or another network's.
        BasisError: ``out`` cannot be written.
    """
    try:
        network, config = _network(_state_dict(checkpoint))
    except ValueError as error:
        hint = "only CondRefineNetDilated, the network of the NCSN paper, can be converted"
        raise WeightsError(f"{checkpoint} is of another network: {error}", hint) from error
    size = size or (28 if config["channels"] == 1 else 32)
    shape = (config["channels"], size, size)
    save(out, network, "refinenet", config, shape, {"source": checkpoint.name}, torch.float32)
    return config | {"shape": shape, "parameters": sum(parameter.numel() for parameter in network.parameters())}
