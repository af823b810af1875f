"""Data-parallel placement: batches split along their leading axis, everything else replicated."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from domino_jax.core.errors import InputError


def require_devices() -> None:
    """Refuses a JAX that starts no device.

    Raises:
        InputError: what JAX says, and what JAX_PLATFORMS is.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where a CUDA driver is missing
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error).partition("\n")[0] or "its plugin or its driver is missing"
        raise InputError(f"JAX starts no device (JAX_PLATFORMS is {asked!r}): {reason}") from None


def make_mesh() -> Mesh:
    """Makes the one-axis mesh of all devices of all processes."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def require_divides(batch: int, what: str) -> None:
    """Refuses a batch that does not split evenly.

    Raises:
        InputError: the batch is below 1 or no multiple of the number of devices.
    """
    devices = jax.device_count()
    if batch < 1 or batch % devices:
        raise InputError(f"{what}: expected a multiple of the {devices} device(s), got {batch}")


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a state that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts a copy of every leaf on every device (a copy also on one: a step may donate it).

    From device to device where one process has all devices, or a leaf lies so already.
    """
    sharding = replicated(mesh)

    def copy(leaf: Any) -> jax.Array:
        direct = isinstance(leaf, jax.Array) and (
            jax.process_count() == 1 or leaf.sharding == sharding
        )
        # Copied first: on several devices `may_alias=False` still shares the buffer of one of them.
        return jax.device_put(jnp.copy(leaf) if direct else np.asarray(leaf), sharding)

    return jax.tree.map(copy, tree)


def split_batch(mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Splits this process's part of a batch over its devices; the result is the global batch."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    put = jax.make_array_from_process_local_data
    return {name: put(sharding, np.asarray(value)) for name, value in batch.items()}
