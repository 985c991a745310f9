"""Files of IMLE networks."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.nn.utils import parametrize

from basis_cli.api import checkpoint

from .network import Generator


def save(path: Path, network: Generator, notes: dict[str, str]) -> None:
    """Write ``network``, its matrices in bfloat16, and what is needed to build it again; ``notes`` are kept.

    Raises:
        NotFiniteError: a weight is NaN or infinite.
        BasisError: the file cannot be written; what stood there before is kept.
    """
    tensors = {name: p.to(torch.bfloat16) if p.ndim > 1 else p for name, p in network.state_dict().items()}
    checkpoint.save(path, tensors, notes | {"format": "basis-imle", "config": json.dumps(network.config)})


def read(path: Path) -> Generator:
    """The network in a file that :func:`save` wrote.

    Raises:
        WeightsError: not such a file, or its tensors do not fit the network it describes.
    """
    hint = "basis train imle makes one"
    with checkpoint.opened(path, "basis-imle", "an IMLE network", hint) as (tensors, about):
        network = Generator(**json.loads(about["config"]))
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network


def plain(network: Generator) -> Generator:
    """``network`` with its weights' norms multiplied in, which is quicker and gives the same pictures."""
    for module in network.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    return network
