"""Draw the README's picture: mixtures of two test digits, their separation, and the truth.

BASIS_DATA=~/data python examples/separation_sheet.py docs/sheets/digits.png
"""

import sys
from pathlib import Path

import torch

import basis_cli
from basis_cli.data import datasets, images

COUNT = 12

test = datasets.load_dataset("mnist", "test")
chosen = datasets.mixture_indices(test, k=2, count=COUNT, protocol="class-agnostic", seed=0)
truth = test[chosen.T]
better = {"preset": "best"}
result = basis_cli.separate(truth.mean(0), references=truth, prior="ncsn-mnist", **better)
rows = torch.cat([result.y, result.components[:, :, 0].flatten(0, 1), truth.flatten(0, 1)])
enlarged = rows.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
images.write_sheet(Path(sys.argv[1]), enlarged.numpy(), columns=COUNT)
print(f"mean PSNR {result.psnr.mean():.1f} dB, {result.seconds:.0f} s")
