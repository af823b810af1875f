"""Any scheme comes back from its file, and from the text of the paper."""

from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from domino_jax.core import published, scheme
from domino_jax.core.scheme import NM

LEVELS = st.integers(1, 64).flatmap(lambda m: st.builds(NM, st.integers(1, m), st.just(m)))
SCHEMES = st.dictionaries(st.text(), LEVELS)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(SCHEMES, JSON)
def test_a_scheme_comes_back_from_json(tmp_path_factory, layers, extra):
    path = tmp_path_factory.getbasetemp() / "scheme.json"
    with mock.patch("os.fsync"):  # a disk takes its time
        scheme.save(path, layers, config=extra)
    assert list(scheme.load(path).items()) == list(layers.items())
    assert scheme.load_document(path)["config"] == extra


@given(LEVELS)
def test_a_level_comes_back_from_text(nm):
    assert NM.parse(str(nm)) == nm


KINDS = st.one_of(
    st.tuples(st.just("Linear"), st.just(())),
    st.tuples(st.just("SparseConv"), st.lists(st.integers(1, 11), min_size=1, max_size=3)),
)
ENTRIES = st.lists(st.tuples(KINDS, st.integers(1, 4096), st.integers(1, 4096), LEVELS))


@given(ENTRIES)
def test_a_scheme_comes_back_from_the_published_text(entries):
    counts = {"Linear": 0, "SparseConv": 0}
    document, signatures, expected = {}, [], {}
    for place, ((kind, sizes), cin, cout, nm) in enumerate(entries):
        window = tuple(sizes)
        name = f"{kind}{counts[kind]}_{cin}-{cout}" + (f"-{window}" if window else "")
        counts[kind] += 1
        document[name] = [nm.n, nm.m]
        signatures.append((f"layer{place}", cin, cout, window))
        expected[f"layer{place}"] = nm
    read = published.from_published(published.read_published(str(document)), signatures)
    assert list(read.items()) == list(expected.items())
