"""The user's verbs. Importing this package does not import torch.

A module of this package that defines ``TASKS``, its :class:`Task` classes, adds them to the commands.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from .base import Task as Task
from .colorization import colorize as colorize
from .decompression import decompress as decompress
from .inpainting import inpaint as inpaint
from .library import answer as answer
from .restoration import restore as restore
from .samples import sample as sample
from .separation import Mixing as Mixing
from .separation import Recorded as Recorded
from .separation import Separate as Separate
from .separation import separate as separate
from .together import Together as Together
from .upscaling import upscale as upscale


@cache
def built_in() -> dict[str, type[Task]]:
    """This package's own tasks, by name."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return {task.name: task for module in modules for task in getattr(module, "TASKS", ())}
