"""The commands and the Python that the documentation shows work.

Counts are small: a denoiser in closed form stands in for every trained prior, and training takes two steps.
``docs/cli.md`` is checked against the help; the experiments of ``docs/results/reproduction.md`` have tests of their
own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tarfile
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import basis_cinn.network
import basis_glow.convert
import basis_ncsn.convert
import basis_ncsn.training
import lmdb
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from typer.main import get_command

from basis_cli import plugins, weights
from basis_cli.cli.app import app
from basis_cli.evaluation import imagenet
from basis_cli.priors import loading

ROOT = Path(__file__).parents[1]
BASIS = get_command(app)  # once: making it takes longer than most of these commands
GENERATED = ("docs/cli.md", "docs/models.md", "docs/results/reproduction.md", "docs/results/peers.md")
PAGES = [
    page
    for page in ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/**/*.md")))]
    if page not in GENERATED
]
BLOCK = re.compile(r"^```sh\n(.*?)^```|((?:^ {4}[^\n]*\n)+)", re.M | re.S)
COMMAND = re.compile(r"^(?:\.venv/bin/)?basis (?!--)")
FLOWS = {"--blocks": 1, "--width": 8, "--hidden": 1, "--directions": 4}
REDUCED = {
    ("train", "ncsn"): {"--widths": "32", "--blocks": 1},
    ("train", "features"): {"--widths": "8,8,8"},
    ("train", "glow"): {"--depth": 1, "--width": 4, "--levels": 2},
    ("train", "cinn"): FLOWS,
    ("train", "imle"): {"--channels": "8,8,8,8", "--growth": "4,4,4,4", "--samples": "2,2,2,2", "--pool": 4}
    | {"--size": 16},
    ("finetune-glow",): {"--sigmas": "0.01"},
    ("evaluate", "separation"): {"--pairs": 2},
    ("evaluate", "likelihood"): {"--pairs": 1, "--pictures": 2},
    ("evaluate", "gradients"): {"--pictures": 2},
    ("evaluate",): {"--pictures": 2},
    ("bench", "speed"): {"--count": 1, "--levels": 1, "--baseline": "toy-gaussian", "--prior": "toy-gaussian"},
    ("bench", "samplers"): {"--pairs": 2, "--budgets": "10,100"},
    ("bench", "peers"): {"--count": 2, "--only": "default"},
    ("sample",): {"-n": 2},
}
LEARNING = {"--steps": 2, "--batch": 4}
"""Which options are set to what, whatever the page says, by the command's first words."""
ANY = (3, 32, 32)
MEAN, VARIANCE = 0.4, 0.03
GUIDES = [f"docs/howto/{name}.md" for name in ("separate", "restore", "large")]
TASKS = ("separate", "colorize", "inpaint", "upscale", "decompress")
MEASURED = [["evaluate", noun] for noun in ("separation", "colorization", "inpainting", "upscaling", "decompression")]
FOLDERS = ("folder", "scans/")
DATA_SETS = ("mnist", "cifar10", "color-mnist", "lsun:church_outdoor")


def commands(page: str) -> Iterator[list[str]]:
    """What the page's blocks of shell say after ``basis``."""
    for fenced, indented in BLOCK.findall((ROOT / page).read_text("utf-8")):
        for part in re.split(r"\n|&&", re.sub(r"\\\n\s*", " ", fenced or indented)):
            if COMMAND.match(part.strip()):
                yield shlex.split(COMMAND.sub("", part.strip()), comments=True)


def reduced(argv: list[str]) -> list[str]:
    """The command with small counts, and on this machine; of a sweep, the command that it runs."""
    if argv[0] == "sweep":
        argv = argv[argv.index("--") + 1 :]
    while elsewhere := {"--cluster", "--slurm"} & {*argv}:
        at = argv.index(elsewhere.pop())
        argv = argv[:at] + argv[at + 2 :]
    key = next((key for key in REDUCED if tuple(argv[: len(key)]) == key), None)
    options = dict(REDUCED[key]) if key else {}
    if argv[0] in ("train", "finetune-glow"):
        options |= LEARNING
        if "--hours" in argv:
            at = argv.index("--hours")
            argv = argv[:at] + argv[at + 2 :]
    if "langevin" in argv and argv[0] != "bench":
        options["--steps"] = 2
    if "--workers" in argv:
        options["--workers"] = 1  # other processes would not know the stand-ins
    settled = {"--model", "--levels", "average", "nmf-split"} & {*argv}
    if (argv[0] in TASKS or argv[:2] in MEASURED) and not settled:
        options["--levels"] = 3
    for option, value in options.items():
        if option in argv:
            at = argv.index(option)
            argv = argv[:at] + argv[at + 2 :]
        argv = [*argv, option, str(value)]
    return argv


