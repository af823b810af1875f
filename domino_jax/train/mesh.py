"""The mesh of all devices, and batches split over its axis 'data'."""

import os
from collections.abc import Mapping
from typing import Any

import jax
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


def make_mesh(data: int = -1, model: int = 1) -> Mesh:
    """Makes the mesh of all devices of all processes.

    Args:
        data: parts that a batch is split into; -1: as many as there are devices for.
        model: parts that large weights are split into.

    Raises:
        InputError: the parts are not as many as the devices.
    """
    sizes = axis_sizes(data, model)
    return jax.make_mesh(sizes, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def axis_sizes(data: int, model: int) -> tuple[int, int]:
    """Returns the parts of a batch and of large weights; arguments and errors as of `make_mesh`."""
    devices = jax.device_count()
    if data == -1 and model > 0 and devices % model == 0:
        data = devices // model
    if model < 1 or data * model != devices:
        raise InputError(
            f"mesh.data x mesh.model: expected the {devices} device(s) that JAX sees (data = -1 "
            f"takes what model leaves), got {data} x {model}"
        )
    return data, model


def require_divides(batch: int, parts: int, what: str) -> None:
    """Refuses a batch that does not split evenly.

    Args:
        batch: number of examples.
        parts: that a mesh splits it into.
        what: name of the setting.

    Raises:
        InputError: the batch is below 1 or no multiple of the parts.
    """
    if batch < 1 or batch % parts:
        raise InputError(
            f"{what}: expected a multiple of the {parts} part(s) of mesh.data, got {batch}"
        )


def split_batch(mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Splits this process's part of a batch over its devices; the result is the global batch."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    put = jax.make_array_from_process_local_data
    return {name: put(sharding, np.asarray(value)) for name, value in batch.items()}
