"""Where a checkpoint's files are: a folder, or Hugging Face's cache. Importing this module does not import torch."""

from __future__ import annotations

import re
from pathlib import Path

from basis_cli.api import UsageError, WeightsError

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")
FILES = ["*.json", "*.safetensors", "unet/*.json", "unet/*.safetensors", "scheduler/*.json"]


def split(own: str) -> tuple[str, int | None]:
    """What stands behind ``diffusers:`` as a folder or name, and the class in ``NAME#label``.

    Raises:
        UsageError: the label is no number.
    """
    name, mark, label = own.rpartition("#")
    if not mark or Path(own).is_dir():
        return own, None
    if not label.isdecimal():
        raise UsageError(f"{label!r} in diffusers:{own} is no class", "a number from 0: diffusers:NAME#3")
    return name, int(label)


def find(own: str, download: bool = False) -> Path:
    """The safetensors file of the network that ``diffusers:OWN`` names.

    Raises:
        WeightsError: there is neither a folder nor anything in the cache of that name, or it holds no safetensors; or
            the download failed.
        UsageError: huggingface_hub, which comes with diffusers, is missing.
    """
    name, _ = split(own)
    folder = Path(name) if Path(name).is_dir() else _cached(name, download)
    for place in (folder / "unet", folder):
        for file in WEIGHTS:
            if (place / file).is_file():
                return place / file
    hint = "only safetensors are read, never pickles: save_pretrained of a recent diffusers writes them"
    raise WeightsError(f"{folder} holds no {WEIGHTS[0]}", hint)


def _cached(name: str, download: bool) -> Path:
    """The folder of a repository's snapshot in Hugging Face's cache."""
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise WeightsError(f"there is no folder {name}", "diffusers:FOLDER, or diffusers:OWNER/NAME")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UsageError("checkpoints of diffusers need diffusers", "pip install 'basis-cli[diffusers]'") from None
    try:
        return Path(snapshot_download(name, allow_patterns=FILES, local_files_only=not download))
    except Exception as error:  # its own classes, and those of its HTTP client
        if download:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise WeightsError(f"cannot download {name}: {reason}", "check the name and the connection") from error
        hint = f"`basis weights pull diffusers:{name}` downloads it"
        raise WeightsError(f"{name} is neither a folder nor in Hugging Face's cache", hint) from error
