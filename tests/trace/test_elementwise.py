"""What the tables say against what the primitives do to zeros."""

import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import primitives

from domino_jax.trace import elementwise

W = object()
ONES = {
    "abs": lax.abs,
    "neg": lax.neg,
    "sign": lax.sign,
    "round": lax.round,
    "sqrt": lax.sqrt,
    "tanh": lax.tanh,
    "expm1": lax.expm1,
    "erf": lax.erf,
    "square": lax.square,
    "exp": lax.exp,
    "cos": lax.cos,
    "logistic": lax.logistic,
    "log": lax.log,
    "rsqrt": lax.rsqrt,
}
TWOS = {
    "add": lax.add,
    "sub": lax.sub,
    "mul": lax.mul,
    "div": lax.div,
    "max": lax.max,
    "min": lax.min,
    "pow": lax.pow,
    "rem": lax.rem,
}


@pytest.mark.parametrize("name", ONES)
def test_functions_of_the_weights_alone(name):
    zero = float(ONES[name](jnp.zeros(()))) == 0
    assert elementwise.keeps_zeros(name, {}, [W], W) == zero


@pytest.mark.parametrize("known", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("name", TWOS)
def test_weights_before_a_known_number(name, known):
    zero = float(TWOS[name](jnp.zeros(()), jnp.float32(known))) == 0
    claimed = elementwise.keeps_zeros(name, {}, [W, known], W)
    assert zero or not claimed or (name, known) == ("div", 0.0)
    assert claimed or not zero or name in ("pow", "rem")


@pytest.mark.parametrize("name", TWOS)
def test_weights_with_themselves(name):
    zero = float(TWOS[name](jnp.zeros(()), jnp.zeros(()))) == 0
    assert elementwise.keeps_zeros(name, {}, [W, W], W) == zero


@pytest.mark.parametrize("name", ["add", "sub", "max", "min", "pow"])
def test_beside_something_unknown_zeros_may_move(name):
    assert not elementwise.keeps_zeros(name, {}, [W, None], W)


def test_weights_may_be_scaled_but_not_divide():
    assert elementwise.keeps_zeros("mul", {}, [None, W], W)
    assert elementwise.keeps_zeros("div", {}, [W, None], W)
    assert not elementwise.keeps_zeros("div", {}, [None, W], W)


@pytest.mark.parametrize(("low", "high", "kept"), [(-1, 1, True), (0, 1, True), (0.5, 1, False)])
def test_clamp(low, high, kept):
    assert elementwise.keeps_zeros("clamp", {}, [low, W, high], W) == kept


def test_select_keeps_zeros_beside_zeros():
    assert elementwise.keeps_zeros("select_n", {}, [None, 0.0, W], W)
    assert not elementwise.keeps_zeros("select_n", {}, [None, 1.0, W], W)


@pytest.mark.parametrize("y", [-1, 0, 1, 2])
def test_integer_powers(y):
    zero = float(lax.integer_pow(jnp.zeros(()), y)) == 0
    assert elementwise.keeps_zeros("integer_pow", {"y": y}, [W], W) == zero


def test_index_arithmetic_is_folded():
    def wrapped(i):
        return jnp.where(i < 0, i + 3, i)

    for i in (-2, 1):
        below = elementwise.fold("lt", [i, 0])
        assert elementwise.fold("select_n", [below, i, elementwise.fold("add", [i, 3])]) == int(
            wrapped(jnp.int32(i))
        )
    assert elementwise.fold("add", [None, 3]) is None
    assert elementwise.fold("iota", []) is None


def test_the_tables_name_primitives_once():
    groups = [
        elementwise.IDENTITY,
        elementwise.ZERO_AT_ZERO,
        elementwise.OTHERS,
        elementwise.MEASURES,
    ]
    assert len(frozenset.union(*groups)) == sum(map(len, groups))
    known = {getattr(primitive, "name", "") for primitive in vars(primitives).values()}
    assert known >= elementwise.ZERO_AT_ZERO
