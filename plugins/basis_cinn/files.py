"""Files of conditional flows."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from basis_cli.api import checkpoint

from .network import ClassFlow, ColourFlow, ConditionalFlow

KINDS: dict[str, type[ConditionalFlow]] = {"class": ClassFlow, "colour": ColourFlow}


def save(path: Path, network: ConditionalFlow, notes: dict[str, str]) -> None:
    """Write ``network`` and what is needed to build it again; ``notes`` are kept for the reader.

    Matrices of networks, and principal directions, are rounded to bfloat16; what else transforms pictures is not.

    Raises:
        NotFiniteError: a weight is NaN or infinite.
        BasisError: the file cannot be written; what stood there before is kept.
    """
    tensors = {
        name: tensor.to(torch.bfloat16) if tensor.ndim > 1 and ".mix." not in name else tensor
        for name, tensor in network.state_dict().items()
    }
    kind = next(name for name, kind in KINDS.items() if isinstance(network, kind))
    about = {"format": "basis-cinn", "kind": kind, "config": json.dumps(network.config)}
    checkpoint.save(path, tensors, notes | about)


def read(path: Path) -> ConditionalFlow:
    """The network in a file that :func:`save` wrote.

    Raises:
        WeightsError: not such a file, or its tensors do not fit the network it names.
    """
    hint = "basis train cinn makes one"
    with (
        torch.inference_mode(False),
        checkpoint.opened(path, "basis-cinn", "a conditional flow", hint) as (tensors, about),
    ):
        config = json.loads(about["config"])
        if "shape" in config:
            config["shape"] = tuple(config["shape"])
        network = KINDS[about["kind"]](**config)
        network.load_state_dict(tensors)
        if isinstance(network, ClassFlow) and network.principal is not None:
            network.principal.orthonormalize()
    return network
