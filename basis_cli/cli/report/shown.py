"""What a report shows of one record: everything is made again from the record and the files that it names."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from inspect import Parameter, signature
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ...errors import BasisError
from ..records import contents
from .inline import Inline, Picture

if TYPE_CHECKING:
    from ...tasks.base import Task

WHITE_STD = 0.25
"""The standard deviation at the top of the scale, as in STEM.x1.std.png."""
LEVELS = 8
"""Of 255, at the ends of the scale of residuals."""
RAMP = np.array([(0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191)])
"""Colours of a standard deviation, evenly spaced from 0: the map "magma"."""
RAMP_CSS = ", ".join(f"rgb{tuple(map(int, colour))}" for colour in RAMP)
AGAINST = np.array([(33, 102, 172), (247, 247, 247), (178, 24, 43)])
"""Of a residual: too dark, right, too light."""


@dataclass
class Sample:
    """One of the samples, most probable first."""

    pictures: list[Picture]
    nats: float | None
    answer: int
    """Of the distinct answers, which it gives; 0 is the most probable one's."""
    chosen: bool


@dataclass
class Entry:
    """One input."""

    number: int
    name: str
    record: Mapping[str, Any]
    observed: Picture | None = None
    answers: list[Picture] = field(default_factory=list)
    """The components of the first answer."""
    recomposed: Picture | None = None
    residual: Picture | None = None
    truth: list[Picture] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    std: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What cannot be shown, and why."""

    @property
    def command(self) -> str:
        """As one types it to make the answers again."""
        return shlex.join(["basis", self.record["task"], self.record["input"], *self.record["options"]])

    @property
    def rms(self) -> float | None:
        """Residual in 8-bit levels."""
        return self.record["answers"][0]["residual_8bit_rms"]

    @property
    def psnr(self) -> float | None:
        """dB, the mean over the components of the first answer."""
        each = [value for value in self.record["answers"][0].get("psnr_db", []) if value is not None]
        return sum(each) / len(each) if each else None

    @property
    def nats(self) -> float | None:
        """How probable the first answer is: of its samples, or by the prior's own likelihood."""
        ranked = self.record.get("log_likelihood_nats")
        own = [value for value in self.record["answers"][0].get("log_prob_nats", []) if value is not None]
        return ranked[0] if ranked else sum(own) if own else None

    @property
    def distinct(self) -> list[tuple[int, Sample, int]]:
        """Of each distinct answer: its number, its most probable sample, which one that is."""
        firsts: dict[int, tuple[int, Sample, int]] = {}
        for place, sample in enumerate(self.samples):
            firsts.setdefault(sample.answer, (sample.answer, sample, place))
        return list(firsts.values())


def count(record: Mapping[str, Any]) -> int:
    """How many pictures a report shows of ``record``, at most."""
    k = len(record["answers"][0]["components"])
    return 3 + 3 * k + k * max(len(record.get("log_likelihood_nats", ())), len(record["answers"]))


def entry(number: int, file: Path, record: Mapping[str, Any], inline: Inline) -> Entry:
    """Everything that can be shown of ``record``, which is in ``file``; what cannot is noted."""
    shown = Entry(number, str(record["input"]), record)
    try:
        answers = [_components(file, answer["components"]) for answer in record["answers"]]
    except (BasisError, OSError) as error:
        shown.notes.append(f"The answers cannot be shown: {error}")
        return shown
    shown.answers = [inline(component) for component in answers[0]]
    _show_samples(shown, file, answers, inline)
    try:
        given, task = _given(record), _task(record)
        y, again = recomposed(task, given, answers[0], record["answers"][0].get("alpha"))
        shown.observed = inline(y)
        if again is not None:
            shown.recomposed, shown.residual = inline(again), inline(_signed(again - y))
        shown.truth = [inline(_read(path, answers[0].shape[1:], task)) for path in _references(record)]
    except (BasisError, OSError, ValueError, RuntimeError) as error:
        shown.notes.append(f"What was observed cannot be shown: {error}")
    return shown


def _show_samples(shown: Entry, file: Path, answers: Sequence[np.ndarray], inline: Inline) -> None:
    """The samples, and each pixel's standard deviation: as it was written, or that of samples that are honest."""
    from ...posterior import Sampling

    record = shown.record
    if "uncertainty" in record:
        written = _components(file, record["uncertainty"]["files"])
        shown.std = [inline(_coloured(component.mean(0), RAMP)) for component in written]  # over the channels
    samples: Sequence[np.ndarray] = answers if record["settings"].get("select") == "all" else []
    if "samples" in record:
        sheet = _components(file, [record["samples"]])[0]
        samples = _cut(sheet, len(answers[0]), len(record["log_likelihood_nats"]), answers[0].shape[2:])
    if len(samples) < 2:
        return
    likelihoods = record.get("log_likelihood_nats") or [None] * len(samples)
    which = record.get("sample_answers") or [0] * len(samples)
    select = record["settings"].get("select")
    for place, (sample, nats, answer) in enumerate(zip(samples, likelihoods, which, strict=False)):
        chosen = place == 0 if select == "best" else answer == 0 if select == "mode" else True
        shown.samples.append(Sample([inline(component) for component in sample], nats, answer, chosen))
    settings = record["settings"]
    if len(answers[0]) > 1 and Sampling(settings.get("sampler"), temperature=settings.get("temperature")).timid:
        return  # nearly the same answer again and again
    spread = np.stack(samples).std(0, ddof=1).mean(1)  # over the channels
    shown.std = shown.std or [inline(_coloured(component / WHITE_STD, RAMP)) for component in spread]