class StandIn:
    """A prior, and its own levels: the values of a picture are independent Gaussians."""

    sigmas = None

    def __init__(self, shape, variance=VARIANCE):
        self.shape, self.variance = tuple(shape), variance

    def sized(self, size):
        return StandIn((self.shape[0], *size))

    def at(self, sigma):
        return StandIn(self.shape, VARIANCE + sigma**2)

    def score(self, x):
        return (MEAN - x) / self.variance

    def log_prob(self, x):
        normal = torch.distributions.Normal(MEAN, self.variance**0.5)
        return normal.log_prob(x).sum((1, 2, 3))


class Direct:
    """A direct model: gray pictures."""

    classes = 10

    def __init__(self, shape):
        self.shape = shape

    def sized(self, size):
        return Direct((self.shape[0], *size))

    def sample(self, y, seeds, temperature=1.0):
        return torch.full((len(seeds), *self.shape), 0.5)


class Judge(torch.nn.Module):
    """In place of EfficientNet-Lite0, which is an extra."""

    def layers(self, x):
        return [torch.nn.functional.normalize(x + 1, dim=1)]

    def forward(self, x):
        return x.flatten(1)[:, :10], x.mean((2, 3))


def stand_in(kind, spec, method, weights_path, device):
    """In place of a trained network."""
    return (StandIn if kind == "prior" else Direct)(shape_of(spec))


def shape_of(spec):
    """That of its pictures; where its weights would say, digits' if it is named after them."""
    return spec.shape or ((1, 28, 28) if "mnist" in spec.own else ANY)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with all files that the pages name, and small stand-ins for what is large."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BASIS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(loading, "_loaded", stand_in)
    monkeypatch.setattr(weights, "of", lambda spec, given=None: weights.SHIPPED / "ncsn-mnist.safetensors")
    monkeypatch.setattr(weights, "own", lambda spec, download=False: weights.SHIPPED / "ncsn-mnist.safetensors")
    monkeypatch.setattr(imagenet, "imagenet", lambda device: Judge())
    monkeypatch.setattr(basis_ncsn.training, "sheet", lambda *args: None)
    for sizes, small in (("BLOCKS", 1), ("WIDTHS", 4), ("FEATURES", 4)):
        monkeypatch.setattr(basis_cinn.network, sizes, (small,) * 5)
    for module in (basis_ncsn.convert, basis_glow.convert):
        monkeypatch.setattr(module, "convert", lambda checkpoint, out, *args, **options: {})
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    data_sets(tmp_path / "data")
    return tmp_path


