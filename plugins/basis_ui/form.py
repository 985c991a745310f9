"""What the page offers, and a filled-in form as the words of a command: nothing else is ever run."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from typing import Any, NamedTuple, get_args

from basis_cli.api import InputError, posterior_specs, prior_specs, task_kinds

HIDDEN = ("mask", "invert_mask", "white_level")
"""Options that the page has another way for, or none."""
SELECT = ("all", "best", "mode", "mean")
REGIONS = ("right", "left", "top", "bottom", "center")
MOST_SAMPLES = 64
TEXT = re.compile(r"[\w.,+ -]{1,64}")
"""What may be typed: never a path."""


class Field(NamedTuple):
    """An option of a task."""

    name: str
    option: str
    """As one types it: ``--factor``."""
    kind: str
    """``choice``, ``flag``, ``whole``, ``number`` or ``text``."""
    choices: tuple[str, ...]
    default: Any
    help: str
    least: float | None
    most: float | None


@cache
def fields(task: str) -> tuple[Field, ...]:
    """The options of ``task``, from its fields."""
    return tuple(_fields(task))


def _fields(task: str) -> Iterator[Field]:
    for name, parameter in inspect.signature(task_kinds()[task], eval_str=True).parameters.items():
        said = next((each for each in get_args(parameter.annotation) if hasattr(each, "param_decls")), None)
        if said is None or name in HIDDEN:
            continue
        types = [get_args(parameter.annotation)[0], *get_args(get_args(parameter.annotation)[0])]
        enums = [each for each in types if isinstance(each, type) and issubclass(each, Enum)]
        choices = tuple(str(member.value) for member in enums[0]) if enums else ()
        whole = "whole" if int in types else "number" if float in types else "text"
        kind = "choice" if enums else "flag" if bool in types else whole
        written = (said.default, *(said.param_decls or ()))  # Typer takes the first name for a default
        spelled = [word for word in written if isinstance(word, str) and word.startswith("-")]
        option = spelled[0] if spelled else f"--{name.replace('_', '-')}"
        given = parameter.default
        default = None if given is inspect.Parameter.empty else given.value if isinstance(given, Enum) else given
        yield Field(name, option, kind, choices, default, said.help or "", said.min, said.max)


@cache
def offered() -> list[dict[str, Any]]:
    """The tasks for the page, each with its priors, models and options."""
    priors = [
        {"name": name, "summary": spec.summary, "shape": spec.shape, "any": spec.any_size}
        for name, spec in prior_specs().items()
        if "/" not in name and spec.shape
    ]
    tasks = []
    for name, kind in task_kinds().items():
        models = [
            {"name": model, "summary": spec.summary, "shape": spec.shape, "any": spec.any_size}
            for model, spec in posterior_specs().items()
            if "/" not in model and spec.task == name
        ]
        if kind.model and kind.model not in [model["name"] for model in models]:
            continue  # what it answers with is not there
        about = (inspect.getdoc(kind) or name).partition("\n")[0]
        tasks.append(
            {
                "name": name,
                "about": about,
                "prior": kind.prior,
                "model": kind.model,
                "models": models,
                "priors": priors if kind.guided else [],
                "mask": "mask" in inspect.signature(kind).parameters,
                "palette": {label: f"#{r:02x}{g:02x}{b:02x}" for label, (r, g, b) in kind.palette.items()},
                "regions": REGIONS,
                "fields": [field._asdict() for field in fields(name)],
            }
        )
    return sorted(tasks, key=lambda task: (not task["priors"], task["name"]))


def words(form: Mapping[str, Any], mask: str | None) -> list[str]:
    """The options of the command of a filled-in form; its mask is the file ``mask``.

    Raises:
        InputError: it asks for what is not offered.
    """
    task = _one(form, "task", {each["name"]: each for each in offered()})
    about = next(each for each in offered() if each["name"] == task)
    said: list[str] = []
    for key in ("prior", "model"):
        if form.get(key):
            said += [f"--{key}", _one(form, key, {each["name"]: each for each in about[f"{key}s"]})]
    if about["mask"]:
        if mask is None and not form.get("region"):
            raise InputError("no mask", "paint over what is unknown")
        said += ["--mask", mask or _one(form, "region", REGIONS)]
    given = form.get("options") or {}
    known = {field.name: field for field in fields(task)}
    if not isinstance(given, Mapping) or set(given) - set(known):
        raise InputError("there is no such option", f"known: {', '.join(known)}")
    for name, value in given.items():
        said += _option(known[name], value)
    preset = form.get("preset") or ""
    if preset not in ("", "fast", "best"):
        raise InputError("there is no such preset", "fast or best")
    said += [f"--{preset}"] if preset else []
    samples = _whole(form.get("samples"), "samples", 1, MOST_SAMPLES)
    said += ["--samples", str(samples)] if samples else []
    count = samples or task_kinds()[task].presets.get(preset, {}).get("samples", 1)
    if count > 1:
        said += ["--select", _one(form, "select", SELECT)] if form.get("select") else []
        said += ["--uncertainty"]
    seed = _whole(form.get("seed"), "seed", 0, 2**31 - 1)
    return said + (["--seed", str(seed)] if seed else [])


def _one(form: Mapping[str, Any], key: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    value = form.get(key)
    if not isinstance(value, str) or value not in known:
        raise InputError(f"there is no such {key}", f"known: {', '.join(known)}")
    return value


def _whole(value: Any, name: str, least: int, most: int) -> int | None:
    if value in (None, ""):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name} must be a whole number from {least} to {most}")
    return value


def _option(field: Field, value: Any) -> list[str]:
    if value in (None, "", False) or value == field.default:
        return []
    if field.kind == "flag":
        right = value is True
    elif field.kind == "choice":
        right = isinstance(value, str) and value in field.choices
    elif field.kind == "text":
        right = isinstance(value, str) and TEXT.fullmatch(value) is not None
    else:
        right = type(value) in ((int,) if field.kind == "whole" else (int, float)) and math.isfinite(value)
        right = right and (field.least or -math.inf) <= value <= (math.inf if field.most is None else field.most)
    if not right:
        raise InputError(f"{field.option} cannot be that", field.help)
    return [field.option] if field.kind == "flag" else [field.option, str(value)]