def recomposed(
    task: Task, given: Path, answer: np.ndarray, alpha: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """What was observed, and ``A x`` of the answer ``(k, c, h, w)``; ``None`` if that is no picture."""
    import torch

    from ...operators import Mixture

    shape: Any = answer.shape[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run has said it
        task, stored = task.read(given, shape)
    operator = task.operator(shape)
    if alpha:
        operator = task.stored(Mixture(alpha), shape)  # type: ignore[attr-defined]
    y = task.observed(torch.from_numpy(stored.pixels)[None], operator)
    again = operator(torch.from_numpy(answer)[:, None])
    fits = again.shape == y.shape and bool(torch.isfinite(again).all())
    return y[0].numpy(), again[0].numpy() if fits else None


def _task(record: Mapping[str, Any]) -> Task:
    """The task as the options of ``record`` set it."""
    kind, options, parse = _command(record["task"])
    given = parse([*record["options"], "--", record["input"]])
    return kind(**{key: _typed(p.annotation, given[key]) for key, p in options.items() if key in given})


@cache
def _command(name: str) -> tuple[type[Task], Mapping[str, Parameter], Callable[[list[str]], dict[str, Any]]]:
    """The kind of a task, its own options, and a function that reads the words of its command."""
    from typer.main import get_command

    from ...plugins import task_kinds
    from ..app import app

    kinds = task_kinds()
    if name not in kinds:
        raise BasisError(f"there is no command {name!r}", "install the plugin that brings it")
    root: Any = get_command(app)
    command = root.commands[name]
    return (
        kinds[name],
        signature(kinds[name], eval_str=True).parameters,
        lambda words: dict(command.make_context(name, words).params),
    )


def _typed(annotation: Any, value: Any) -> Any:
    """A word as the member of the enumeration that an option takes, if it takes one."""
    kinds = [annotation, *get_args(annotation)]
    kinds += [inner for kind in kinds for inner in get_args(kind)]
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    return enums[0](value) if enums and value is not None else value


def _given(record: Mapping[str, Any]) -> Path:
    """The input, if it is there as it was."""
    name = record["input"]
    if name == "-":
        raise BasisError("it was read from standard input")
    for path, sha256 in contents(list(record["inputs_sha256"])).items():
        if sha256 != record["inputs_sha256"][path]:
            raise BasisError(f"{path} {'has changed since' if sha256 else 'is not there any more'}")
    return Path(name)


def _references(record: Mapping[str, Any]) -> list[Path]:
    words = record["options"]
    return [Path(value) for option, value in pairwise(words) if option == "--reference"]


def _read(path: Path, shape: tuple[int, ...], task: Task) -> np.ndarray:
    from ...data import images

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return images.read(path, shape, task.fit, white_level=task.white_level)  # type: ignore[arg-type]


def _components(file: Path, names: Sequence[str]) -> np.ndarray:
    """``(k, c, h, w)``, of files that lie beside their record wherever it was moved to."""
    from ...data import images

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.stack([images.read(file.with_name(Path(name).name)) for name in names])


def _cut(sheet: np.ndarray, k: int, samples: int, size: tuple[int, ...]) -> list[np.ndarray]:
    """Each sample ``(k, c, h, w)`` on a sheet that has a row for each component."""
    h, w = size
    rows, columns = [2 + i * (h + 2) for i in range(k)], [2 + j * (w + 2) for j in range(samples)]
    return [np.stack([sheet[:, top : top + h, left : left + w] for top in rows]) for left in columns]


def _coloured(values: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """``(h, w)`` in [0, 1] as uint8 ``(h, w, 3)``, between evenly spaced ``colours``."""
    places = np.linspace(0, 1, len(colours))
    channels = [np.interp(values, places, colours[:, channel]) for channel in range(3)]
    return (np.stack(channels, -1) + 0.5).astype(np.uint8)


def _signed(residual: np.ndarray) -> np.ndarray:
    return _coloured(residual.mean(0) * 255 / (2 * LEVELS) + 0.5, AGAINST)
