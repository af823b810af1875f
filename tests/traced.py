"""Shapes to trace with, and what a jaxpr computes, for tests that look at it."""

import jax
import jax.numpy as jnp


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def equations(jaxpr):
    """Lists the equations in order, of branches of platforms those of the one for any platform."""
    for eqn in jaxpr.eqns:
        platforms = eqn.params.get("branches_platforms")
        if platforms is None:
            yield eqn
        else:
            yield from equations(eqn.params["branches"][platforms.index(None)])
