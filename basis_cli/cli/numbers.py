"""Numbers of the command line that nothing can be computed with: what every command refuses before it begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

from ..errors import UsageError

MOST = {"seed": 2**63 - 1, "steps": 10**9}
"""Of whole numbers, where it is not a million: lists of so many things fit into memory."""
SMALL, LARGE = 1e-9, 1e9
"""Other numbers are in between, or 0: float32 holds their squares and the inverses of these."""


def checked(command: Any) -> Any:
    """A command, or a group with all commands in it, that refuses numbers out of range."""
    for below in getattr(command, "commands", {}).values():
        checked(below)
    if command.callback:
        command.callback = _checking({p.name: max(p.opts, key=len) for p in command.params}, command.callback)
    return command


def _checking(options: Mapping[str, str], callback: Callable[..., None]) -> Callable[..., None]:
    @wraps(callback)
    def checking(*args: Any, **values: Any) -> None:
        for name, value in _numbers(values):
            if reason := _wrong(name, value):
                raise UsageError(f"{options[name]} {value} is {reason}")
        callback(*args, **values)

    return checking


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    for name, given in values.items():
        for value in given if isinstance(given, (list, tuple)) else [given]:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                yield name, value


def _wrong(name: str, value: int | float) -> str:
    """What is wrong with a number, if something is."""
    if isinstance(value, int):
        most = MOST.get(name, 10**6)
        return f"out of range: {most} at most" if abs(value) > most else ""
    if not math.isfinite(value):
        return "no number to compute with"
    if value and not SMALL <= abs(value) <= LARGE:
        return f"out of range: {SMALL:g} to {LARGE:g}"
    return ""
