"""Statistics of the layers of the usual libraries, against their own hooks."""

import importlib

import jax
import jax.numpy as jnp
import pytest
from tapped import B, by_hooks, floats, patches, require_like, tapped

pytestmark = pytest.mark.usefixtures("users_promotion")


def test_linen_layers(monkeypatch):
    nn = importlib.import_module("flax.linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 2), strides=(2, 1), padding=((1, 0), (2, 1)))(x))
            x = nn.MultiHeadDotProductAttention(num_heads=2)(x.reshape(x.shape[0], -1, 4))
            return nn.Dense(5)(nn.gelu(nn.Dense(6)(x))).mean(1)

    net, x = Net(), floats(B, 5, 4, 3)
    params = net.init(jax.random.key(0), x)["params"]
    calls = []

    def network(hook, params, x):
        calls.clear()

        def intercept(following, args, kwargs, context):
            y = following(*args, **kwargs)
            if context.method_name == "__call__" and isinstance(
                context.module, nn.Dense | nn.Conv | nn.DenseGeneral
            ):
                calls.append("/".join(context.module.path))
                y = hook(args[0], y)
            return y

        with nn.intercept_methods(intercept):
            return net.apply({"params": params}, x)

    pairs = by_hooks(network, params, x)
    uses = dict(zip(calls, pairs, strict=True))
    taps = tapped(lambda p, x: net.apply({"params": p}, x), params, x)
    assert taps.untapped == {}
    assert set(taps.statistics) == {f"{name}/kernel" for name in uses}
    for name, (inputs, grads) in uses.items():
        rows, of_rows = inputs, grads
        if name == "Conv_0":
            rows = patches(inputs, (3, 2), (2, 1), ((1, 0), (2, 1)))
        if name.endswith("out"):
            rows = inputs.reshape(*inputs.shape[:-2], -1)
        elif "Attention" in name:
            of_rows = grads.reshape(*grads.shape[:-2], -1)
        require_like(taps.statistics[f"{name}/kernel"], (rows, of_rows))


def hooked(monkeypatch, kind, hook, params, call):
    """Calls a network with a hook behind every layer of one kind."""
    original = kind.__call__
    with monkeypatch.context() as patch:
        patch.setattr(kind, "__call__", lambda self, x, **kw: hook(x, original(self, x, **kw)))
        return call(params)


def test_nnx_layers(monkeypatch):
    nnx = importlib.import_module("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(4, 6, rngs=rngs)
            self.twice = nnx.Linear(6, 6, rngs=rngs)
            self.norm = nnx.LayerNorm(6, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.twice(nnx.relu(self.twice(nnx.relu(self.first(x))))))

    graph, state = nnx.split(Net(nnx.Rngs(0)))
    params, x = nnx.to_pure_dict(state), floats(B, 5, 4)

    def network(hook, params, x):
        return hooked(monkeypatch, nnx.Linear, hook, params, lambda p: nnx.merge(graph, p)(x))

    first, *twice = by_hooks(network, params, x)
    taps = tapped(lambda p, x: nnx.merge(graph, p)(x), params, x)
    require_like(taps.statistics["first/kernel"], first)
    require_like(taps.statistics["twice/kernel"], *twice)
    assert (taps.statistics["twice/kernel"].rows == 10).all()


def test_equinox_layers(monkeypatch):
    eqx = importlib.import_module("equinox")
    net, x = eqx.nn.MLP(4, 3, 5, 2, key=jax.random.key(0)), floats(B, 4)
    uses = []

    def network(hook, net, x):
        rows = [hooked(monkeypatch, eqx.nn.Linear, hook, net, lambda n, r=r: n(r)) for r in x]
        return jnp.stack(rows)

    pairs = by_hooks(network, net, x)
    uses = [pairs[i::3] for i in range(3)]  # example by example
    taps = tapped(lambda net, x: jax.vmap(net)(x), net, x)
    for number, rows in enumerate(uses):
        require_like(taps.statistics[f"layers/{number}/weight"], *rows)
