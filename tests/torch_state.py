"""PyTorch's state dicts: what it would call the tensors of our networks, and folded by hand."""

import hashlib

import jax
import jax.numpy as jnp

from domino_jax.pytorch.layouts import counters, tensors
from domino_jax.trace.layers import find_layers


def digest(model, size):
    """Hashes names and shapes of the state dict of a network of images.

    Of torchvision's: sha256 of the sorted lines f"{name} {tuple(tensor.shape)}" of
    `model.state_dict()`, 16 digits.
    """
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def forward(params, inputs):
        stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), model.stats)
        return model.apply(params, stats, inputs, train=False, key=None)[0]

    layout = tensors(model.params, model.stats, find_layers(forward, model.params, images, 2))
    lines = [f"{t.name} {t.shape}" for t in layout] + [f"{name} ()" for name in counters(layout)]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def folded_state(plain):
    """Folds the norms of a PyTorch network: each follows its convolution in `named_modules`."""
    import torch  # noqa: PLC0415 (digest needs none)

    state, convolution, skipped = {}, "", set()
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            convolution = name
        elif isinstance(module, torch.nn.BatchNorm2d):
            conv = plain.get_submodule(convolution)
            factor = module.weight / torch.sqrt(module.running_var + module.eps)
            bias = 0 if conv.bias is None else conv.bias
            state[f"{convolution}.weight"] = conv.weight * factor[:, None, None, None]
            state[f"{convolution}.bias"] = module.bias + (bias - module.running_mean) * factor
            skipped.add(name)
    left = {k: v for k, v in plain.state_dict().items() if k.rpartition(".")[0] not in skipped}
    return left | state


def randomize(network, seed=0):
    """Draws every value of a PyTorch network anew, statistics too; returns the network."""
    import torch  # noqa: PLC0415 (digest needs none)

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.ndim == 1:
                value.normal_(1.0 if "weight" in key else 0.0, 0.1, generator=generator)
            elif value.ndim > 1:
                value.normal_(0.0, (2 / value[0].numel()) ** 0.5, generator=generator)
    return network
