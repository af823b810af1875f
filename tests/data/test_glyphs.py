"""The choice of fonts, and the data set that is drawn from them."""

import json
import shutil
from pathlib import Path

import jax
import matplotlib as mpl
import numpy as np
import pytest

from domino_jax import data
from domino_jax.data import glyph_builder, glyph_fonts, glyph_images
from domino_jax.data.glyph_images import Font
from domino_jax.data.sets import glyphs

SHIPPED = Path(mpl.get_data_path()) / "fonts" / "ttf"  # DejaVu, STIX and Computer Modern
OPTIONS = {"fonts": str(SHIPPED), "min_designs": 3}


@pytest.fixture(scope="module", autouse=True)
def times_tests():
    """None of the three designs at hand would test; STIX does here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyph_builder, "is_test", lambda design: design == "times")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, times_tests):
    """A folder where the glyphs have been drawn."""
    folder = tmp_path_factory.mktemp("data")
    data.create("glyphs", data_dir=str(folder), **OPTIONS)
    return folder


@pytest.fixture(scope="module")
def made(folder):
    return data.create("glyphs", data_dir=str(folder), **OPTIONS)


@pytest.fixture(scope="module")
def plain(folder):
    return data.create("glyphs", data_dir=str(folder), augment=False, **OPTIONS)


def gray(inputs):
    """Undoes the scaling."""
    return np.rint(inputs * glyphs._STD + glyphs._MEAN).astype(int)


def fake(family, style, look, fault=""):
    images = np.full((62, 32, 32), look, np.uint8)
    return Font(f"{family}-{style}.ttf", family, style, images, fault)


def test_choice_by_hand():
    chosen, left_out = glyph_builder.choose(
        [
            fake("DejaVu Sans", "Bold", 1),
            fake("DejaVu Sans", "Bold", 2),  # the same name
            fake("DejaVu Mono", "Bold", 1),  # the same look
            fake("Tuffy", "Bold", 3, "unreadable"),
            fake("Tuffy", "Thin", 4),
            fake("STIX", "Thin", 5),
            fake("DejaVu Mono", "Thin", 6),
        ]
    )
    names = {
        split: {design: [(f.family, f.style) for f in fonts] for design, fonts in designs.items()}
        for split, designs in chosen.items()
    }
    assert names == {
        "train": {
            "tuffy": [("Tuffy", "Thin")],
            "vera": [("DejaVu Mono", "Thin"), ("DejaVu Sans", "Bold")],
        },
        "test": {"times": [("STIX", "Thin")]},
    }
    assert left_out == {"a copy of another": 2, "unreadable": 1}


def test_no_design_outweighs_the_others():
    chosen, left_out = glyph_builder.choose(fake("Tuffy", f"{k:02}", k) for k in range(40))
    styles = [font.style for font in chosen["train"]["tuffy"]]
    assert styles == [f"{k:02}" for k in range(0, 40, 2)]
    assert left_out == {"more than 20 of a design": 20}


def test_sizes_shapes_and_types(made):
    assert made.classes == 62
    assert made.train_size % 62 == made.test_size % 62 == 0
    assert made.example == jax.ShapeDtypeStruct((1, 32, 32, 1), np.float32)
    for batch in (made.train(0, 32)[0], next(iter(made.evaluate(32)))):
        assert batch["inputs"].shape == (32, 32, 32, 1)
        assert batch["inputs"].dtype == np.float32
        assert batch["labels"].shape == (32,)
        assert batch["labels"].dtype == np.int32


def test_the_test_images_are_those_of_the_test_fonts_in_the_order_of_the_card(made, folder):
    card = glyphs.card(data_dir=str(folder), **OPTIONS)
    fonts = {
        f"{font.family}, {font.style}": font
        for font in map(glyph_images.draw, sorted(SHIPPED.glob("STIX*.ttf")))
        if not font.fault
    }
    batches = list(made.evaluate(100))
    kept = np.concatenate([batch["weight"] for batch in batches]) == 1
    images = gray(np.concatenate([batch["inputs"] for batch in batches])[kept])[..., 0]
    labels = np.concatenate([batch["labels"] for batch in batches])[kept]
    names = card["fonts"]["test"]["times"]
    assert len(names) >= 4
    np.testing.assert_array_equal(images, np.concatenate([fonts[name].images for name in names]))
    np.testing.assert_array_equal(labels, np.tile(np.arange(62), len(names)))


def test_an_epoch_shows_every_image_once(plain, folder):
    (batch,) = [plain.train(3, plain.train_size)[0]]
    fonts = plain.train_size // 62
    assert np.bincount(batch["labels"]).tolist() == [fonts] * 62
    looks = {image.tobytes() for image in gray(batch["inputs"]).astype(np.uint8)}
    assert len(looks) > 0.9 * plain.train_size


def test_no_design_is_in_both_parts(folder):
    card = glyphs.card(data_dir=str(folder), **OPTIONS)
    assert set(card["fonts"]["train"]) == {"vera", "computer modern"}
    assert set(card["fonts"]["test"]) == {"times"}
    kept = sum(len(names) for designs in card["fonts"].values() for names in designs.values())
    assert (
        kept + sum(card["left_out"].values()) == card["files"] == len(list(SHIPPED.glob("*.ttf")))
    )


def test_the_card_is_beside_the_data(folder):
    (found,) = (folder / "glyphs").glob("fonts_*/1.0.0")
    card = glyphs.card(data_dir=str(folder), **OPTIONS)
    assert card.pop("install").startswith("apt-get update && apt-get install -y ")
    card.pop("counts")
    assert json.loads((found / "metadata.json").read_text()) == card
    assert {path.name for path in found.iterdir()} >= {
        "glyphs-test.array_record-00000-of-00001",
        "glyphs-train.array_record-00000-of-00001",
    }


def test_augmentation_shifts_by_up_to_one_pixel(made, plain):
    shifted, straight = made.train(0, 200)[1], plain.train(0, 200)[1]
    np.testing.assert_array_equal(shifted["labels"], straight["labels"])
    moves = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    found = set()
    for one, other in zip(gray(shifted["inputs"]), gray(straight["inputs"]), strict=True):
        wide = np.pad(other, ((1, 1), (1, 1), (0, 0)))
        matching = [m for m in moves if (wide[1 - m[0] :, 1 - m[1] :][:32, :32] == one).all()]
        assert matching
        found.update(matching[:1])
    assert found == set(moves)


def test_a_step_is_the_same_whenever_and_wherever_it_is_drawn(made, tmp_path):
    again = data.create("glyphs", data_dir=str(tmp_path), **OPTIONS)
    for step in (900, 3):
        one, other = made.train(5, 16)[step], again.train(5, 16)[step]
        np.testing.assert_array_equal(one["inputs"], other["inputs"])
        np.testing.assert_array_equal(one["labels"], other["labels"])
    assert (made.train(6, 16)[3]["inputs"] != one["inputs"]).any()
    running = data.stream(made.train(5, 16), 3)
    np.testing.assert_array_equal(next(running)["inputs"], one["inputs"])
    running.close()


def test_a_second_create_draws_nothing(folder, monkeypatch):
    def forbidden(path):
        raise AssertionError("drawn again")

    monkeypatch.setattr(glyph_builder, "draw", forbidden)
    assert data.create("glyphs", data_dir=str(folder), **OPTIONS).classes == 62


def test_other_fonts_are_another_data_set(tmp_path, capfd):
    fonts, place = tmp_path / "fonts", str(tmp_path / "data")
    fonts.mkdir()
    for name in ("DejaVuSans.ttf", "STIXGeneral.ttf"):
        shutil.copy(SHIPPED / name, fonts)
    options = {"data_dir": place, "fonts": [str(fonts)], "min_designs": 2}
    assert data.create("glyphs", **options).train_size == 62
    shutil.copy(SHIPPED / "cmr10.ttf", fonts)
    assert data.create("glyphs", **options).train_size == 124
    assert len(list((tmp_path / "data" / "glyphs").iterdir())) == 2
    (fonts / "cmr10.ttf").unlink()
    assert data.create("glyphs", **options).train_size == 62
    assert capfd.readouterr() == ("", "")


# Wrong input.


@pytest.mark.parametrize(
    "names", [[], ["DejaVuSans.ttf"], ["STIXGeneral.ttf"], ["DejaVuSans.ttf", "cmr10.ttf"]]
)
def test_too_few_fonts_name_the_command(tmp_path, names):
    for name in names:
        shutil.copy(SHIPPED / name, tmp_path)
    with pytest.raises(
        ValueError, match=r"on Debian: apt-get update && apt-get install -y .* fonts-"
    ) as caught:
        data.create("glyphs", data_dir=str(tmp_path / "data"), fonts=str(tmp_path), min_designs=2)
    assert "\n" not in str(caught.value)
    assert "expected 2 in all and some of each" in str(caught.value)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_a_prepared_set_of_too_few_designs(folder):
    with pytest.raises(
        ValueError, match=r"2 designs for training and 1 for testing; expected 20 in all"
    ):
        data.create("glyphs", data_dir=str(folder), fonts=str(SHIPPED))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fonts": "/no/such/folder"},
            "fonts: expected a folder or several, got '/no/such/folder'",
        ),
        ({"fonts": [3]}, "fonts: expected a folder or several, got 3, which is none"),
        ({"fonts": 3}, "fonts: expected a folder or several, got 3"),
        ({"min_designs": 1}, "min_designs: expected a whole number of at least 2, got 1"),
        ({"min_designs": "all"}, "min_designs: .* got 'all'"),
        ({"augment": "no"}, "augment: expected True or False, got 'no'"),
        ({"font": ""}, "data set 'glyphs'.*'font'; it takes .*fonts"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.create("glyphs", data_dir=str(tmp_path), **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        data.spec("glyphs", data_dir=str(tmp_path), **options)


def test_the_description_needs_no_font(made):
    spec = data.spec("glyphs")
    assert spec.example == made.example
    assert spec.classes == made.classes
    assert spec.label == jax.ShapeDtypeStruct((1,), np.int32)


def test_the_folders_of_the_system(monkeypatch):
    monkeypatch.setenv("XDG_DATA_DIRS", "/somewhere:/else")
    folders = [str(folder) for folder in glyph_fonts.system_folders()]
    assert folders[:3] == ["/somewhere/fonts", "/somewhere/texmf/fonts", "/else/fonts"]


def test_the_counts_are_those_of_the_data(made, folder):
    card = glyphs.card(data_dir=str(folder), **OPTIONS)
    train, test = card["counts"]["train"], card["counts"]["test"]
    assert (train["images"], test["images"]) == (made.train_size, made.test_size)
    assert (train["designs"], test["designs"]) == (2, 1)
    assert (train["fonts"], test["fonts"]) == (made.train_size // 62, made.test_size // 62)


def test_counts_by_hand():
    designs = {"a": ["A One, Bold", "A One, Book", "A Two, Book"], "b": ["B, Book"]}
    wanted = {"designs": 2, "families": 3, "fonts": 4, "images": 248}
    assert glyphs._counts(designs) == wanted


def test_the_fingerprint_tells_fonts_and_what_drew_them(made, tmp_path):
    assert "glyphs/fonts_" in made.fingerprint
    assert " pillow " in made.fingerprint
    for path in [*SHIPPED.glob("DejaVu*.ttf"), *SHIPPED.glob("STIX*.ttf")]:
        shutil.copy(path, tmp_path)
    options = {"fonts": str(tmp_path), "min_designs": 2}
    other = data.create("glyphs", data_dir=str(tmp_path), **options)
    assert other.fingerprint != made.fingerprint
