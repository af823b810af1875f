"""Chooses fonts, draws them once and keeps them as a TFDS data set.

Letters: C = 62 characters, H = W = 32 pixels.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import tensorflow_datasets as tfds
from PIL import features

from domino_jax.core.errors import InputError
from domino_jax.data.glyph_fonts import INSTALL, design_of, find_files, fingerprint, is_test
from domino_jax.data.glyph_images import CHARACTERS, SIZE, Font, draw
from domino_jax.data.prepared import LocalInfo, prepare_own

_MOST = 20  # fonts of a design

Chosen = dict[str, dict[str, list[Font]]]  # {split: {design: [font]}}


def prepare(folders: Iterable[Path], *, data_dir: str, min_designs: int) -> Any:
    """Returns the builder of the fonts in some folders, drawn if that has not been done.

    Args:
        folders: where to look for font files.
        data_dir: folder of all data sets; '' is TFDS_DATA_DIR or the default of TFDS.
        min_designs: how many designs are wanted, at least.

    Returns:
        The builder; `info.metadata` holds 'files' found, 'fonts' {split: {design: ['Family, Style',
        …]}} drawn, 'left_out' {reason: files}, and the 'pillow' and 'freetype' that drew.

    Raises:
        InputError: too few usable fonts, or the data cannot be written.
    """
    files = find_files(folders)
    config = _Fonts(name=f"fonts_{fingerprint(files)}", files=files, min_designs=min_designs)
    builder = prepare_own(partial(Glyphs, config=config), data_dir)
    _require_designs(builder.info.metadata["fonts"], min_designs)
    return builder


@dataclass(eq=False)
class _Fonts(tfds.core.BuilderConfig):
    """The font files of one prepared data set; the name is their fingerprint."""

    files: tuple[Path, ...] = ()
    min_designs: int = 2


class Glyphs(tfds.core.GeneratorBasedBuilder):
    """One example a font: 'images' uint8 [C, H, W], 'family', 'style' and 'file'.

    Image by image, opening would take seconds.
    """

    VERSION = tfds.core.Version("1.0.0")  # of the drawing

    def _create_builder_config(self, builder_config: Any, version: Any) -> Any:
        """Takes the config as it is: TFDS logs a warning about one that is in no list."""
        del version
        return builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (len(CHARACTERS), SIZE, SIZE)
        return LocalInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "images": tfds.features.Tensor(shape=shape, dtype=np.uint8),
                    "family": tfds.features.Text(),
                    "style": tfds.features.Text(),
                    "file": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,  # in the order of the metadata
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        del dl_manager
        files = self.builder_config.files
        chosen, left_out = choose(map(draw, files))
        _require_designs(chosen, self.builder_config.min_designs)
        self.info.metadata.update(_describe(chosen, len(files), left_out))
        return {split: self._generate_examples(designs) for split, designs in chosen.items()}

    def _generate_examples(self, designs: Mapping[str, Sequence[Font]]) -> Iterator[Any]:
        for place, font in enumerate(font for fonts in designs.values() for font in fonts):
            names = {"family": font.family, "style": font.style, "file": font.file}
            yield place, {"images": font.images, **names}


def choose(fonts: Iterable[Font]) -> tuple[Chosen, Counter[str]]:
    """Shares fonts out to the splits, by design.

    Of fonts with one name or one look the first is kept; of a design at most 20, evenly by family
    and file, so that none outweighs the others.

    Returns:
        {split: {design: [font]}}, and how many fonts are left out for which reason.
    """
    designs: dict[str, list[Font]] = {}
    left_out: Counter[str] = Counter()
    seen: set[object] = set()
    for font in fonts:
        marks = {(font.family, font.style), font.images.tobytes()}
        if reason := font.fault or ("a copy of another" if seen & marks else ""):
            left_out[reason] += 1
            continue
        seen |= marks
        designs.setdefault(design_of(font.family), []).append(font)
    chosen: Chosen = {"train": {}, "test": {}}
    for design, fonts_of_design in sorted(designs.items()):
        members = sorted(fonts_of_design, key=lambda font: (font.family, font.file))
        count = min(len(members), _MOST)
        left_out[f"more than {_MOST} of a design"] += len(members) - count
        kept = [members[k * len(members) // count] for k in range(count)]
        chosen["test" if is_test(design) else "train"][design] = kept
    return chosen, +left_out


def _require_designs(chosen: Mapping[str, Mapping[str, Any]], min_designs: int) -> None:
    """Refuses too few designs, or a split that has none."""
    train, test = len(chosen["train"]), len(chosen["test"])
    if train + test < min_designs or not train or not test:
        raise InputError(
            f"glyphs: the usable fonts found are of {train} designs for training and {test} for "
            f"testing; expected {min_designs} in all and some of each; on Debian: {INSTALL}"
        )


def _describe(chosen: Chosen, files: int, left_out: Mapping[str, int]) -> dict[str, Any]:
    drawn = {
        split: {
            design: [f"{font.family}, {font.style}" for font in fonts]
            for design, fonts in designs.items()
        }
        for split, designs in chosen.items()
    }
    versions = {"pillow": PIL.__version__, "freetype": features.version("freetype2")}
    return {"files": files, "fonts": drawn, "left_out": dict(sorted(left_out.items())), **versions}
