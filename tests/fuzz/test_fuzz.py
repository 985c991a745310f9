"""Odd inputs, options, weights, states and plugins over all commands: no traceback, no hang, nothing silently wrong.

``pytest tests/fuzz --all`` runs a thousand; without ``--all`` a sample. ``--seed N`` draws others. A failure shows the
case's number and its command.

Each generator knows what must come of what it makes: the exit codes that are right, or the shape of the answer.
"""

from __future__ import annotations

import io
import json
import random
import signal
import struct
import textwrap
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from basis_cli import checkpoint, plugins
from basis_cli.cli.app import app

COUNTS = {"options": 400, "pictures": 300, "numbers": 120, "weights": 80, "states": 50, "plugins": 60}
SAMPLE = 25
"""One in so many is in the sample."""
SECONDS = 60
"""Longer is a hang."""
TASKS = {
    "separate": ["--prior", "toy-mixture", "--sampler", "ep", "--levels", "2", "-q"],
    "inpaint": ["--mask", "left", "--prior", "toy-mixture", "--levels", "2", "-q"],
}
SHAPE = (8, 8)  # of the toy priors


@dataclass
class Case:
    """A command, and what must come of it."""

    arguments: list[str]
    codes: tuple[int, ...]
    """That are right."""
    files: int | None = None
    """How many answers of :data:`SHAPE` there must be in ``out``; ``None``: as many as there are."""


# --- pictures --------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def gray(rng: random.Random, size: tuple[int, int] = SHAPE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(rng.randrange(1000)).integers(60, 200, size, np.uint8))