def data_sets(folder: Path) -> None:
    """MNIST's files, of 20 digits, and of CIFAR-10 and LSUN with random pictures."""
    rng = np.random.default_rng(0)
    sheet = np.asarray(Image.open(ROOT / "tests" / "digits.png"))  # 4 rows of 10 test digits
    digits = sheet.reshape(4, 28, 10, 28).swapaxes(1, 2).reshape(40, 28, 28)[:20]
    (folder / "mnist").mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind, array in (("images-idx3", digits), ("labels-idx1", np.arange(20) % 10)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
            (folder / "mnist" / f"{split}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    (folder / "cifar10").mkdir()
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        rows = np.hstack([np.arange(20)[:, None] % 10, rng.integers(0, 255, (20, 3072))])
        (folder / "cifar10" / name).write_bytes(rows.astype(np.uint8).tobytes())
    for split in ("train", "val"):
        (folder / "lsun" / f"church_outdoor_{split}_lmdb").mkdir(parents=True)
        with (
            lmdb.open(str(folder / "lsun" / f"church_outdoor_{split}_lmdb")) as database,
            database.begin(write=True) as add,
        ):
            for i in range(4):
                encoded = BytesIO()
                Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(encoded, "PNG")
                add.put(str(i).encode(), encoded.getvalue())


def picture(path: Path, shape: tuple[int, ...]) -> None:
    """A picture of noise, gray or in colour as ``shape`` has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(list(str(path).encode())).normal(MEAN, VARIANCE**0.5, (*shape[1:], shape[0]))
    Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8).squeeze()).save(path, compress_level=0)


def layouts(path: Path) -> None:
    """A layout of all ten classes; where ``path`` is a folder, training and test pictures with theirs."""
    classes = Image.fromarray((np.arange(64 * 64, dtype=np.uint8) % 10).reshape(64, 64))
    if path.suffix:
        classes.save(path)
        return
    for split in ("train", "test"):
        (path / split / "labels").mkdir(parents=True)
        classes.save(path / split / "labels" / "0.png")
        picture(path / split / "images" / "0.png", (3, 64, 64))


def wanted(argv: list[str]) -> tuple[int, int, int]:
    """The shape of the pictures that the command works on."""
    names = [after for option, after in pairwise(argv) if option == "--prior"]
    if names:
        c, h, w = shape_of(plugins.prior_spec(names[0]))
    else:
        c, h, w = (1, 28, 28) if argv[0] == "separate" else ANY
    larger = 2 if "--tile" in argv else 1
    return (c, larger * h, larger * w) if argv[0] != "upscale" else (c, h // 2, w // 2)


def prepare(argv: list[str]) -> None:
    """Write the inputs that the command names."""
    if argv[:2] == ["weights", "convert"]:
        Path(argv[3]).parent.mkdir(exist_ok=True)
        Path(argv[3]).touch()
    for before, token in pairwise(["", *argv]):
        path = Path(token)
        if before in ("-o", "--out", "--plot", "--sheet") or path.parts[:1] in (("examples",), ("out",)):
            continue
        if path.stem == "layout" or (before == "--data" and "paint" in argv):
            layouts(path)
        elif path.suffix in (".png", ".jpg"):
            picture(path, wanted(argv))
            if before == "--mask":
                Image.open(path).convert("L").point(lambda value: 255 * (value > 120)).save(path)
        elif path.suffix in (".safetensors", ".pth", ".index", ".json") and not path.exists() and argv[0] != "weights":
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(weights.SHIPPED / "ncsn-mnist.safetensors", path)
        elif token.startswith("@"):
            picture(Path("listed.png"), wanted(argv))
            Path(token[1:]).write_text("listed.png\n")
        elif path.suffix == ".tar":
            picture(Path("member.png"), wanted(argv))
            with tarfile.open(path, "w") as archive:
                archive.add("member.png")
        elif token in FOLDERS or (before == "--data" and token not in DATA_SETS):
            for i in range(1 if token in FOLDERS else 21):
                picture(
                    path / f"{i:02}.png", wanted(argv) if token in FOLDERS or argv[0] == "priors" else (3, 144, 144)
                )


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))])
def test_every_command_runs(page, world):
    failed = []
    for shown in commands(page):
        argv = [os.path.expanduser(token.replace("*", "mix")) for token in reduced(shown)]
        if argv[0] not in ("rerun", "cite", "report"):  # which need what the command before wrote
            shutil.rmtree("out", ignore_errors=True)
        prepare(argv)
        result = CliRunner().invoke(BASIS, argv)
        unsound = argv[:2] == ["priors", "check"] and result.exit_code == 1  # the stand-in, of these pictures
        if result.exit_code and not unsound:
            failed.append(f"basis {shlex.join(argv)}\n{result.output}{result.exception!r}")
    assert not failed, "\n".join(failed)


def python(page: str) -> str:
    """The page's blocks of Python, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.M | re.S))


def test_the_tutorial_works_as_it_stands(monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(compile(python("docs/tutorial.md"), "docs/tutorial.md", "exec"), {})


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", *GUIDES])
def test_the_python_of_the_guides_runs(page, world):
    for name in ("mix.png", "gray.png"):
        picture(Path(name), (1, 28, 28))
    picture(Path("large.png"), (3, 96, 96))
    exec(compile(python(page), page, "exec"), {})
