"""A network traced on one example: its jaxpr, its parameters by path, and what is a batch axis."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from domino_jax.core.errors import InputError
from domino_jax.core.paths import path_of

Apply = Callable[[Any, Any], Any]
ASK = "say which inputs have a batch axis with batched= (True, False or an axis, a pytree prefix)"


def arrays_by_path(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Lists shape and dtype of every array leaf by path; leaves that are no arrays are left out.

    Raises:
        InputError: two leaves have the same path.
    """
    by_path: dict[str, jax.ShapeDtypeStruct] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = path_of(keys)
        if path in by_path:
            raise InputError(f"two parameters have the path {path!r}; rename one of them")
        if is_array(leaf):
            by_path[path] = _struct(leaf)
    return by_path


def is_array(leaf: Any) -> bool:
    """Says whether a leaf is an array, or stands for one."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def batch_shapes(batch: Any) -> list[tuple[int, ...]]:
    """Returns the shapes of a batch's leaves, [B, ...].

    Raises:
        InputError: there is no leaf, or not each of them has B examples along its first axis.
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
        raise InputError(
            "batches: expected arrays with the examples along the first axis, as many in each, got "
            f"the shapes {', '.join(map(str, shapes)) or 'of none'}"
        )
    return shapes


def examples_in(batch: Any) -> int:
    """Counts the examples of a batch; errors are those of `batch_shapes`."""
    return batch_shapes(batch)[0][0]


def require_alike(batch: Any, first: Sequence[tuple[int, ...]]) -> None:
    """Refuses a batch of other shapes than the first; a shorter last one would weigh too much.

    Raises:
        InputError: which shapes.
    """
    shapes = batch_shapes(batch)
    if shapes != list(first):
        raise InputError(
            f"batches: expected all of the shapes of the first, {', '.join(map(str, first))}, got "
            f"{', '.join(map(str, shapes))}: leave a shorter last one out"
        )


def one_example(
    apply: Apply, params: Any, inputs: Any, batched: Any = True
) -> tuple[core.ClosedJaxpr, int]:
    """Traces a network on one example.

    Args:
        apply: `apply(params, inputs)`; it is traced, not run.
        params: pytree of arrays or ShapeDtypeStructs; other leaves are passed on as they are.
        inputs: pytree of arrays or ShapeDtypeStructs.
        batched: as for `find_kernels`.

    Returns:
        The jaxpr of the array leaves, and how many of its operands are parameters; the others are
        inputs.

    Raises:
        InputError: apply is no function, batch axes do not fit the inputs, or the network takes a
            batch but not one example of it.
    """
    if not callable(apply):
        raise InputError(
            f"apply: expected a function (params, inputs) -> outputs, got a {type(apply).__name__}"
        )
    leaves, of_params = _abstract(params)
    whole, of_inputs = _abstract(inputs)
    axes = _batch_axes(inputs, batched)

    def call(leaves: list[Any], examples: list[Any]) -> Any:
        return apply(of_params(leaves), of_inputs(examples))

    examples = [_cut(x, axis) for x, axis in zip(whole, axes, strict=True)]
    try:
        return jax.make_jaxpr(call)(leaves, examples), len(leaves)
    except (TypeError, ValueError, IndexError) as error:
        if isinstance(error, InputError) or examples == whole or not _traces(call, leaves, whole):
            raise
        shapes = ", ".join(str(x.shape) for x in examples)
        raise InputError(
            f"apply takes these inputs but not one example of them (shapes {shapes}): "
            f"{str(error).splitlines()[0][:200]}; {ASK}"
        ) from error


def _traces(call: Callable[..., Any], leaves: Any, examples: Any) -> bool:
    """Says whether the network can be traced on these inputs at all."""
    try:
        jax.eval_shape(call, leaves, examples)
    except (TypeError, ValueError, IndexError):
        return False
    return True


def _batch_axes(inputs: Any, batched: Any) -> list[int | None]:
    """Returns the batch axis of each input array, None where it has none.

    Raises:
        InputError: `batched` does not fit the inputs, or they are batches of different sizes.
    """
    try:
        spread = jax.tree.broadcast(batched, inputs)
    except ValueError:
        raise InputError(
            "batched: expected a pytree prefix of the inputs, of bools or axes, "
            f"got {batched!r} for {jax.tree.structure(inputs)}"
        ) from None
    leaves = zip(jax.tree.leaves(spread), jax.tree.leaves(inputs), strict=True)
    arrays = [(each, leaf.shape) for each, leaf in leaves if is_array(leaf)]
    axes = [_axis(each, shape) for each, shape in arrays]
    batches = zip(axes, arrays, strict=True)
    sizes = {shape[axis] for axis, (_, shape) in batches if axis is not None}
    if len(sizes - {1}) > 1:
        shapes = ", ".join(str(shape) for _, shape in arrays)
        raise InputError(f"expected inputs of one batch size, got the shapes {shapes}; {ASK}")
    return axes


def _axis(batched: Any, shape: Sequence[int]) -> int | None:
    if batched is False or (batched is True and not shape):
        return None  # a scalar is the same for every example
    batched = 0 if batched is True else batched
    if not isinstance(batched, int) or not -len(shape) <= batched < len(shape):
        raise InputError(
            f"batched: expected True, False or an axis of an input of shape {tuple(shape)}, "
            f"got {batched!r}"
        )
    return batched % len(shape)


def _cut(x: jax.ShapeDtypeStruct, axis: int | None) -> jax.ShapeDtypeStruct:
    """Makes the batch axis one example long."""
    shape = [1 if d == axis else size for d, size in enumerate(x.shape)]
    return jax.ShapeDtypeStruct(tuple(shape), x.dtype)


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(leaf.shape, dtype)


def _abstract(tree: Any) -> tuple[list[jax.ShapeDtypeStruct], Callable[[list[Any]], Any]]:
    """Returns the array leaves as structs, and the tree with other arrays in their places."""
    flat, treedef = jax.tree_util.tree_flatten(tree)
    spots = [i for i, leaf in enumerate(flat) if is_array(leaf)]

    def rebuild(arrays: list[Any]) -> Any:
        new = dict(enumerate(flat)) | dict(zip(spots, arrays, strict=True))
        return jax.tree_util.tree_unflatten(treedef, list(new.values()))

    return [_struct(flat[i]) for i in spots], rebuild
