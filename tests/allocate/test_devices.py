"""Tables that are measured on a batch which eight devices share are those of one device."""

import json
import subprocess
import sys

import numpy as np
import pytest

FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
EIGHT = """
import json, re
import jax, jax.numpy as jnp, numpy as np
from domino_jax.allocate import fisher, kdiag, kronecker, sensitivity
from domino_jax.trace.layers import find_layers
from domino_jax.train.mesh import make_mesh, split_batch
from domino_jax.train.placement import Placement, place

rng = np.random.default_rng(0)
params = {"a": jnp.float32(rng.normal(size=(8, 8))), "b": jnp.float32(rng.normal(size=(8, 4)))}
outputs = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]
loss = lambda p, batch: jnp.square(outputs(p, batch["inputs"]) - batch["labels"]).mean()
inputs = [np.float32(rng.normal(size=(32, 8))) for _ in range(2)]
labels = [np.asarray(outputs(params, x)) + rng.normal(size=(32, 4)).astype("f") for x in inputs]
batches = [{"inputs": x, "labels": y} for x, y in zip(inputs, labels)]
layers = find_layers(outputs, params, inputs[0][:1], 4)
tables = {
    "fisher": lambda p, b: fisher.fisher_table(layers, p, loss, b, micro=2),
    "kdiag": lambda p, b: kdiag.kdiag_table(layers, p, loss, b),
    "kronecker": lambda p, b: kronecker.kronecker_table(layers, p, loss, b),
    "sensitivity": lambda p, b: sensitivity.sensitivity_table(layers, p, loss, b),
}
mesh = make_mesh()
assert mesh.shape["data"] == 8
shared = [split_batch(mesh, batch) for batch in batches]
whole = place(Placement(mesh, {}), params)
for name, table in tables.items():
    print(json.dumps([name, table(params, batches), table(whole, shared)]))
add = fisher.adding(fisher.Gradients(layers, loss, 2, 1), fisher.by_rank(layers))
sums = {path: jnp.zeros((1, 4)) for path in whole}
lowered = jax.jit(add, static_argnums=4).lower(
    sums, whole, {}, shared[0], fisher._devices(shared[0], 2)
)
text = lowered.compile().as_text()
print(sorted(set(re.findall(r" (all-reduce|all-gather|all-to-all|collective-\\w+)\\(", text))))
reduced = "".join(re.findall(r"= (.*) all-reduce\\(", text))
print(sorted(set(re.findall(r"f32\\[[\\d,]*\\]", reduced))))
"""


@pytest.mark.slow
def test_tables_are_those_of_one_device():
    run = subprocess.run(
        [sys.executable, "-c", EIGHT],
        env={"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    *tables, collectives, exchanged = run.stdout.splitlines()
    assert len(tables) == 4
    for line in tables:
        name, one, eight = json.loads(line)
        assert list(one) == list(eight) == ["a", "b"]
        for layer, row in one.items():
            wanted = np.array(list(row.values()))
            found = np.array(list(eight[layer].values()))
            assert wanted[0] > 0, name
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6, err_msg=name)
    # Fisher's micro-batches stay on the device that has their examples: only sums are exchanged,
    # M of each layer.
    assert collectives == "['all-reduce']"
    assert exchanged == "['f32[1,4]']"
