"""Unconditional pixel-space checkpoints in diffusers' format as priors. Imports neither torch nor diffusers."""

from __future__ import annotations

from basis_cli.api import PriorSpec, hookimpl


@hookimpl
def basis_priors() -> list[PriorSpec]:
    return [
        PriorSpec(
            name="diffusers",
            summary="Any unconditional pixel-space checkpoint of diffusers: diffusers:FOLDER, or a name in its cache",
            shape=None,
            load="basis_diffusers.prior:load",
            find="basis_diffusers.files:find",
            licence="of the checkpoint",
        )
    ]
