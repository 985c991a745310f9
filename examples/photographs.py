"""The pictures of docs/results/photographs.md: before and after each command.

python examples/photographs.py coffee.png astronaut.png chelsea.png OUT, of the photographs in `skimage.data`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 256


def square(file: str) -> Image.Image:
    """The middle of a picture."""
    picture = Image.open(file).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def scratches() -> Image.Image:
    """A mask: two scratches, a date, and a square."""
    mask = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(mask)
    draw.line((20, 200, 236, 150), fill=255, width=5)
    draw.line((30, 40, 120, 236), fill=255, width=4)
    draw.text((60, 215), "12 MAY 1998", fill=255, font_size=24)
    draw.rectangle((190, 30, 214, 54), fill=255)
    return mask


def psnr(picture: Image.Image, truth: Image.Image) -> float:
    difference = (np.asarray(picture, np.float64) - np.asarray(truth, np.float64)) / 255
    return float(-10 * np.log10(np.square(difference).mean()))


def seconds() -> float:
    """Processor time of the commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(coffee_file: str, astronaut_file: str, cat_file: str, out: Path) -> None:
    coffee, astronaut, cat = map(square, (coffee_file, astronaut_file, cat_file))
    out.mkdir(parents=True, exist_ok=True)
    coffee.save(out / "coffee.jpg", quality=10)
    astronaut.resize((SIDE // 2, SIDE // 2), Image.Resampling.BOX).save(out / "astronaut.png")
    cat.save(out / "cat.png")
    mask = scratches()
    mask.save(out / "mask.png")
    coffee.convert("L").save(out / "coffee-gray.png")
    cat.convert("L").save(out / "cat-gray.png")
    scratched = cat.copy()
    scratched.paste((255, 255, 255), mask=mask)
    small = Image.open(out / "astronaut.png").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    commands: list[tuple[list[str], Image.Image, Image.Image]] = [
        (["decompress", "coffee.jpg"], Image.open(out / "coffee.jpg"), coffee),
        (["upscale", "astronaut.png", "--factor", "2"], small, astronaut),
        (["inpaint", "cat.png", "--mask", "mask.png"], scratched, cat),
        (["colorize", "coffee-gray.png"], coffee.convert("L"), coffee),
        (["colorize", "cat-gray.png"], cat.convert("L"), cat),
    ]
    for command, before, truth in commands:
        began = seconds()
        done = subprocess.run(
            ["basis", *command, "-o", command[0]], cwd=out, check=True, stdout=subprocess.PIPE, text=True
        )
        after = Image.open(out / done.stdout.strip())
        sheet = Image.new("RGB", (3 * SIDE + 16, SIDE), "white")
        for place, picture in enumerate((before.convert("RGB"), after.convert("RGB"), truth)):
            sheet.paste(picture, (place * (SIDE + 8), 0))
        sheet.save(out / f"photo-{command[0]}-{Path(command[1]).stem}.jpg", quality=80)
        quality = f"{psnr(before.convert('RGB'), truth):.1f} -> {psnr(after.convert('RGB'), truth):.1f} dB"
        print(*command, quality, f"{seconds() - began:.1f} s")


main(*sys.argv[1:4], Path(sys.argv[4]))
