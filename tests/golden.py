"""The network of the reference traces, hand-written: convolutions with ReLU, mean, linear."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

DATA = Path(__file__).parent / "data"


def load(name):
    """Returns the arrays of a trace and its settings."""
    arrays = dict(np.load(DATA / f"{name}.npz"))
    return arrays, json.loads(str(arrays.pop("meta")))


def params_of(arrays, prefix):
    """Reads torch weights (OIHW, OI) into our layouts (HWIO, IO), in float64."""
    convs = {}
    for name, value in arrays.items():
        if name.startswith(f"{prefix}/convs"):
            convs[name.split(".")[1]] = {"kernel": jnp.asarray(value.transpose(2, 3, 1, 0))}
    return {
        "convs": convs,
        "fc": {
            "kernel": jnp.asarray(arrays[f"{prefix}/fc.weight"].T),
            "bias": jnp.asarray(arrays[f"{prefix}/fc.bias"]),
        },
    }


def torch_layout(path, value):
    """Brings one of our leaves back to torch's layout."""
    value = np.asarray(value)
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def make_apply(meta):
    """Makes apply(params, x) on NHWC images."""

    def apply(params, x):
        for i, (_, _, size, stride) in enumerate(meta["layers"]):
            x = jax.lax.conv_general_dilated(
                x,
                params["convs"][str(i)]["kernel"],
                (stride, stride),
                [(size // 2, size // 2)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jax.nn.relu(x)
        x = x.mean((1, 2))
        return x @ params["fc"]["kernel"] + params["fc"]["bias"][None]

    return apply


def batches(arrays, meta):
    """Yields batch i = samples (i * batch + j) mod samples."""
    images, labels = arrays["x"].transpose(0, 2, 3, 1), arrays["y"].astype(np.int32)
    i = 0
    while True:
        pick = (i * meta["batch"] + np.arange(meta["batch"])) % len(labels)
        yield {"inputs": jnp.asarray(images[pick]), "labels": jnp.asarray(labels[pick])}
        i += 1


def paths(meta):
    """Lists kernel paths in the trace's layer order."""
    return [f"convs/{i}/kernel" for i in range(len(meta["layers"]))] + ["fc/kernel"]
