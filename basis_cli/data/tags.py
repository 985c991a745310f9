"""What a file says of its picture beside the samples: colour profile and EXIF data."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

DESCRIBING = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)
"""Tags that hold of an answer as of the file; others tell how the file itself is stored, its orientation among them."""
OF_THE_FILE = (0x927C, 0xA002, 0xA003, 0xA005)  # maker note, width, height, interoperability


@dataclass(frozen=True)
class Tags:
    """What goes from a file to the answers."""

    exif: bytes = b""
    profile: bytes = b""
    """An ICC profile of the pixels' colours; none: sRGB."""
    about: dict[str, Any] = field(default_factory=dict)
    """For a record."""


def describing_exif(image: Image.Image) -> bytes:
    """Where, when, and with what the picture was taken, and whose it is; empty if that is not known."""
    own, kept = image.getexif(), Image.Exif()
    for tag in DESCRIBING:
        if tag in own:
            kept[tag] = own[tag]
    for group in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        values = {tag: value for tag, value in own.get_ifd(group).items() if tag not in OF_THE_FILE}
        if values:
            kept[group] = values
    return kept.tobytes() if len(kept) else b""


class Profile:
    """The ICC profile of a picture, as a way from its colours to sRGB.

    Raises:
        ImageCms.PyCMSError: it is damaged, or of a kind that pictures do not have.
        ImportError: this Pillow was built without LittleCMS.
    """

    def __init__(self, data: bytes):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        self.name = ImageCms.getProfileDescription(profile).strip() or "unnamed"
        space = profile.profile.xcolor_space.strip()
        self.mode = {"GRAY": "L"}.get(space, space)
        if self.mode not in ("L", "RGB", "CMYK"):
            raise ImageCms.PyCMSError(f"it is of {space} colours")
        self._transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), self.mode, "RGB")

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """An 8-bit picture without opacity, gray or in colour, of the same kind."""
        converted = self._transform.apply(image.convert(self.mode))
        return converted.getchannel(1) if image.mode == "L" else converted

    @property
    def is_srgb(self) -> bool:
        """Whether it changes no colour by more than rounding."""
        if self.mode == "CMYK":
            return False
        some = np.linspace(0, 255, 9).round().astype(np.uint8)
        cube = np.stack(np.meshgrid(some, some, some), -1).reshape(27, 27, 3)
        colours = Image.fromarray(cube if self.mode == "RGB" else cube[..., 0])
        return bool(np.abs(np.asarray(self.to_srgb(colours), int) - np.asarray(colours, int)).max() <= 1)


def srgb() -> bytes:
    """The profile of sRGB, the same bytes every time."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    date = bytes([7, 228, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0])  # bytes 24 to 35 are when it was made: now
    return profile[:24] + date + profile[36:]
