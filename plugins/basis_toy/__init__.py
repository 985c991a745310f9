"""Toy priors whose posterior is known in closed form. Importing this module does not import torch."""

from __future__ import annotations

from basis_cli.api import PriorSpec, hookimpl


@hookimpl
def basis_priors() -> list[PriorSpec]:
    return [
        PriorSpec(
            name="toy-gaussian",
            summary="Soft blobs, 8 x 8 gray: one Gaussian with a smooth covariance; no weights",
            shape=(1, 8, 8),
            load="basis_toy.prior:load",
        ),
        PriorSpec(
            name="toy-mixture",
            summary="Bars, a disc and a ring, 8 x 8 gray: a mixture of four Gaussians; no weights",
            shape=(1, 8, 8),
            load="basis_toy.prior:load",
        ),
    ]
