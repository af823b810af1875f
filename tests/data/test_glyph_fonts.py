"""The files of fonts, their designs, and which of these test."""

import pytest

from domino_jax.data import glyph_fonts


def make_files(folder, sizes):
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * size)
    return folder


def test_files_by_hand(tmp_path):
    one = make_files(tmp_path / "one", {"b.ttf": 1, "deep/a.OTF": 2, "c.pfb": 3, "z/b.ttf": 1})
    two = make_files(tmp_path / "two", {"b.ttf": 1, "a.OTF": 5})
    (two / "gone.ttf").symlink_to("nowhere")
    found = glyph_fonts.find_files([one, two, tmp_path / "three"])
    assert found == (one / "deep/a.OTF", two / "a.OTF", one / "b.ttf")
    assert glyph_fonts.find_files([]) == ()


def test_the_fingerprint_depends_on_names_and_sizes_only(tmp_path):
    sizes = {"a.ttf": 1, "b.ttf": 2}
    folders = [
        make_files(tmp_path / "0", sizes),
        make_files(tmp_path / "1", {f"deep/{name}": size for name, size in sizes.items()}),
        make_files(tmp_path / "2", {**sizes, "b.ttf": 3}),
        make_files(tmp_path / "3", {**sizes, "c.ttf": 3}),
        make_files(tmp_path / "4", {"a.ttf": 1, "d.ttf": 2}),
    ]
    marks = [glyph_fonts.fingerprint(glyph_fonts.find_files([folder])) for folder in folders]
    assert marks[0] == marks[1]
    assert len(set(marks)) == 4


@pytest.mark.parametrize(
    ("family", "design"),
    [
        ("DejaVu Sans Mono", "vera"),
        ("TeX Gyre Heros Cn", "helvetica"),
        ("Nimbus Sans", "helvetica"),
        ("Nimbus Roman", "times"),
        ("STIXGeneral", "times"),
        ("cmss10", "computer modern"),
        ("Latin Modern Mono", "computer modern"),
        ("Carlito", "lato"),
        ("PT Serif", "pt"),
        ("Cabin", "cabin"),
        ("", ""),
    ],
)
def test_designs(family, design):
    assert glyph_fonts.design_of(family) == design


def test_a_fifth_of_the_designs_tests():
    tests = [name for name in ("lato", "vera", "gillius", "courier") if glyph_fonts.is_test(name)]
    assert tests == ["gillius", "courier"]
    assert 160 < sum(glyph_fonts.is_test(f"design{k}") for k in range(1000)) < 240
