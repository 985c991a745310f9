"""``basis weights convert ncsn``: the checkpoints that Song & Ermon's code writes, as safetensors."""

from __future__ import annotations

import pickle
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basis_cli.api import WeightsError

from .prior import save
from .refinenet import RefineNet, ladder

WRAPPED = ("state_dict", "model_state_dict", "model")
"""Under which names a training script may keep the state dict, beside its epoch and its optimizer."""
PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")
"""What ``DataParallel`` and ``torch.compile`` put before each name."""


def _state_dict(checkpoint: Path) -> dict[str, Tensor]:
    """The network's tensors in ``checkpoint``: ``[state dict, optimizer state, ...]`` as published, the first alone, or
    as others wrap it (:data:`WRAPPED`, :data:`PREFIXES`).

    Where the list ends with the running averages of the parameters, as NCSNv2's does, those are taken.
    """
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
    averages = None
    if isinstance(loaded, list | tuple) and loaded:
        loaded, averages = loaded[0], loaded[-1]
    while isinstance(loaded, Mapping) and (inside := next((loaded[key] for key in WRAPPED if key in loaded), None)):
        loaded = inside
    state, averaged = _named(loaded), _named(averages) or {}
    if state is None:
        raise WeightsError(f"{checkpoint} holds no state dict", "give the checkpoint.pth that the authors' code saved")
    if len(state) < len(loaded):
        raise WeightsError(f"{checkpoint} holds several networks", "save the state dict of one of them")
    return state | averaged if averaged.keys() <= state.keys() else state


def _named(part: Any) -> dict[str, Tensor] | None:
    """``part`` if it is tensors by name, without their :data:`PREFIXES`."""
    if not isinstance(part, Mapping) or not all(isinstance(tensor, Tensor) for tensor in part.values()):
        return None
    return {PREFIXES.sub("", str(name), count=1): tensor for name, tensor in part.items()}


def _second(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """NCSNv2's tensors under the names of :class:`RefineNet`, and what its ``sigmas`` say."""
    norms = {name.removesuffix(".gamma") for name in state if name.endswith(".gamma")}
    parts = {norm: [state.get(f"{norm}.{part}") for part in ("gamma", "alpha", "beta")] for norm in norms}
    if missing := sorted(norm for norm, found in parts.items() if any(part is None for part in found)):
        raise ValueError(f"{missing[0]}.alpha or .beta is missing")
    rows = {f"{norm}.embed.weight": torch.cat(found)[None] for norm, found in parts.items()}  # type: ignore[arg-type]
    others = {name: t for name, t in state.items() if name.rpartition(".")[0] not in norms and name != "sigmas"}
    sigmas = state["sigmas"].double().tolist()
    config = {"levels": len(sigmas), "sigma_begin": sigmas[0], "sigma_end": sigmas[-1], "version": 2}
    if not np.allclose(sigmas, ladder("geometric", len(sigmas), sigmas[0], sigmas[-1]), rtol=1e-3):
        raise ValueError("its noise levels have no constant ratio")
    return rows | others, config


def _network(state: dict[str, Tensor]) -> tuple[RefineNet, dict[str, Any]]:
    """The network whose tensors ``state`` are, and its arguments. Raises ``ValueError`` naming the first misfit."""
    more: dict[str, Any] = {}
    if "sigmas" in state and "normalizer.gamma" in state:
        state, more = _second(state)
    with torch.device("meta"):  # shapes only: nothing is allocated for a checkpoint that does not fit
        misfits = sorted(state.keys() ^ RefineNet(version=more.get("version", 1)).state_dict().keys())
        if misfits:
            raise ValueError(f"{misfits[0]} is {'unexpected' if misfits[0] in state else 'missing'}")
        filters, channels = state["begin_conv.bias"].numel(), state["end_conv.bias"].numel()
        levels = state["normalizer.embed.weight"].numel() // max(1, 3 * filters)
        config: dict[str, Any] = {"channels": channels, "filters": filters, "levels": levels} | more
        network = RefineNet(**config)
    for name, tensor in network.state_dict().items():
        if state[name].shape != tensor.shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}")
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return network, config


def convert(checkpoint: Path, out: Path, size: int | None = None) -> dict[str, Any]:
    """Convert the authors' ``checkpoint.pth`` to ``out``, a file for :func:`basis_ncsn.prior.read`.

    Filters, channels and the number of noise levels are read off the tensors. What no tensor tells is taken to be as
    published: levels from 1 to 0.01, which NCSNv2's checkpoints do state, and pictures ``size`` pixels wide and high,
    by default 28 if gray, else 32. Weights stay float32, so the scores are the authors'.

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
        hint = "only CondRefineNetDilated and NCSNv2, the networks of the two NCSN papers, can be converted"
        raise WeightsError(f"{checkpoint} is of another network: {error}", hint) from error
    size = size or (28 if config["channels"] == 1 else 32)
    shape = (config["channels"], size, size)
    save(out, network, "refinenet", config, shape, {"source": checkpoint.name}, torch.float32)
    return config | {"shape": shape, "parameters": sum(parameter.numel() for parameter in network.parameters())}
