"""A layer: what the trace saw of a kernel, and the groups that the rules made of it.

Letters: M is the group size, N the number of weights kept of every M.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from domino_jax.core.canonical import Axes
from domino_jax.core.errors import InputError


@dataclass(frozen=True)
class Groups:
    """How the weights of a layer are grouped.

    Attributes:
        along: parts that the axes of the whole parameter play for the masks: the traced ones, or
            under the rule 'flatten' those with the window among the inputs.
        candidates: what N may be, increasing; the last one is M.
    """

    along: Axes
    candidates: tuple[int, ...]

    @property
    def m(self) -> int:
        """Weights of one group."""
        return self.candidates[-1]


@dataclass(frozen=True)
class LayerSpec:
    """One layer: a kernel, or one slice of a stacked kernel.

    Attributes:
        name: path of the parameter; 'path#3' is slice 3, row-major over the stack axes.
        shape: of the kernel, of one slice (without stack axes) if stacked.
        roles: parts that the axes of the whole parameter play in its products, as the trace saw
            them; no rule changes them. None where the parameter is in no convolution or matrix
            product: it is left out of budgets.
        macs: weight products per example, no bias, summed over its uses; 0 where roles is None.
        groups: what the rules made of it; None where the layer stays dense or is left out.
        reason: why there are no groups; None where there are (and, before the rules have seen the
            layer, where nothing forbids them).
        convolution_groups: feature groups of the convolution, 1 of any other product.
        together: where the kernel is cut along its inputs, how many consecutive ones every product
            sums over together; None where each sums over all.
        together_flat: the same along its flattened window and inputs.
        flipped: axes that its products read backwards; None where they differ in that, or in
            `transposed`.
        transposed: it is in a convolution that spreads its inputs apart by zeros.
    """

    name: str
    shape: tuple[int, ...]
    roles: Axes | None
    macs: int
    groups: Groups | None = None
    reason: str | None = None
    convolution_groups: int = 1
    together: int | None = None
    together_flat: int | None = None
    flipped: tuple[int, ...] | None = ()
    transposed: bool = False

    @property
    def path(self) -> str:
        """Of the parameter that holds the layer."""
        return self.name if self.index is None else self.name.rpartition("#")[0]

    @property
    def index(self) -> int | None:
        """Number of the slice of a stacked kernel, None where it is not stacked."""
        return int(self.name.rpartition("#")[2]) if self.roles and self.roles.stack else None

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def m(self) -> int:
        """Size of its groups.

        Raises:
            InputError: the layer is not grouped.
        """
        if self.groups is None:
            raise InputError(f"{self.name}: has no groups ({self.reason})")
        return self.groups.m

    @property
    def candidates(self) -> tuple[int, ...]:
        """What N may be, increasing, ending in M; () where the layer stays dense."""
        return self.groups.candidates if self.groups else ()


def counted(layers: Iterable[LayerSpec]) -> list[LayerSpec]:
    """Lists the convolutions and matrix products: the denominator of every budget."""
    return [layer for layer in layers if layer.roles is not None]


def grouped(layers: Iterable[LayerSpec]) -> list[LayerSpec]:
    """Lists the layers that have groups of M, in order."""
    return [layer for layer in layers if layer.groups is not None]


def axis_sizes(layer: LayerSpec, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the sizes of a layer along some axes, numbered as in the whole parameter."""
    if layer.roles is None:
        raise InputError(f"{layer.name}: no convolution or matrix product, so no axis has a role")
    own = sorted(layer.roles.window + layer.roles.inputs + layer.roles.outputs)
    return tuple(layer.shape[own.index(axis)] for axis in axes)


def inputs_of(layer: LayerSpec) -> int:
    """Counts the weights along which the groups of one output run.

    A layer without groups counts those of one output at one window position.
    """
    along = layer.groups.along if layer.groups else layer.roles
    return math.prod(axis_sizes(layer, along.inputs if along else ()))


def group_count(layer: LayerSpec) -> int:
    """Counts the groups of M weights of a grouped layer, a short last one included."""
    inputs = inputs_of(layer)
    return layer.size // inputs * -(-inputs // layer.m)
