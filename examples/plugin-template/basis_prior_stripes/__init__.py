"""What this plugin offers. Loaded by every ``basis`` command, so keep it light: no torch here."""

from __future__ import annotations

from basis_cli.api import PriorSpec, hookimpl


@hookimpl
def basis_priors() -> list[PriorSpec]:
    return [
        PriorSpec(
            name="stripes",  # what users type; if somebody else's prior has this name, ours is `stripes/stripes`
            summary="Stripes in four directions, 16 x 16 gray; no weights",
            shape=(1, 16, 16),  # channels, height, width
            load="basis_prior_stripes.prior:load",  # a string, so that torch is imported only when it is used
            # sigmas=(1.0, 0.6, ..., 0.01)  only if yours knows certain noise levels; left out, it takes any
            #
            # A prior with weights names their file here and ships it inside the package, say in
            # basis_prior_stripes/weights/ (hatchling puts it into the wheel by itself):
            # weights=WeightFile("stripes.safetensors", "<SHA-256, 64 hex digits>", Path(__file__).parent / "weights"),
            # Too large to ship? Give `url=...` as well, and users fetch it with `basis weights pull stripes`.
            # licence="MIT",  # of the weights
        )
    ]
