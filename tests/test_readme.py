"""The code of README and docs runs as it stands, and the picture of the house is true."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scripts
import test_imports
from flax import nnx

import domino_jax as dj
from domino_jax.allocate.paces import PACES
from domino_jax.allocate.table import ALLOCATORS
from domino_jax.data import DATA_SETS
from domino_jax.models import NETWORKS, from_nnx
from domino_jax.run import rehearsal
from domino_jax.run.settings_table import SETTINGS
from domino_jax.train.trainers import TRAINERS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))
MOST_WORDS = 2000  # the rest belongs in docs/


def block(language, containing):
    text = "\n".join([README, *(page.read_text() for page in DOCS)])
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return next(text for text in blocks if containing in text)


def batches():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 16)).astype(np.float32)
    y = (x @ rng.normal(size=(16, 3))).argmax(1).astype(np.int32)
    while True:
        pick = rng.integers(0, 256, 64)
        yield jnp.asarray(x[pick]), jnp.asarray(y[pick])


def hand_written():
    rng = np.random.default_rng(0)

    def apply(params, x):
        return jax.nn.relu(x @ params["hidden"]["kernel"]) @ params["out"]["kernel"]

    def kernel(*shape):
        return {"kernel": jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32)}

    return apply, {"hidden": kernel(16, 32), "out": kernel(32, 3)}


def linen():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="out")(nn.relu(nn.Dense(32, name="hidden")(x)))

    net = Net()
    params = net.init(jax.random.key(0), jnp.zeros((1, 16)))["params"]
    return lambda params, x: net.apply({"params": params}, x), params


def nnx_module():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(16, 32, rngs=rngs)
            self.out = nnx.Linear(32, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(nnx.relu(self.hidden(x)))

    model = from_nnx(Net(nnx.Rngs(0)))

    def apply(params, x):
        return model.apply(params, model.stats, x, train=True, key=jax.random.key(0))[0]

    return apply, model.params


def equinox_module():
    net = eqx.nn.MLP(16, 3, 32, 1, key=jax.random.key(0))
    params, static = eqx.partition(net, eqx.is_array)
    return lambda params, x: jax.vmap(eqx.combine(params, static))(x), params


@pytest.mark.parametrize("network", [hand_written, linen, nnx_module, equinox_module])
def test_ten_lines(network):
    names = {}
    exec(block("python", "def find("), names)
    apply, params = network()

    def loss(params, batch):
        outputs = apply(params, batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(outputs, batch[1]).mean()

    scheme = names["find"](apply, loss, params, batches(), 0.5)
    assert len(scheme) == 2
    assert all(isinstance(nm, dj.NM) and nm.m == 4 for nm in scheme.values())
    layers = dj.find_layers(apply, params, jnp.zeros((1, 16)), 4)
    assert dj.total_cost(layers, dj.count_weights, scheme) * 2 <= dj.total_cost(
        layers, dj.count_weights
    )
    sparse = dj.hard_mask(params, layers, dj.n_by_path(scheme, layers))
    kept = sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(sparse) if leaf.ndim > 1)
    assert kept == dj.total_cost(layers, dj.count_weights, scheme)
    exec(block("python", "def train("), names)
    trained = names["train"](apply, loss, params, batches(), scheme, 30)
    kept = sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(trained) if leaf.ndim > 1)
    assert kept == dj.total_cost(layers, dj.count_weights, scheme)
    batch = next(batches())
    assert loss(trained, batch) < loss(sparse, batch)


def test_network_and_data_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(block("python", "# mine.py"))
    paths = scripts.python_path(tmp_path, ROOT)
    flags = "--xla_backend_optimization_level=0"  # one device
    environment = {**os.environ, "PYTHONPATH": paths, "XLA_FLAGS": flags}
    workdir = tmp_path / "run"
    for line in block("bash", "mine:mlp").splitlines():
        _, _, script, *arguments = line.split()
        arguments[-1] = f"--workdir={workdir}"
        command = [sys.executable, str(ROOT / script), *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    results = json.loads((workdir / "results.json").read_text())
    assert results["search"]["totals"]["cost"]["share"] <= 0.5
    assert results["train"]["tuned"]["accuracy"] > 0.8


def test_a_config_of_ones_own(tmp_path, monkeypatch):
    names = {}
    exec(block("python", "# my_config.py"), names)
    (tmp_path / "mine.py").write_text(block("python", "# mine.py"))
    monkeypatch.syspath_prepend(tmp_path)
    rehearsal.rehearse(names["get_config"]())


def test_the_picture_of_the_house_is_the_table_of_its_rooms():
    rows = [line.split("/", 1) for line in block("text", "core/  ").splitlines()]
    pictured = {
        room: set(re.split(r"  +", rest.strip())[-1].split()) - {"-"} for room, rest in rows
    }
    assert pictured == {name: room.below for name, room in test_imports.ROOMS.items()}


def test_the_readme_is_short_and_every_page_says_for_whom_it_is():
    assert len(README.split()) <= MOST_WORDS
    for page in DOCS:
        title, _, first, *_ = page.read_text().split("\n")
        assert title.startswith("# ") and first.startswith("For those who "), page.name
        assert f"docs/{page.name}" in README, page.name


def test_every_link_leads_somewhere():
    for page in [ROOT / "README.md", *DOCS]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def commands():
    """Yields the commands of README and docs that start one of our scripts or modules."""
    for page in [ROOT / "README.md", *DOCS]:
        for text in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in re.split(r"\n|&&", text):
                words = line.partition("#")[0].replace("PYTHONPATH=. ", "").split()
                if words[:1] == ["python"] and words[1:3] != ["-m", "pip"] and words[1] != "-c":
                    yield page.name, words[1:]


@pytest.mark.parametrize(("page", "words"), list(commands()))
def test_every_command_names_what_is_there(page, words):
    """Whole runs of these are in tests/run, tests/pytorch, tests/deploy and tests/benchmarks."""
    if words[0] == "-m":
        path = ROOT.joinpath(*words[1].split("."))
        assert words[1] == "pytest" or path.with_suffix(".py").is_file() or path.is_dir()
        return
    if words[0].startswith("deploy/"):  # the copied folder
        assert (ROOT / "domino_jax" / words[0]).is_file()
        return
    assert (ROOT / words[0]).is_file()
    settings = [word for word in words[1:] if word.startswith("--config.")]
    (config,) = [word for word in words[1:] if word.startswith("--config=")]
    assert (ROOT / config.partition("=")[2]).is_file()
    known = set(SETTINGS)
    for setting in settings:
        key = setting.removeprefix("--config.").partition("=")[0]
        assert key in known or key.startswith(("model.", "data."))


@pytest.mark.parametrize("table", [ALLOCATORS, TRAINERS, PACES, NETWORKS, DATA_SETS])
def test_every_entry_of_a_table_is_on_a_page(table):
    pages = "\n".join(page.read_text() for page in DOCS)
    assert [name for name in table if f"`{name}`" not in pages and f"'{name}'" not in pages] == []
