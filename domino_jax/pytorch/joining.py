"""Which tensors of a file are a network: its keys, prefixes and wrappers are tried until all fits.

A fit is exact: every tensor of the network is there, in its shape, and beside a prefix nothing is
too much. Where one fits, so do others that hold the network and more: bare names beside a copy of
them, `conv1.weight` and `ema.conv1.weight`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from domino_jax.core.errors import InputError
from domino_jax.pytorch import positions
from domino_jax.pytorch.layouts import Tensor, counters

# torchvision's MLPBlock (pull request 6053): its published vision transformers have the old names.
_RENAMED = ((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3."))
_AUXILIARY = r"^aux[12]\."  # heads that help training alone (GoogLeNet)
# Modules that wrap another one, anywhere in a network, and show in its names.
_WRAPPERS = r"(^|(?<=\.))(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\."
_PREFIXES = 4  # that are tried, the ones that fit most names first
Arrays = Mapping[str, Any]  # name -> array or tensor


class Attempt(NamedTuple):
    """A set of tensors, named as a network names them.

    Attributes:
        where: the keys of the set in the file.
        prefix: what was taken off the start of its names.
        notes: what else was done to them.
        arrays: of the network: name -> array or tensor, without counters.
        layout: of the leaves that it is for.
        reason: why it does not fit; '' where it does.
        holds: the network is in it, maybe with more.
        matches: number of names that the network has.
        left: names of the set that are left out.
    """

    where: str
    prefix: str
    notes: tuple[str, ...]
    arrays: dict[str, Any]
    layout: Sequence[Tensor]
    reason: str
    holds: bool
    matches: int
    left: tuple[str, ...]

    @property
    def label(self) -> str:
        """Says where it lies: 'model: module.'."""
        return ": ".join(filter(None, (self.where, self.prefix)))

    @property
    def quoted(self) -> str:
        """The same for a message."""
        return repr(self.label) if self.label else "the names without a prefix"


def choose(
    path: Path,
    sets: Mapping[str, Arrays],
    layouts: Sequence[Sequence[Tensor]],
    fresh: str | None,
    say: Callable[[str], None],
) -> Attempt:
    """Finds the set that fits; a running average of weights (EMA) only where no other does.

    Args:
        path: of the file, for messages.
        sets: as `torch_file.read` gives them.
        layouts: of the network, those that are tried first come first.
        fresh: a module whose tensors are not looked for.
        say: takes the line that tells what was taken off, if anything was.

    Raises:
        InputError: none fits, or several that differ.
    """
    attempts = [
        attempt
        for layout in layouts
        for where, arrays in sets.items()
        for attempt in _attempts(where, arrays, layout, fresh)
    ]
    exact = [attempt for attempt in attempts if not attempt.reason]
    if not exact:
        nearest = max(attempts, key=lambda attempt: attempt.matches)
        within = f" (in {nearest.label!r})" if nearest.label else ""
        raise InputError(f"{path}: {nearest.reason}{within}")
    more = [attempt for attempt in attempts if attempt.reason and attempt.holds]
    fits = [fit for fit in (*exact, *more) if fit.layout is exact[0].layout]
    first, *others = [fit for fit in fits if "ema" not in fit.label.lower()] or fits
    for other in others:
        if not all(_equal(first.arrays[name], other.arrays[name]) for name in first.arrays):
            raise InputError(
                f"{path}: holds several networks that fit: {first.quoted} and {other.quoted}; "
                "save the one that you want in a file of its own"
            )
    if line := _told(first, [fit.quoted for fit in fits if fit.label != first.label]):
        say(f"{path}: {line}")
    return first


def _told(taken: Attempt, others: Sequence[str]) -> str:
    """Says in one line what was taken and what was not; '' where all was, as it was."""
    parts = [f"took {taken.where!r}"] if taken.where else []
    parts += [f"without the prefix {taken.prefix!r}"] if taken.prefix else []
    parts += [*taken.notes, *(f"not {other}, which fits too" for other in others)]
    if taken.left:
        parts.append(f"left out {len(taken.left)} of its tensors ({taken.left[0]}, …)")
    return ", ".join(parts)


def _attempts(
    where: str, arrays: Arrays, layout: Sequence[Tensor], fresh: str | None
) -> Iterator[Attempt]:
    own_names = {tensor.name for tensor in layout}
    bare = _unwrapped(arrays, own_names)
    wrapper = next((match[2] for name in arrays if (match := re.search(_WRAPPERS, name))), "")
    notes = (f"without '{wrapper}.'",) if wrapper and bare is not arrays else ()
    for prefix in _prefixes(bare, own_names):
        yield _attempt((where, prefix, notes), bare, layout, fresh)


def _unwrapped(arrays: Arrays, own_names: Set[str]) -> Arrays:
    """Takes the names of wrapping modules off, unless the network has them or two names meet."""
    bare = {re.sub(_WRAPPERS, "", name): array for name, array in arrays.items()}
    own = any(re.search(_WRAPPERS, name) for name in own_names)
    return arrays if own or len(bare) < len(arrays) else bare


def _prefixes(names: Iterator[str] | Arrays, own_names: Set[str]) -> list[str]:
    """Lists '' and the starts of names after which most are those of the network."""
    count: Counter[str] = Counter()
    for name in names:
        spots = [spot.end() for spot in re.finditer(r"\.", name)]
        count.update(name[:spot] for spot in spots if name[spot:] in own_names)
    return ["", *(prefix for prefix, _ in count.most_common(_PREFIXES))]


def _attempt(
    place: tuple[str, str, tuple[str, ...]],
    bare: Arrays,
    layout: Sequence[Tensor],
    fresh: str | None,
) -> Attempt:
    where, prefix, notes = place
    within = {name[len(prefix) :]: a for name, a in bare.items() if name.startswith(prefix)}
    origins = _origins(within, {tensor.name for tensor in layout})
    current = {name: within[origin] for name, origin in origins.items()}
    heads = {t.name for t in layout if fresh is not None and _is_in(fresh, t.path)}
    # Whatever the file's head is called under its module, such as a bias that ours lacks.
    owners = {_owner(name) for name in heads} - {""}
    unused = {*counters(layout), *heads}
    unused |= {name for name in current if _owner(name) in owners}
    expected = {tensor.name: tensor for tensor in layout if tensor.name not in heads}
    arrays = {name: array for name, array in current.items() if name not in unused}
    arrays = _without_tied(arrays, expected)
    arrays, resized, reason = _resized(arrays, expected)
    network = {name: array for name, array in arrays.items() if name in expected}
    used = {f"{prefix}{origins[name]}" for name in network} | {f"{prefix}{name}" for name in unused}
    left = tuple(name for name in bare if name not in used)
    holds = not (reason or _reason_against(network, expected))
    reason = reason or _reason_against(arrays, expected)
    notes += (resized,) if resized else ()
    if any(name != origin for name, origin in origins.items()):
        notes = (*notes, "names of an older torchvision")
    return Attempt(where, prefix, notes, network, layout, reason, holds, len(network), left)


def _owner(name: str) -> str:
    return re.sub(r"[./]?[^./]*$", "", name)


def _is_in(module: str, path: str) -> bool:
    return path == module or path.startswith(f"{module}/")


def _origins(arrays: Arrays, own_names: Set[str]) -> dict[str, str]:
    """Gives tensors of older files today's names, and leaves auxiliary heads out.

    Names that the network itself has, or would have twice, stay.

    Returns:
        name of today -> name in the file.
    """
    new: dict[str, str] = {}
    for name in arrays:
        today = name
        for pattern, replacement in _RENAMED:
            today = re.sub(pattern, replacement, today)
        if name not in own_names and today in own_names and today not in arrays:
            new[today] = name
        elif name in own_names or not re.search(_AUXILIARY, name):
            new[name] = name
    return new


def _without_tied(arrays: Mapping[str, Any], expected: Mapping[str, Tensor]) -> dict[str, Any]:
    """Leaves out what is there under another name: tied tensors have several."""
    extra = [name for name in arrays if name not in expected]
    network_arrays = [array for name, array in arrays.items() if name in expected]
    tied = {
        name
        for name in extra
        if any(
            arrays[name].shape == other.shape and _is_tied(arrays[name], other)
            for other in network_arrays
        )
    }
    return {name: array for name, array in arrays.items() if name not in tied}


def _resized(
    arrays: dict[str, Any], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Any], str, str]:
    """Brings a vision transformer's positions to the network's number of them.

    Returns:
        The arrays; in words what was done, '' if nothing was; the reason why it could not be
        done, '' if it was or need not be.
    """
    table, tensor = arrays.get(positions.NAME), expected.get(positions.NAME)
    if table is None or tensor is None or len(table.shape) != 3 or not _is_plain(table):
        return arrays, "", ""
    shape = tuple(table.shape)
    if shape == tensor.shape or shape[::2] != tensor.shape[::2]:
        return arrays, "", ""
    values = table if isinstance(table, np.ndarray) else table.detach().float().numpy()
    try:
        new = positions.resized(values, tensor.shape[1])
    except InputError as error:
        return arrays, "", str(error)
    note = (
        f"the positions of {shape[1] - 1} patches were interpolated to {tensor.shape[1] - 1}, for "
        "images of another size"
    )
    return {**arrays, positions.NAME: new}, note, ""


def _is_tied(array: Any, other: Any) -> bool:
    """Says whether two arrays are one tensor; equal constants, such as zero biases, are not."""
    if array is other or (_place(array) is not None and _place(array) == _place(other)):
        return True
    plain = len(array.shape) > 1 and _size(array) > 1 and _is_plain(array) and _is_plain(other)
    return plain and _equal(array, other) and bool((array != array.reshape(-1)[0]).any())


def _size(array: Any) -> int:
    return int(np.prod(tuple(array.shape)))


def _place(array: Any) -> Any:
    """Says where a tensor lies in memory; None where that says nothing."""
    if isinstance(array, np.ndarray) or not _is_plain(array):
        return None
    return (array.data_ptr(), array.stride()) if array.data_ptr() else None


def _is_plain(array: Any) -> bool:
    if isinstance(array, np.ndarray):
        return True
    return str(array.layout) == "torch.strided" and array.device.type == "cpu"


def _equal(array: Any, other: Any) -> bool:
    if array is other:
        return True
    return bool(array.shape == other.shape and (array == other).all())


def _reason_against(arrays: Mapping[str, Any], expected: Mapping[str, Tensor]) -> str:
    """Says why arrays are not those of the network; '' where they are."""
    missing = [name for name in expected if name not in arrays]
    extra = [name for name in arrays if name not in expected]
    reasons = [f"lacks {missing[0]!r} ({len(missing)} in all)"] if missing else []
    reasons += [f"has an unexpected {extra[0]!r} ({len(extra)} in all)"] if extra else []
    if reasons:
        return f"a state dict of another network: it {' and '.join(reasons)}"
    for name, tensor in expected.items():
        if (shape := tuple(arrays[name].shape)) != tensor.shape:
            hint = (
                "if only the number of classes differs, init_head = False starts with a fresh last "
                "layer"
                if tensor.axes is not None or len(tensor.shape) == 1
                else "a table of positions or tokens has the size that it was trained with"
            )
            return (
                f"{name!r} is {shape} in the file, {tensor.shape} in the network "
                f"({tensor.path}); {hint}"
            )
    return ""