def bomb() -> bytes:
    """A PNG header of 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


GOOD: dict[str, Callable[[random.Random], bytes]] = {
    "png": lambda r: encoded(gray(r), "PNG"),
    "colour": lambda r: encoded(gray(r).convert("RGB"), "PNG"),
    "palette": lambda r: encoded(gray(r).convert("P"), "PNG"),
    "bilevel": lambda r: encoded(gray(r).convert("1"), "PNG"),
    "opaque": lambda r: encoded(gray(r).convert("LA"), "PNG"),
    "deep": lambda r: encoded(Image.fromarray(np.asarray(gray(r)).astype(np.uint16) * 257), "PNG"),
    "jpeg": lambda r: encoded(gray(r), "JPEG", quality=r.randint(1, 100)),
    "cmyk": lambda r: encoded(gray(r).convert("CMYK"), "JPEG"),
    "webp": lambda r: encoded(gray(r).convert("RGB"), "WEBP", lossless=True),
    "tiff": lambda r: encoded(Image.fromarray(np.asarray(gray(r), np.float32) / 255), "TIFF"),
    "bmp": lambda r: encoded(gray(r), "BMP"),
    "pgm": lambda r: encoded(gray(r), "PPM"),
    "gif": lambda r: encoded(gray(r), "GIF", save_all=True, append_images=[gray(r)]),
    "trailing": lambda r: encoded(gray(r), "PNG") + b"more" * r.randint(1, 9),
}
BAD: dict[str, Callable[[random.Random], bytes]] = {
    "empty": lambda r: b"",
    "byte": lambda r: bytes([r.randrange(256)]),
    "noise": lambda r: r.randbytes(r.randint(2, 500)),
    "html": lambda r: b"<html>404</html>",
    "cut": lambda r: (content := encoded(gray(r), "PNG"))[: r.randint(1, len(content) // 2)],
    "cut jpeg": lambda r: (content := encoded(gray(r), "JPEG"))[: r.randint(1, len(content) // 2)],
    "small": lambda r: encoded(gray(r, (r.randint(1, 7), r.randint(1, 7))), "PNG"),
    "large": lambda r: encoded(gray(r, (r.randint(9, 40), r.randint(9, 40))), "PNG"),
    "bomb": lambda r: bomb(),
    "not finite": lambda r: encoded(Image.fromarray(np.full(SHAPE, np.nan, np.float32)), "TIFF"),
    "out of range": lambda r: encoded(Image.fromarray(np.full(SHAPE, 7.0, np.float32)), "TIFF"),
    "another signature": lambda r: b"GIF89a" + r.randbytes(40),
}
NAMES = (
    "a.png",
    "[bold]a.png",
    "[x]y[].png",
    "a b.png",
    "ä混.png",
    "a:cat:.png",
    "a",
    ".a.png",
    "'a'.png",
    "%s{0}.png",
)


def pictures(rng: random.Random) -> Case:
    task, name = rng.choice(sorted(TASKS)), rng.choice(NAMES)
    kind = rng.choice([*GOOD, *BAD])
    Path(name).write_bytes((GOOD | BAD)[kind](rng))
    beside = rng.random() < 0.3
    if beside:
        Path("beside.png").write_bytes(GOOD["png"](rng))
    count = (kind in GOOD) + beside
    k = 2 if task == "separate" else 1
    arguments = [task, *TASKS[task], f"./{name}", *(["beside.png"] if beside else [])]
    return Case(arguments, (0,) if kind in GOOD else (1,), k * count)


# --- options ---------------------------------------------------------------------------------------------------------


def leaves(command: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list]]:
    """Every command of the tree, with its parameters."""
    for name, inside in command.commands.items():
        if hasattr(inside, "commands"):
            yield from leaves(inside, (*path, name))
        else:
            yield (*path, name), inside.params


def refused(kind: object) -> list[str]:
    """Words that no option of this kind takes."""
    text = ["", "x", "[/x]", "1.5.5", "ö", "--", "None"]
    if kind is int:
        return [*text, "1.5", "nan", "inf", "1e3"]
    if kind is float:
        return text
    return text if isinstance(kind, type) and issubclass(kind, Enum) else []


def options(rng: random.Random) -> Case:
    """A value of another type for an option of any command, or an option that no command has."""
    path, parameters = rng.choice(list(leaves(typer.main.get_command(app))))
    given = [(p, refused(p.type_descriptor.annotation)) for p in parameters if getattr(p, "opts", [""])[0][:1] == "-"]
    given = [(p, words) for p, words in given if words]
    needed = [word for p in parameters if p.param_type_name == "argument" and p.required for word in ["words"]]
    if not given or rng.random() < 0.1:
        return Case([*path, *needed, rng.choice(["--no-such-option", "--[/x]", "-\udcff"])], (2,))
    chosen, words = rng.choice(given)
    return Case([*path, *needed, f"{rng.choice(chosen.opts)}={rng.choice(words)}"], (2,))


NUMBERS = ["0", "-1", "-0.0", "nan", "inf", "-inf", "1e400", "1e-300", "1e30", str(10**30), str(-(2**63)), "1e-9"]
OF_TASKS = ["--levels", "--sigma-max", "--sigma-min", "--steps", "--step-size", "--temperature", "--noise-std"]
OF_TASKS += ["--overrelaxation", "--seed", "--batch", "--samples", "--overlap", "-k", "--alpha"]


def numbers(rng: random.Random) -> Case:
    """A number out of range: refused, or an answer that is whole."""
    Path("mix.png").write_bytes(GOOD["png"](rng))
    return Case(["separate", "mix.png", *TASKS["separate"], f"{rng.choice(OF_TASKS)}={rng.choice(NUMBERS)}"], (0, 1, 2))


# --- weights, states, plugins ----------------------------------------------------------------------------------------

CONFIG = {"widths": [8, 32], "blocks": 1, "patch": 2, "channels": 1}
ODD = [None, -1, 0, 1.5, "x", [], {}, [1], 10**6, 10**12, [10**5] * 3, True, [[8]], float("nan")]


def weights(rng: random.Random) -> Case:
    """A file of weights that is damaged, or whose notes are of no network, or of a larger one."""
    from basis_ncsn import prior, unet

    Path("mix.png").write_bytes(GOOD["png"](rng))
    path = Path("own.safetensors")
    prior.save(path, unet.UNet(**CONFIG), "unet", CONFIG, (1, 8, 8), {}, torch.float32)
    if rng.random() < 0.4:
        content = bytearray(path.read_bytes())
        if rng.random() < 0.5:
            content = content[: rng.randrange(len(content))]
        else:
            content[rng.randrange(8)] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    else:
        tensors, notes = checkpoint.read(path)
        odd = rng.choice(ODD)
        part = rng.choice(["config", "shape", "backbone", *CONFIG])
        same = part in CONFIG and odd == CONFIG[part]
        if part in CONFIG:
            notes["config"] = json.dumps(CONFIG | {part: odd if not same else "x"})
        else:
            notes[part] = json.dumps(odd)
        checkpoint.write(path, tensors, notes)
    task = ["separate", "mix.png", *TASKS["separate"]]
    task[task.index("toy-mixture")] = "ncsn"
    return Case([*task, "--weights", str(path)], (4,), 0)


def states(rng: random.Random) -> Case:
    """A saved state that is damaged or of another run."""
    Path("mix.png").write_bytes(GOOD["png"](rng))
    Path("out").mkdir()
    path = Path("out/mix.state.safetensors")
    identity = json.dumps(rng.choice([*ODD, {"inputs": rng.choice(ODD)}, {"inputs": ["mix"]}, {"inputs": ["other"]}]))
    notes = {"format": "basis-state", "identity": identity, "level": rng.choice(["1", "x", "-1"]), "batches": "0"}
    for name in rng.sample(sorted(notes), rng.randrange(3)):
        del notes[name]
    checkpoint.write(path, {"x": torch.zeros(2, 1, 1, *SHAPE), "picture": torch.zeros(3)}, notes)
    if rng.random() < 0.3:
        path.write_bytes(rng.randbytes(rng.randrange(200)))
    return Case(["separate", "mix.png", *TASKS["separate"], "--resume"], (1, 2), 0)


SCORES = ["x[0]", "x[:, :, :1]", "x.mean((1, 2, 3), keepdim=True)", "x.mean()", "None", "3", "x.numpy()", "[x]"]
SCORES += ["x.to('meta')", "x.long()", "x * float('nan')", "x / 0", "x.no_such()", "{}['[/x]']", "torch.cat([x, x])"]
LOADS = ["None", "3", "type('P', (), {})()", "1 / 0", "type('P', (Prior,), {'sigmas': (1, 2)})()", "exit(3)"]
LOADS += ["type('P', (Prior,), {'shape': (3, 8, 8)})()", "type('P', (Prior,), {'at': 3})()", "Prior"]
PLUGIN = """
import torch
from basis_cli.api import PriorSpec, hookimpl

