"""Write docs/models.md: every file of weights that ships, with its card, its licence and its size.

python docs/models.py > docs/models.md
"""

import os
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

os.environ["BASIS_PLUGINS"] = ",".join(e.name for e in distribution("basis-cli").entry_points if e.group == "basis")

from basis_cli import plugins, weights

HEADER = """<!-- python docs/models.py > docs/models.md: change weights/, not this page. -->

# Models

The weights that ship, with their cards: what they were trained on, by which commands, how good they are, what they
cannot do. `basis weights verify` checks the files.

| model | pictures | trained on | licence | MB |
| --- | --- | --- | --- | --- |"""


def pictures(spec: Any) -> str:
    """``28 x 28, gray``."""
    c, h, w = spec.shape
    return f"{'any size' if spec.any_size else f'{w} x {h}'}, {'gray' if c == 1 else 'colour'}"


def trained_on(card: str) -> str:
    """The card's row of data, to its first semicolon."""
    found = re.search(r"^\| data \| (.*?)(?:;| \|$)", card, re.M)
    return found[1] if found else ""


def main() -> None:
    """Print the page."""
    specs: dict[str, Any] = {}
    for plugin in plugins.plugins():
        for spec in [*plugin.priors.values(), *plugin.posteriors.values()]:
            if spec.weights:
                specs.setdefault(spec.weights.file, spec)
    print(HEADER)
    for entry in weights.manifest(weights.SHIPPED).values():
        spec = specs.get(entry.name)
        card = (weights.SHIPPED / entry.card).read_text("utf-8")
        name = Path(entry.name).stem
        shown = pictures(spec) if spec else "for cifar-FID"
        cells = [f"[`{name}`](../weights/{entry.card})", shown, trained_on(card), entry.licence]
        print("| " + " | ".join([*cells, f"{entry.bytes / 1e6:.1f}"]) + " |")
    print(
        "\n`toy-gaussian` and `toy-mixture` (8 x 8, gray) are closed forms whose exact posterior is known, for tests;\n"
        "`ncsn-paper-untrained` is the paper's network with random weights, to time it. `ncsn`, `glow` and\n"
        "`diffusers` take weights of your own: [train a prior](howto/train.md), [bring a model](howto/bring.md)."
    )


main()
