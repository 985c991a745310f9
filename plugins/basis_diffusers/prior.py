"""A checkpoint of diffusers as a prior."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from basis_cli.api import DenoiserPrior, PriorSpec, RunWarning, UsageError, WeightsError

from .files import split
from .schedules import Schedule, VarianceExploding, schedule

DDPM = {"_class_name": "DDPMScheduler", "beta_schedule": "linear"}


class DiffusersPrior(DenoiserPrior):
    """A ``UNet2DModel`` and what its scheduler says of the noise that it was trained on.

    Args:
        network: called as ``network(x, t)``, it returns an object with ``sample`` ``(n, c, h, w)``; channels of a
            learned variance, which follow, are dropped.
        label: the class of a network that is conditional on classes.

    Raises:
        UsageError: a label is missing, out of range, or not wanted.
    """

    def __init__(self, network: Any, noise: Schedule, label: int | None = None):
        config = network.config
        size = config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        centred = isinstance(noise, VarianceExploding) or config.get("center_input_sample")
        shape, value_range = (config["in_channels"], height, width), (0.0, 1.0) if centred else (-1.0, 1.0)
        super().__init__(self._denoised, shape, value_range)
        low, high = noise.sigmas
        self.span = low / (value_range[1] - value_range[0]), high / (value_range[1] - value_range[0])
        self.network: nn.Module = network.eval().requires_grad_(False)
        self.noise, self.label, self._compiled = noise, label, False
        self._whole_steps = config.get("time_embedding_type") == "learned"
        _check_label(config, label)
        if hasattr(network, "time_embedding"):
            network.time_embedding.register_forward_pre_hook(_one_row)

    def compile(self) -> None:
        if not self._compiled:
            self.network.compile()
            self._compiled = True

    def _denoised(self, x: Tensor, sigma: float) -> Tensor:
        return self.noise.denoised(self._predicted, x, sigma)

    def _predicted(self, x: Tensor, t: float) -> Tensor:
        like: dict[str, Any] = {"device": x.device}
        steps = torch.full((len(x),), round(t), **like) if self._whole_steps else torch.full((len(x),), t, **like)
        more = {} if self.label is None else {"class_labels": torch.full((1,), self.label, **like)}
        out = self.network(x.contiguous(memory_format=torch.channels_last), steps, **more)
        return out.sample[:, : x.shape[1]].float()


def _one_row(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """All pictures have one noise level; and a matrix product's rounding varies with its rows."""
    return (inputs[0][:1], *inputs[1:])


def _check_label(config: Mapping[str, Any], label: int | None) -> None:
    classes = config.get("num_class_embeds")
    if config.get("class_embed_type") is not None:
        raise WeightsError("classes that are not numbers are not supported", "a network with num_class_embeds")
    if label is None and classes:
        raise UsageError(f"this model wants a class, 0 to {classes - 1}", "diffusers:NAME#3")
    if label is not None and label >= (classes or 0):
        raise UsageError(f"this model has no class {label}: it has {classes or 'none'}", "diffusers:NAME")


def load(spec: PriorSpec, weights: Path | None, device: torch.device) -> DiffusersPrior:
    """The prior ``diffusers:FOLDER`` or ``diffusers:OWNER/NAME``, perhaps with ``#label``, on ``device``.

    Raises:
        WeightsError: no weights, or a checkpoint of another kind.
        UsageError: diffusers is not installed, or the label does not fit.
    """
    if weights is None:
        raise WeightsError("which checkpoint of diffusers?", "--prior diffusers:FOLDER")
    folder = weights.parent
    config = _config(folder / "config.json")
    if (folder.parent / "vae").is_dir() or (folder.parent / "vqvae").is_dir():
        raise WeightsError(f"{folder.parent} models a latent space", "only models of pixels can be priors")
    if not config.get("sample_size"):
        raise WeightsError(f"{folder / 'config.json'} states no sample_size", "add the size of its pictures")
    network = _network(folder, config.get("_class_name", "network without a name"))
    network = network.to(device, memory_format=torch.channels_last)
    return DiffusersPrior(network, schedule(_scheduler(folder)), split(spec.own)[1])


def _network(folder: Path, name: str) -> Any:
    try:
        from diffusers.utils import logging
    except ImportError as error:
        hint = "pip install 'basis-cli[diffusers]'"
        raise UsageError(f"checkpoints of diffusers need diffusers: {error}", hint) from error
    logging.set_verbosity_error()
    try:
        return _class(folder, name).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, torch_dtype=torch.float32
        )
    except WeightsError:
        raise
    except Exception as error:  # whatever it raises for a file that does not fit
        raise WeightsError(f"cannot load {folder}: {error}".splitlines()[0], "is it complete?") from error


def _class(folder: Path, name: str) -> Any:
    """The class of the network: diffusers' own, or that of a plugin of basis which the pipeline's index names."""
    if name == "UNet2DModel":
        return import_module("diffusers").UNet2DModel
    index = folder.parent / "model_index.json"
    library, stated = (_config(index).get("unet") or ["", ""]) if index.is_file() else ["", ""]
    trusted = {entry.module.partition(".")[0] for entry in entry_points(group="basis")}
    if stated != name or library.partition(".")[0] not in trusted:
        hint = "only unconditional models of pixels can be priors"
        raise WeightsError(f"{folder} holds a {name}, not a UNet2DModel", hint)
    return getattr(import_module(library), name)


def _scheduler(folder: Path) -> dict[str, Any]:
    """The scheduler's configuration beside a network in ``folder``, in a folder of its own there, or one above."""
    places = (folder, folder / "scheduler", folder.parent / "scheduler")
    path = next((each for place in places if (each := place / "scheduler_config.json").is_file()), None)
    if path is None:
        message = f"{folder} has no scheduler_config.json: taken to be DDPM's, with linear betas, predicting the noise"
        warnings.warn(message, RunWarning, stacklevel=2)
        return DDPM
    return _config(path)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return config
        raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read {path}: {error}", "is the checkpoint complete?") from error
