"""Characters drawn from fonts, and what is wrong with some of them."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from domino_jax.data import glyph_images
from domino_jax.data.glyph_images import CHARACTERS

SHIPPED = Path(mpl.get_data_path()) / "fonts" / "ttf"  # DejaVu, STIX and Computer Modern


def of_character(font, character):
    return font.images[CHARACTERS.index(character)]


def rows(image):
    """Returns the first and the last row with dark ink."""
    return np.flatnonzero((image >= 100).any(axis=1))[[0, -1]].tolist()


def test_characters():
    assert len(CHARACTERS) == 62
    assert (CHARACTERS[0], CHARACTERS[26], CHARACTERS[61]) == ("A", "a", "9")


def test_all_characters_stand_on_one_baseline_at_one_size():
    font = glyph_images.draw(SHIPPED / "DejaVuSans.ttf")
    assert (font.file, font.family, font.style) == ("DejaVuSans.ttf", "DejaVu Sans", "Book")
    assert font.fault == ""
    assert font.images.shape == (62, 32, 32)
    assert font.images.dtype == np.uint8
    heights = {c: rows(of_character(font, c)) for c in "AHEixvzpT1"}
    assert {heights[c][1] for c in "AHEixvzT1"} == {21}
    assert {heights[c][0] for c in "HET1"} == {6}
    assert heights["x"][0] == heights["z"][0] == 10
    assert heights["p"] == [10, 26]


@pytest.mark.parametrize("pair", ["cC", "oO", "vV", "zZ"])
def test_case_is_kept(pair):
    font = glyph_images.draw(SHIPPED / "DejaVuSans.ttf")
    small, large = (of_character(font, character) for character in pair)
    assert rows(small)[0] > rows(large)[0]


def test_characters_are_in_the_middle():
    font = glyph_images.draw(SHIPPED / "DejaVuSansMono.ttf")
    for character in "HTXov8":
        columns = np.flatnonzero((of_character(font, character) >= 100).any(axis=0))
        assert abs(columns[[0, -1]].mean() - 15.5) <= 1


def framed(*places, ink=255):
    """Makes framed images with one dot each, or none, in an image of 32 within a frame of 16."""
    images = np.zeros((len(places), 64, 64), np.uint8)
    for image, place in zip(images, places, strict=True):
        if place is not None:
            image[place[0] + 16, place[1] + 16] = ink
    return images


@pytest.mark.parametrize(
    ("places", "fault"),
    [
        ([(0, 0), (31, 31), (5, 6)], ""),
        ([(0, 0), None, (5, 6)], "an empty character"),
        ([(0, 0), (3, 3), (5, 6)], "a missing character"),
        ([(0, 0), (5, 6), (5, 6)], "two characters look the same"),
        ([(0, 0), (5, 32), (5, 6)], "a character does not fit"),
        ([(0, 0), (-1, 6), (5, 6)], "a character does not fit"),
    ],
)
def test_faults_by_hand(places, fault):
    assert glyph_images._fault(framed(*places), framed((3, 3))[0]) == fault


def test_faint_ink_is_none():
    assert glyph_images._fault(framed((0, 0), ink=3), framed((3, 3))[0]) == "an empty character"


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("cmsy10.ttf", "a missing character"),
        ("STIXSizOneSymReg.ttf", "a missing character"),
        ("cmr10.ttf", ""),
    ],
)
def test_faults_of_real_fonts(file, fault):
    found = glyph_images.draw(SHIPPED / file).fault
    assert bool(found) == bool(fault)


def test_a_file_that_is_no_font(tmp_path):
    (tmp_path / "broken.ttf").write_text("mine")
    font = glyph_images.draw(tmp_path / "broken.ttf")
    assert (font.file, font.fault) == ("broken.ttf", "unreadable")
