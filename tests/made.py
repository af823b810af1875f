"""Layers made by hand, for tests that trace no network."""

from domino_jax.core.layers import Groups, LayerSpec


def layer(name, shape, axes, macs, candidates=(), reason=None, *, roles=None, convolution_groups=1):
    """Returns a layer grouped along `axes`; the trace saw `roles`, or the same."""
    groups = Groups(axes, candidates) if candidates else None
    return LayerSpec(name, shape, roles or axes, macs, groups, reason, convolution_groups)
