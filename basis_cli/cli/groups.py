"""Options in groups: a dataclass in a command's signature is an option for each of its fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from typing import Any


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` for Typer: every parameter that is a dataclass becomes one option for each of its fields."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    kinds: dict[str, Any] = {p.name: p.annotation for p in own if is_dataclass(p.annotation)}
    groups = {name: (kind, inspect.signature(kind, eval_str=True).parameters) for name, kind in kinds.items()}
    plain = [p for p in own if p.name not in groups]
    fields = [field for _, parameters in groups.values() for field in parameters.values()]

    @wraps(command)
    def spelled_out(**values: Any) -> None:
        for name, (group, parameters) in groups.items():
            values[name] = group(**{field: values.pop(field) for field in parameters})
        command(**values)

    shown = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*plain, *fields)]
    spelled_out.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    spelled_out.__annotations__ = {p.name: p.annotation for p in shown}
    return spelled_out
