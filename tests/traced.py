"""Shapes to trace with, and what a jaxpr computes, for tests that look at it."""

import jax
import jax.numpy as jnp


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def equations(jaxpr):
    """Lists the equations in order, also those of a program with a derivative rule of its own.

    Of branches of platforms they are those of the one for any platform.
    """
    for eqn in jaxpr.eqns:
        platforms = eqn.params.get("branches_platforms")
        if eqn.primitive.name == "custom_jvp_call":
            yield from equations(eqn.params["call_jaxpr"])
        elif platforms is None:
            yield eqn
        else:
            yield from equations(eqn.params["branches"][platforms.index(None)])
