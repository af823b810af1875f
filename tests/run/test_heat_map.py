"""The map of N by block and matrix: when there is one, and what stands where."""

import matplotlib.image
import pytest

from domino_jax.run import heat_map, report

MATRICES = ("attention/q", "attention/o", "mlp/up")


def row(name, n=None):
    density = 1.0 if n is None else n / 16
    return {"name": name, "nm": f"{n}:16" if n else "", "density": density, "counted": True}


def stacked(blocks):
    return [row(f"net/{m}/kernel#{b}", 1 + b % 16) for b in range(blocks) for m in MATRICES]


def test_slices_and_numbers_in_paths_are_blocks():
    head = row("head/kernel")
    in_paths = [row(f"net/{b}/{m}/kernel", 4) for b in range(15) for m in MATRICES]
    for rows, names in (
        (stacked(15), [f"net/{m}/kernel#*" for m in MATRICES]),
        (in_paths, [f"net/*/{m}/kernel" for m in MATRICES]),
    ):
        found = heat_map.heat_map([*rows, head])
        assert list(found.matrices) == names
        assert list(found.blocks) == list(range(15))
        assert found.cells[names[1], 7] is rows[7 * 3 + 1]
        assert found.others == [head]


@pytest.mark.parametrize(
    "rows",
    [
        stacked(4),  # few
        [row(f"layer{i}/kernel") for i in range(50)],  # of no blocks
        [row(f"stage{s}/{b}/kernel") for s in range(20) for b in range(1 + s % 5)],  # mostly empty
        [row(f"a/{b}/{c}/kernel") for b in range(8) for c in range(8)],  # two numbers
        [*stacked(15), *stacked(15)],  # two layers in one place
        [row(f"a/{b}/{c}/{m}") for b in range(30) for c in (0, 1) for m in MATRICES if b % 2 == c],
    ],
)
def test_other_networks_have_none(rows):
    assert heat_map.heat_map(rows) is None


def texts(monkeypatch):
    """Notes what is drawn: (x, y, text)."""
    from matplotlib.axes import Axes  # noqa: PLC0415

    drawn, draw = [], Axes.text

    def text(self, x, y, s, **options):
        drawn.append((x, y, s))
        return draw(self, x, y, s, **options)

    monkeypatch.setattr(Axes, "text", text)
    return drawn


def test_the_picture_has_the_n_of_each_layer_and_is_no_wider_for_more_matrices(
    tmp_path, monkeypatch
):
    drawn = texts(monkeypatch)
    rows = [*stacked(30), row("head/kernel")]
    path = tmp_path / "map.png"
    report.plot(path, {"layers": rows}, [], "a title", 0.5)
    assert len(drawn) == 90
    assert (7, 1, "8") in drawn
    height, width, _ = matplotlib.image.imread(path).shape
    assert width < 120 * 15
    assert height < 120 * 5


def test_with_a_curve_the_map_stands_below_it(tmp_path):
    curve = [{"step": 0, "share": 1.0}, {"step": 50, "share": 0.5}]
    sizes = []
    for points in ([], curve):
        path = tmp_path / "map.png"
        report.plot(path, {"layers": stacked(15)}, points, "a title", 0.5)
        sizes.append(matplotlib.image.imread(path).shape)
    assert sizes[1][0] == pytest.approx(sizes[0][0] + 360, abs=2)


def test_names_lose_what_all_have_in_common():
    assert heat_map._without_common_parts(["net/a/q/kernel#*", "net/b/kernel#*"]) == ["a/q", "b"]
    assert heat_map._without_common_parts(["net/a/kernel#*"]) == ["kernel"]
