"""The tensors in a file of PyTorch, without running its code: .safetensors, or a pickle of tensors.

A file holds sets of tensors: one under '', or several under the keys that a checkpoint gives them,
such as 'state_dict' or 'model/ema'. Nothing is allocated that is larger than the file.
"""

import argparse
import json
import pickletools
import types
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from domino_jax.core.errors import InputError

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".safetensors")
DEPTH = 3  # of dicts in dicts that are looked into
FLOATS = ("float16", "bfloat16", "float32", "float64")
PLAIN = (*FLOATS, "bool", "uint8", "int8", "int16", "int32", "int64")
_SAFE_DTYPES = ("F16", "BF16", "F32", "F64", "BOOL", "U8", "I8", "I16", "I32", "I64")
# Settings that scripts keep beside the weights: setting their attributes runs nothing.
_HARMLESS = (argparse.Namespace, types.SimpleNamespace)
Sets = dict[str, dict[str, Any]]
# What a header of wrong or of too deep JSON raises.
_DAMAGED = (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError)


def read(path: Path) -> Sets:
    """Reads the tensors of a file, those of PyTorch as they are: `as_array` converts one.

    Raises:
        InputError: one line; no such file, damaged, or it cannot be read without running its code.
    """
    if not path.is_file():
        found = "something else" if path.exists() else "none: there is no such file"
        raise InputError(f"{path}: expected a file of tensors, got {found}")
    if path.suffix == ".safetensors":
        return {"": _read_safetensors(path)}
    sets = dict(_sets(_read_pickle(path), "", DEPTH))
    if not sets:
        raise InputError(f"{path}: expected a state dict, name -> tensor; it holds no tensors")
    return sets


