"""What was published of separations of digits."""

from __future__ import annotations

PAPER_PSNR = {  # Table 2: mean PSNR in dB over 6,000 MNIST pairs
    "class-split": {
        "average": 14.8,
        "NMF": 16.0,
        "NES": 24.3,
        "BASIS Glow": 22.9,
        "BASIS Glow 10x": 27.7,
        "BASIS NCSN": 29.5,
    },
    "class-agnostic": {
        "average": 14.9,
        "NMF": 9.4,
        "S-D": 18.5,
        "BASIS Glow": 22.7,
        "BASIS Glow 10x": 27.1,
        "BASIS NCSN": 29.3,
    },
}
OWN_MIXTURES = {
    2: {"LASS, own mixtures": 24.23, "MLASS-BP, own mixtures": 19.30, "BASIS NCSN, any two digits": 29.3},
    3: {"MLASS-BP, own mixtures": 14.19},
}
"""Mean PSNR in dB by the number of digits, none of them by the protocol of MS-VAE itself: Postolache et al. (2023),
their extension to several digits, and Table 2."""


def published(protocol: str, data: str, k: int) -> dict[str, float]:
    """Mean PSNRs in dB that were published for mixtures of ``k`` pictures, by method."""
    if data != "mnist":
        return {}
    if protocol == "ms-vae":
        return OWN_MIXTURES.get(k, {})
    return PAPER_PSNR[protocol] if k == 2 else {}