class Prior:
    shape, sigmas = (1, 8, 8), None

    def at(self, sigma):
        return self

    def score(self, x):
        return {score}

def load(spec, weights, device):
    return {load}

@hookimpl
def basis_priors():
    return [PriorSpec("odd", "", (1, 8, 8), load="{module}:load")]
"""


def plugin(rng: random.Random) -> Case:
    """A prior that returns, or raises, what none may."""
    odd = {"score": rng.choice(SCORES), "load": "Prior()"} if rng.random() < 0.6 else {"score": "-x"}
    odd = odd if "load" in odd else odd | {"load": rng.choice(LOADS)}
    module = f"fuzz_{rng.randrange(10**9)}"
    Path(f"{module}.py").write_text(textwrap.dedent(PLUGIN).format(module=module, **odd))
    info = Path(f"{module}-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[basis]\n{module} = {module}\n")
    plugins.plugins.cache_clear()
    Path("mix.png").write_bytes(GOOD["png"](rng))
    task = rng.choice(sorted(TASKS))
    arguments = [task, "mix.png", *TASKS[task]]
    arguments[arguments.index("toy-mixture")] = f"{module}/odd"
    return Case(arguments, (1,), 0)


# --- what must come of them ------------------------------------------------------------------------------------------

GENERATORS = {"options": options, "pictures": pictures, "numbers": numbers}
GENERATORS |= {"weights": weights, "states": states, "plugins": plugin}


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def hang(*_: object) -> None:
        raise AssertionError(f"hangs: not over after {seconds} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def wrong(case: Case) -> str:
    """What is wrong with what comes of a case; nothing if it is right."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    with time_limit(SECONDS):
        result = CliRunner().invoke(app, case.arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        return f"a traceback: {result.exception!r}"
    if result.exit_code not in case.codes:
        return f"exit code {result.exit_code}, not {case.codes}: {result.output[-300:]}"
    if result.exit_code and not result.stderr.strip():
        return "fails without a word"
    if any(path.exists() and path.read_bytes() != content for path, content in before.items()):
        return "changes a file that was there"
    answers = [path for path in Path("out").rglob("*.x?.png")] if Path("out").exists() else []
    if case.files is not None and len(answers) != case.files:
        return f"{len(answers)} answers, not {case.files}: {result.output[-300:]}"
    if any(Image.open(path).size != SHAPE for path in answers):
        return "an answer has another shape"
    return "leaves a temporary file" if list(Path().rglob("*.partial")) else ""


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms")
@pytest.mark.parametrize("kind", COUNTS)
def test_fuzz(kind, request, tmp_path, monkeypatch):
    everything = request.config.getoption("--all", default=False)
    seed = request.config.getoption("--seed", default=0)
    failures = []
    for number in range(COUNTS[kind] if everything else COUNTS[kind] // SAMPLE):
        folder = tmp_path / str(number)
        folder.mkdir()
        with monkeypatch.context() as context:
            context.chdir(folder)
            context.syspath_prepend(str(folder))
            case = GENERATORS[kind](random.Random(f"{seed} {kind} {number}"))
            try:
                reason = wrong(case)
            except AssertionError as error:
                reason = str(error)
        if reason:
            failures.append(f"{kind} {number} (seed {seed}): basis {' '.join(map(repr, case.arguments))}\n    {reason}")
    plugins.plugins.cache_clear()
    assert not failures, "\n" + "\n".join(failures)
