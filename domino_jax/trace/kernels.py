"""Which parameters of a network are kernels of convolutions or matrix products.

Letters: S is the number of slices along the stack axes of a kernel.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from domino_jax.core.canonical import Axes
from domino_jax.core.layers import LayerSpec
from domino_jax.core.rules import DEPTHWISE
from domino_jax.trace.example import Apply, arrays_by_path
from domino_jax.trace.products import Loop, Unweighted, Use, merge_roles
from domino_jax.trace.views import Piece, pieces, positions
from domino_jax.trace.weights import find_products

NOT_USED = "not used"
VECTOR = "of one axis, which has no inputs and outputs"
DISAGREE = "used along different input axes"
CONSTANT = "a constant of apply: a weight only if it is passed in params"
# Where a slice is used: its number in the trace; within a scan behind the number at which the scan
# begins and the pass. So the slices of several stacks that one scan runs over go pass by pass.
Place = tuple[float, ...]
Numbered = list[tuple[int, Use]]  # with the number in the trace


@dataclass(frozen=True)
class _Kernel:
    """What the trace says of one parameter; `firsts` and `macs` have one number per slice."""

    axes: Axes | None
    macs: tuple[int, ...] = (0,)
    firsts: tuple[Place | None, ...] = (None,)
    reason: str | None = None
    convolution_groups: int = 1
    together: int | None = None
    together_flat: int | None = None
    flipped: tuple[int, ...] | None = ()
    transposed: bool = False


def find_kernels(
    apply: Apply, params: Any, inputs: Any, *, batched: Any = True
) -> tuple[LayerSpec, ...]:
    """Finds the kernels of a network by tracing it; nothing is executed, no size is too odd.

    Multiply-adds are those that one example takes in the program as it is written. Experts are
    slices of their parameter. A gather, a one-hot, a `switch` or a `ragged_dot` computes each token
    with its own expert, shared out evenly among the experts; picking costs nothing. An einsum over
    all experts whose results are summed or picked, or a scan over them, computes every token with
    each. A kernel mixed by other numbers than a one-hot is what a layer with these numbers as its
    inputs makes.

    Args:
        apply: `apply(params, inputs)`.
        params: pytree of arrays or ShapeDtypeStructs.
        inputs: pytree of arrays or ShapeDtypeStructs.
        batched: which inputs have a batch axis, that is cut to one example: True (all of them, in
            front), False, an axis, or a pytree of these whose structure is a prefix of the inputs'.

    Returns:
        One layer per parameter of rank >= 2, or per slice of a stacked one, in the order of their
        first product, pass by pass where a scan runs over several stacks; those that are left out
        come last. A parameter of rank 1 that goes into a
        product (reshaped to a kernel, say) is listed too, and stays dense. No layer has groups;
        a reason says why it must not get any.

    Raises:
        InputError: the batch axes do not fit the inputs, or two parameters have one path.
    """
    uses, unweighted = find_products(apply, params, inputs, batched)
    arrays = arrays_by_path(params)
    of_path: dict[str, Numbered] = {path: [] for path in arrays}
    starts: dict[Loop, int] = {}
    for number, use in enumerate(uses):
        of_path[use.view.path].append((number, use))
        starts |= {loop: number for loop in use.loops if loop not in starts}
    placed: list[tuple[Place, LayerSpec]] = []
    for path, leaf in arrays.items():
        if len(leaf.shape) > 1 or of_path[path]:
            kernel = _kernel(leaf, of_path[path], starts)
            placed += zip(_order(kernel), _layers(path, leaf, kernel), strict=True)
    placed.sort(key=lambda pair: pair[0])
    return (*(layer for _, layer in placed), *_constants(unweighted))


def _constants(unweighted: Sequence[Unweighted]) -> list[LayerSpec]:
    """Lists the arrays that `apply` closes over and multiplies: weights that no one can prune."""
    shapes = {product.constant: product.shape for product in unweighted if product.constant}
    return [LayerSpec(name, shape, None, 0, reason=CONSTANT) for name, shape in shapes.items()]


def _kernel(leaf: jax.ShapeDtypeStruct, uses: Numbered, starts: Mapping[Loop, int]) -> _Kernel:
    """Sums up the uses of one parameter; `starts` tells where each scan begins."""
    reasons = [use.reason for _, use in uses if use.reason]
    # Weights that take part in no product are outside of every budget, whatever else they do.
    used = [(number, use) for number, use in uses if use.roles]
    if not used:
        notes = [use.note for _, use in uses if use.note]
        notes = [note if note.startswith("only") else f"only {note}" for note in notes]
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            notes = [f"{leaf.dtype}, not floating"]
        return _Kernel(None, reason=[*reasons, *notes, NOT_USED][0])
    roles, used, disagree = _merged(leaf.shape, used)
    roles = _with_experts(roles, leaf.shape, [use for _, use in uses])
    axes = _axes(roles, leaf.shape)
    macs, firsts = _shared(leaf.shape, axes, used, starts)
    products = [use for _, use in used]
    together = _together(leaf.shape, axes.inputs, products)
    flat = _together(leaf.shape, (*axes.window, *axes.inputs), products)
    # The first that holds. What the rule 'flatten' can answer (depthwise) comes behind what no rule
    # can, or a rule would group a layer that must stay dense.
    reason = [
        *([VECTOR] if len(leaf.shape) == 1 else []),
        *(reason for reason in reasons if reason != DEPTHWISE),
        *([DISAGREE] if disagree else []),
        *reasons,
        None,
    ][0]
    groups = max(use.convolution_groups for _, use in used)
    (flipped, transposed), *others = {(use.flipped, use.transposed) for _, use in used}
    order = None if others else tuple(sorted(flipped))
    return _Kernel(
        axes, tuple(macs), tuple(firsts), reason, groups, together, flat, order, transposed
    )


def _merged(shape: Sequence[int], used: Numbered) -> tuple[list[str], Numbered, bool]:
    """Returns the roles of the axes, the products that count, and whether their roles disagree.

    A product with something that does not depend on the inputs counts where it agrees with those
    that do (a norm for spectral normalization need not).
    """
    strong = [(number, use) for number, use in used if not use.weak]
    weak = [(number, use) for number, use in used if use.weak]
    must_fit = strong or weak
    roles, kept, disagree = list(must_fit[0][1].roles), [], False
    for number, use in strong + weak:
        merged = [merge_roles(*pair) for pair in zip(roles, use.roles, shape, strict=True)]
        fitting = [role for role in merged if role is not None]
        if len(fitting) == len(roles):
            roles = fitting
        elif (number, use) in must_fit:
            disagree = True
        else:
            continue
        kept.append((number, use))
    return roles, kept, disagree


def _with_experts(roles: list[str], shape: Sequence[int], uses: Sequence[Use]) -> list[str]:
    """Makes stacks of the axes along which experts lie, where a matrix is left of each."""
    axes = {axis for use in uses for axis in use.apart if shape[axis] > 1}
    apart = ["stack" if axis in axes else role for axis, role in enumerate(roles)]
    return apart if {"inputs", "outputs"} <= set(apart) else roles


def _axes(roles: Sequence[str], shape: Sequence[int]) -> Axes:
    def of(*names: str) -> tuple[int, ...]:
        return tuple(axis for axis, role in enumerate(roles) if role in names)

    # An axis of size 1 that a reshape removed before the product has no role: it may have any.
    inputs, outputs = of("inputs"), of("outputs", "")
    ones = tuple(axis for axis in outputs if shape[axis] == 1)
    if not inputs and len(outputs) > 1 and ones:
        # A depthwise kernel (H, W, C, 1): its one input per output is the axis of size 1.
        inputs, outputs = ones[-1:], tuple(axis for axis in outputs if axis != ones[-1])
    return Axes(of("stack"), of("window"), inputs, outputs)


def _shared(
    shape: Sequence[int], axes: Axes, used: Numbered, starts: Mapping[Loop, int]
) -> tuple[list[int], list[Place | None]]:
    """Shares the MACs of each use out among the slices it covers; also gives their first use."""
    stack = [shape[axis] for axis in axes.stack]
    exact = [Fraction(0)] * math.prod(stack)
    firsts: list[Place | None] = [None] * len(exact)
    for number, use in used:
        covered = list(itertools.product(*(positions(use.view, axis) for axis in axes.stack)))
        # An index that is not known may be any: each slice has its share of the cost.
        for spot in covered:
            index = int(np.ravel_multi_index(spot, stack)) if stack else 0
            exact[index] += use.macs / len(covered)
            if firsts[index] is None:
                at = dict(zip(axes.stack, spot, strict=True))
                firsts[index] = _place(use, number, starts, at)
    return _rounded(exact), firsts


def _place(use: Use, number: int, starts: Mapping[Loop, int], spot: Mapping[int, int]) -> Place:
    """Returns the place of one slice in a use of its kernel; `spot` is stack axis -> index."""
    over = [piece for piece in use.view.stack if piece.size > 1]
    # The outermost scan runs over the first of them; what a scan does not run over meets its first
    # pass first.
    passes = [
        _pass(use, loop, piece, spot) if piece else 0
        for loop, piece in itertools.zip_longest(use.loops, over[: len(use.loops)])
    ]
    begun = zip(use.loops, passes, strict=True)
    return (*(each for loop, number in begun for each in (starts[loop], number)), number)


def _pass(use: Use, loop: Loop, piece: Piece, spot: Mapping[int, int]) -> int:
    """Returns the pass of a scan over a piece that meets a slice; 0 where it is not known."""
    alone = sum(other.axis == piece.axis and other.size > 1 for other in pieces(use.view)) == 1
    start = use.view.offset[piece.axis] if piece.axis in spot else None
    if start is None or not alone:
        return 0
    row = (spot[piece.axis] - start) // piece.stride
    return piece.size - 1 - row if loop.backwards else row


def _rounded(exact: Sequence[Fraction]) -> list[int]:
    """Rounds down, and hands what is left of the sum to the first that were not whole."""
    whole = [math.floor(value) for value in exact]
    left = round(sum(exact)) - sum(whole)
    for index, value in enumerate(exact):
        if left and value > whole[index]:
            whole[index], left = whole[index] + 1, left - 1
    return whole


def _together(shape: Sequence[int], along: Sequence[int], uses: Sequence[Use]) -> int | None:
    """Returns how many consecutive weights every product sums over together; None if all.

        tanh(x[:, :6] @ w[:6]) + x[:, 6:] @ w[6:]      w [10, 8]: cut at 6, so 2 = gcd(6, 10)
        x @ w[::2]                                     w [10, 8]: every other input, so 1

    A group of M along these axes, flattened, lies inside one product or outside of it if M divides
    this number.
    """
    sizes = [shape[axis] for axis in along]
    total = math.prod(sizes)
    together = total
    for use in uses:
        if any(_is_anywhere(use, axis) for axis in along):
            return 1
        spots = [sorted(set(positions(use.view, axis))) for axis in along]
        if [len(of_axis) for of_axis in spots] == sizes:
            continue
        flat = np.zeros(sizes, bool)
        flat[np.ix_(*spots)] = True
        edges = np.flatnonzero(np.diff(flat.reshape(-1))) + 1
        together = math.gcd(together, *edges.tolist())
    return together if together < total else None


def _is_anywhere(use: Use, axis: int) -> bool:
    """Says whether a use takes a part of an axis that starts at an unknown place."""
    size = math.prod(piece.size for piece in pieces(use.view) if piece.axis == axis)
    return use.view.offset[axis] is None and size < use.view.leaf[axis]


def _order(kernel: _Kernel) -> list[Place]:
    """Place of each slice: its first use; a slice without one follows the kernel's first."""
    places = [place for place in kernel.firsts if place is not None]
    start = min(places, default=(math.inf,))
    return [start if place is None else place for place in kernel.firsts]


def _layers(path: str, leaf: jax.ShapeDtypeStruct, kernel: _Kernel) -> list[LayerSpec]:
    """Makes one layer of each slice."""
    axes = kernel.axes
    if axes is None:
        return [LayerSpec(path, tuple(leaf.shape), None, 0, reason=kernel.reason)]
    shape = tuple(size for axis, size in enumerate(leaf.shape) if axis not in axes.stack)
    return [
        LayerSpec(
            f"{path}#{index}" if axes.stack else path,
            shape,
            axes,
            macs,
            None,
            NOT_USED if first is None else kernel.reason,
            kernel.convolution_groups,
            kernel.together,
            kernel.together_flat,
            kernel.flipped,
            kernel.transposed,
        )
        for index, (macs, first) in enumerate(zip(kernel.macs, kernel.firsts, strict=True))
    ]
