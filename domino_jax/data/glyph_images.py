"""Draws the letters and digits of a font, all at one size and on one baseline.

Letters: C = 62 characters, H = W = 32 pixels.

Nothing is fitted to a character's box: that would erase what tells c from C and o from O.
"""

import re
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CHARACTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
SIZE = 32  # pixels, height and width of an image
_EM = 22  # pixels; capitals are about 16 high
_BASELINE = 22  # rows above it
_FRAME = 16  # pixels around the image, to see what sticks out
_NONE = "\U0010ffff"  # never a character: every font draws its sign for "missing"
_FAINT = 16  # of 255: ink that is not worth keeping
_OTHER = re.compile("symbol|dingbat|D050000L|keyboard|initials|icons?\\b|emoji|awesome", re.I)


@dataclass(frozen=True)
class Font:
    """What a font file draws.

    Attributes:
        file: name of the file.
        family: 'DejaVu Sans'.
        style: 'Bold Oblique'.
        images: uint8 [C, H, W], ink 255 on 0, the middle of a character's advance in the middle of
            the image.
        fault: why the font is of no use, '' if it is.
    """

    file: str
    family: str
    style: str
    images: np.ndarray
    fault: str


def draw(path: Path) -> Font:
    """Draws all characters of a file that FreeType reads; any other is a font with a fault."""
    try:
        font = ImageFont.truetype(path, _EM, layout_engine=ImageFont.Layout.BASIC)
        framed = np.stack([_draw(font, character) for character in CHARACTERS])
        missing = _draw(font, _NONE)
    except (OSError, ValueError):
        nothing = np.zeros((len(CHARACTERS), SIZE, SIZE), np.uint8)
        return Font(path.name, "", "", nothing, "unreadable")
    family, style = (name or "" for name in font.getname())
    inner = slice(_FRAME, _FRAME + SIZE)
    fault = "no letters" if _OTHER.search(family) else _fault(framed, missing)
    return Font(path.name, family, style, framed[:, inner, inner].copy(), fault)


def _draw(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    """Draws one character with a frame around the image, uint8 [H + 32, W + 32]."""
    image = Image.new("L", (SIZE + 2 * _FRAME, SIZE + 2 * _FRAME))
    place = (_FRAME + SIZE // 2, _FRAME + _BASELINE)
    ImageDraw.Draw(image).text(place, character, fill=255, font=font, anchor="ms")
    return np.asarray(image)


def _fault(framed: np.ndarray, missing: np.ndarray) -> str:
    """Says why a font is of no use, from its framed images; '' if it is."""
    ink = framed >= _FAINT
    outside = ink.copy()
    outside[:, _FRAME : _FRAME + SIZE, _FRAME : _FRAME + SIZE] = False
    if not ink.any(axis=(1, 2)).all():
        return "an empty character"
    if (framed == missing).all(axis=(1, 2)).any():
        return "a missing character"
    if len({image.tobytes() for image in framed}) < len(framed):
        return "two characters look the same"
    if outside.any():
        return "a character does not fit"
    return ""