def as_array(path: Path, name: str, tensor: Any) -> np.ndarray:
    """Converts a tensor of a file; low precision comes back as float32.

    Raises:
        InputError: it is not stored as plain numbers, or claims more of them than the file has.
    """
    if not isinstance(tensor, np.ndarray):
        _require_plain(path, name, tensor)
        tensor = tensor.detach()
        tensor = np.asarray((tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy())
    low = tensor.dtype.name in ("float16", "bfloat16")
    return tensor.astype(np.float32) if low else tensor


def rounded(path: Path, name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """Rounds an array of a file to the floats of a parameter; one that has them stays as it is.

    Raises:
        InputError: it is no array of floats, or a number is too large for them.
    """
    if array.dtype.name not in FLOATS:
        allowed = ", ".join(FLOATS)
        raise InputError(f"{path}: {name!r}: expected one of {allowed}, got {array.dtype}")
    with np.errstate(over="ignore"):
        new = array.astype(dtype, copy=False)
    if new is not array and (np.isinf(new) & np.isfinite(array)).any():
        raise InputError(
            f"{path}: {name!r}: expected numbers that {new.dtype} has room for, got {array.dtype} "
            "with larger ones"
        )
    return new


def _require_plain(path: Path, name: str, tensor: Any) -> None:
    dtype, layout = (str(kind).removeprefix("torch.") for kind in (tensor.dtype, tensor.layout))
    kind = ""
    if tensor.device.type == "meta":
        raise InputError(f"{path}: {name!r} has no values (device meta); save it from the CPU")
    if tensor.is_nested or layout != "strided":
        kind, turn = ("nested" if tensor.is_nested else layout), "to_dense()"
    elif tensor.is_quantized:
        kind, turn = dtype, "dequantize()"
    elif dtype not in PLAIN:
        kind, turn = dtype, "real.float()" if "complex" in dtype else "float()"
    if kind:
        raise InputError(
            f"{path}: {name!r} is a {kind} tensor; expected plain {', '.join(FLOATS)}: "
            f"save it as tensor.{turn}"
        )
    if tensor.numel() * tensor.element_size() > path.stat().st_size:
        raise InputError(
            f"{path}: {name!r} claims {tensor.numel() * tensor.element_size():,} bytes, more than "
            "the file has; save it as tensor.contiguous()"
        )


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError  # noqa: PLC0415 (only for such a file)
    from safetensors.numpy import load_file  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < path.stat().st_size else {}
        odd = {
            name: entry["dtype"]
            for name, entry in header.items()
            if name != "__metadata__" and entry["dtype"] not in _SAFE_DTYPES
        }
        arrays = load_file(path) if not odd else {}
        # `safetensors.torch.save_model` writes tied tensors once, and here their other names.
        aliases = dict(header.get("__metadata__", {}))
    except (*_DAMAGED, SafetensorError) as error:
        raise InputError(f"{path}: not a safetensors file, or damaged: {_line(error)}") from None
    for name, dtype in odd.items():
        raise InputError(
            f"{path}: {name!r} is a {dtype} tensor; expected plain {', '.join(FLOATS)}: "
            "save it as tensor.float()"
        )
    # What the file itself has of that name wins.
    return {name: arrays[kept] for name, kept in aliases.items() if kept in arrays} | arrays


def _read_pickle(path: Path) -> Any:
    try:
        import torch  # noqa: PLC0415 (an extra)
    except ImportError:
        raise InputError(
            f"{path}: reading it needs PyTorch (pip install torch); .safetensors does not"
        ) from None
    _require_whole(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(_HARMLESS)):
            warnings.simplefilter("ignore")  # what is unusual about the file is refused or read
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types, also from damaged archives
        raise InputError(
            f"{path}: not a file of tensors alone, or damaged; nothing in it was run: "
            f"{_cause(error)}; {_convert(path)}"
        ) from None


def _require_whole(path: Path) -> None:
    """Refuses a damaged archive, which PyTorch reads without a look at its checksums.

    Raises:
        InputError: one line.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            _require_bounded(path, file.read(64 << 20))
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > path.stat().st_size:
                raise InputError(f"{path}: claims {total:,} bytes, more than the file has")
            scripted = [member for member in members if member.filename.endswith("/constants.pkl")]
            if scripted:
                raise InputError(
                    f"{path}: expected a state dict, got a TorchScript program; convert it: "
                    f"torch.save(torch.jit.load({str(path)!r}, map_location='cpu').state_dict(), "
                    "'plain.pth')"
                )
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"Bad CRC-32 for file {broken!r}")
            for member in members:
                if member.filename.endswith("/data.pkl"):
                    _require_bounded(path, archive.read(member))
    except zipfile.BadZipFile as error:
        again = (
            "; files of torch.serialization.set_crc32_options(False) must be saved with checksums"
        )
        raise InputError(
            f"{path}: damaged: {_line(error)}{again if 'CRC' in str(error) else ''}"
        ) from None
    # What zipfile raises besides: an unknown compression, an early end, a position outside of the
    # file, a password.
    except (NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise InputError(f"{path}: damaged: {_line(error)}") from None


def _require_bounded(path: Path, content: bytes) -> None:
    """Refuses a pickle whose storages claim more numbers than the file has bytes.

    A storage is referred to by a tuple that ends in its size, and None in files of old.
    """
    before: list[Any] = []
    last = 0
    size = path.stat().st_size
    start = 0
    try:
        while start < len(content):
            for operation, argument, place in pickletools.genops(content[start:]):
                if operation.name == "BINPERSID":
                    numbers = [value for value in before[-3:] if isinstance(value, int)]
                    if numbers and numbers[-1] > size:
                        raise InputError(
                            f"{path}: a tensor claims {numbers[-1]:,} numbers, more than the file "
                            "has bytes"
                        )
                if operation.name not in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "TUPLE"):
                    before.append(argument)
                last = place or 0
            start += last + 1
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        if isinstance(error, InputError):
            raise
        return  # no pickle any more: the numbers themselves, or something that PyTorch refuses


def _sets(loaded: Any, where: str, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the dicts of tensors in an object, by their keys."""
    if isinstance(loaded, list | tuple):
        loaded = dict(enumerate(loaded))
    elif isinstance(loaded, _HARMLESS):
        loaded = vars(loaded)
    if not isinstance(loaded, Mapping):
        return
    tensors = {str(key): value for key, value in loaded.items() if hasattr(value, "layout")}
    if tensors:
        yield where, tensors
    for key, value in loaded.items():
        if depth > 0:
            yield from _sets(value, f"{where}/{key}".strip("/"), depth - 1)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _cause(error: Exception) -> str:
    """Finds what PyTorch refused among the advice that it prints to switch the check off."""
    for line in map(str.strip, str(error).splitlines()):
        for start in ("Trying to load ", "WeightsUnpickler error: "):
            if start in line:
                return line.partition(start)[2].split(" was not an allowed global")[0]
    return _line(error).partition(". In PyTorch 2.6")[0][:200]


def _convert(path: Path) -> str:
    """Returns the line that makes a file of tensors alone of one that is trusted."""
    return (
        "if you trust it, convert it, which runs its code: "
        f"c = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
        "torch.save(c.state_dict() if hasattr(c, 'state_dict') else {k: v for k, v in c.items() "
        "if isinstance(v, (dict, torch.Tensor))}, 'plain.pth')"
    )
