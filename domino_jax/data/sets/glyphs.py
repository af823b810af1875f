"""Letters and digits, A-Z a-z 0-9, in the fonts of this machine, as a TFDS data set.

What: each usable font file draws each of the 62 characters once, gray on 32x32 pixels, at one size
and on one baseline for all. A font that lacks a letter, draws two alike or has none is left out.
The fonts are those of 41 packages of Debian (44 MB; 120 MB installed); this prints the command that
installs them:

    python -c "from domino_jax.data.glyph_fonts import INSTALL; print(INSTALL)"

Split: by design, so that a test font looks like no training font. A design is a family with those
that copy it or begin with the same word (`glyph_fonts.design_of`); it tests if the SHA-256 of its
name is divisible by 5. Of a design at most 20 fonts are taken.

With these packages of Debian 12, Pillow 13.0.0: 510 font files; 415 of 97 families and 44 designs
draw. 318 fonts of 34 designs train (19,716 images), 97 of 10 designs (6,014) test. Left out: 76
files over 20 of a design, 10 copies, 4 in which two characters look the same, 4 without letters and
1 whose letters do not fit. The nearest neighbor is right for 90.4 % of the test images; a
quarter of its mistakes is a letter's case, a quarter lies among I, l and 1 and among O, Q and 0.
The images are not redistributed: each font keeps its own free license.

Fonts differ from machine to machine, and so do the data: their folder carries a fingerprint of the
names and sizes of the font files, and other fonts are drawn anew. `card` lists what was drawn.

Letters: N images, B rows of one batch, C = 62 characters, H = W = 32 pixels.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.data import Data, Spec
from domino_jax.data.augment import pad_crop
from domino_jax.data.glyph_fonts import INSTALL, system_folders
from domino_jax.data.glyph_images import CHARACTERS, SIZE
from domino_jax.data.in_memory import evaluate_arrays, train_arrays
from domino_jax.data.options import require_flag, require_whole
from domino_jax.data.pipeline import Batch

_TRAIN_FONTS, _TEST_FONTS = 318, 97  # of the packages above
_MEAN, _STD = np.float32(16.2), np.float32(56.9)  # of the training pixels
_EXAMPLE = jax.ShapeDtypeStruct((1, SIZE, SIZE, 1), np.float32)


def create(
    *,
    data_dir: str = "",
    workers: int = 0,
    fonts: str | Sequence[str] = (),
    augment: bool = True,
    min_designs: int = 20,
) -> Data:
    """Opens the glyphs; the first use draws them, in some seconds.

    Args:
        data_dir: folder of all data sets; '' is TFDS_DATA_DIR or the default of TFDS.
        workers: not used; threads serve arrays in memory.
        fonts: folder or folders in which to look for .ttf and .otf files; () is the system's.
        augment: shift every training image by up to one pixel each way. The shifts (all nine of
            each image) take the nearest neighbor from 90.4 to 92.7 %; by up to two: 92.5 %.
        min_designs: fewer different designs than this, 2 or more, are refused.

    Returns:
        Inputs are float32 [B, 32, 32, 1] of about zero mean and unit variance; labels 0 to 61 in
        the order of `glyph_images.CHARACTERS`.

    Raises:
        InputError: too few usable fonts (with the command that installs some), a folder that is
            none, an option of the wrong kind, or the data cannot be written.
    """
    del workers
    require_flag("augment", augment)
    builder = _builder(data_dir, fonts, min_designs)
    train, test = _arrays(builder, "train"), _arrays(builder, "test")
    return Data(
        train=partial(train_arrays, train, augment=_shift if augment else None, finish=_normalize),
        evaluate=partial(evaluate_arrays, test, finish=_normalize),
        example=_EXAMPLE,
        classes=len(CHARACTERS),
        train_size=len(train["labels"]),
        test_size=len(test["labels"]),
        fingerprint=_drawn(builder),
    )


def spec(
    *,
    data_dir: str = "",
    workers: int = 0,
    fonts: str | Sequence[str] = (),
    augment: bool = True,
    min_designs: int = 20,
) -> Spec:
    """Describes the glyphs of the packages above; nothing is drawn. Arguments as for `create`."""
    del data_dir, workers
    require_flag("augment", augment)
    _require_options(fonts, min_designs)
    label = jax.ShapeDtypeStruct((1,), np.int32)
    return Spec(_EXAMPLE, label, len(CHARACTERS), 62 * _TRAIN_FONTS, 62 * _TEST_FONTS)


def card(
    *, data_dir: str = "", fonts: str | Sequence[str] = (), min_designs: int = 20
) -> dict[str, Any]:
    """Describes the data set of these fonts, drawn if need be; arguments as for `create`.

    The same, but for counts and command, is in the file metadata.json beside the data.

    Returns:
        'files' found, 'fonts' {split: {design: ['Family, Style', …]}} drawn, 'left_out' {reason:
        files}, the 'pillow' and 'freetype' versions that drew, 'counts' {split: {'designs',
        'families', 'fonts', 'images'}}, and 'install', the command that installs the fonts of the
        default set on Debian.

    Raises:
        InputError: as `create`.
    """
    drawn = _builder(data_dir, fonts, min_designs).info.metadata
    counts = {split: _counts(designs) for split, designs in drawn["fonts"].items()}
    return {**drawn, "counts": counts, "install": INSTALL}


def _builder(data_dir: str, fonts: str | Sequence[str], min_designs: int) -> Any:
    from domino_jax.data.glyph_builder import prepare  # TFDS: a second  # noqa: PLC0415

    folders = _require_options(fonts, min_designs) or system_folders()
    return prepare(folders, data_dir=data_dir, min_designs=min_designs)


def _require_options(fonts: str | Sequence[str], min_designs: int) -> tuple[Path, ...]:
    """Returns the folders that are given."""
    require_whole("min_designs", min_designs, 2)
    if not isinstance(fonts, Sequence):
        raise InputError(f"fonts: expected a folder or several, got {fonts!r}")
    folders = [fonts] if isinstance(fonts, str) else fonts
    for folder in folders:
        if not isinstance(folder, str) or not Path(folder).is_dir():
            raise InputError(f"fonts: expected a folder or several, got {folder!r}, which is none")
    return tuple(map(Path, folders))


def _drawn(builder: Any) -> str:
    """Names the fonts, and what drew them: another version may round otherwise."""
    card = builder.info.metadata
    return f"{builder.info.full_name} pillow {card['pillow']} freetype {card['freetype']}"


def _counts(designs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Counts what a split has, from {design: ['Family, Style']}."""
    fonts = [font for names in designs.values() for font in names]
    families = {font.rpartition(", ")[0] for font in fonts}
    images = len(fonts) * len(CHARACTERS)
    return {
        "designs": len(designs),
        "families": len(families),
        "fonts": len(fonts),
        "images": images,
    }


def _arrays(builder: Any, split: str) -> Batch:
    """Reads a split: 'inputs' uint8 [N, H, W, 1], 'labels' int32 [N]."""
    images = np.concatenate([font["images"] for font in builder.as_data_source(split)])
    labels = np.arange(len(images), dtype=np.int32) % np.int32(len(CHARACTERS))
    return {"inputs": images[..., None], "labels": labels}


def _shift(batch: Batch, rng: np.random.Generator) -> Batch:
    return {**batch, "inputs": pad_crop(batch["inputs"], rng, 1)}


def _normalize(batch: Batch) -> Batch:
    return {**batch, "inputs": (batch["inputs"].astype(np.float32) - _MEAN) / _STD}
