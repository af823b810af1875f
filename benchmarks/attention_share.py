"""Where a language model's weights belong: schemes of equal size, from MLP-rich to attention-rich.

    python -m benchmarks.allocations --config=configs/stdlib_bytes.py --metric=loss --methods domino
    python -m benchmarks.attention_share

Every kernel of attention keeps A of 16 and every kernel of the MLPs B of 16, with 4A + 8B = 48 (an
MLP has twice the weights), the head 4: as many weights as 4:16 everywhere. The runs start from the
dense networks of the first command, whose searched schemes are compared too, and are fine-tuned for
a seventh of the config's time and for all of it. A run that is done is not repeated. Further flags
--config.key=value go to every run, as those of the first command did.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.allocations import overrides_of, run, shown
from benchmarks.clock import machine, print_table
from domino_jax.core import scheme as schemes
from domino_jax.core.scheme import NM

CONFIG = "configs/stdlib_bytes.py"
M = 16
UNIFORM = (4, 4)
SHARES = ((2, 5), UNIFORM, (6, 3), (8, 2))  # kept of 16 by attention and by the MLPs
SEARCHED = "searched"
EPOCHS = 0.035  # of the config
LENGTHS = ("short", "whole")
Losses = dict[str, float]  # nats: masked without training, and after each length of fine-tuning


def label(attention: int, mlp: int) -> str:
    """Names an allocation."""
    return f"attention {attention}:{M}, MLP {mlp}:{M}"


def scheme_of(order: Iterable[str], attention: int, mlp: int) -> dict[str, NM]:
    """Gives every kernel N:16 by what it belongs to."""
    kinds = {"attention": attention, "mlp": mlp, "head": 4}
    return {name: NM(next(n for kind, n in kinds.items() if kind in name), M) for name in order}


def write_schemes(folder: Path, order: Sequence[str]) -> dict[str, Path]:
    """Writes the schemes of equal size; {allocation: file}."""
    files = {}
    for attention, mlp in SHARES:
        path = folder / f"attention{attention}_mlp{mlp}.json"
        schemes.save(path, scheme_of(order, attention, mlp))
        files[label(attention, mlp)] = path
    return files


def length_of(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a fine-tuning: all of it, or a seventh."""
    if name == "whole":
        return {}
    epochs = float(overrides.get("train.epochs", EPOCHS)) / 7
    return {"train.epochs": epochs, "train.warmup_epochs": epochs / 10}


def fine_tune(workdirs: Mapping[str, Path], overrides: Mapping[str, Any]) -> Losses:
    """Fine-tunes for each length in its work directory, unless that is done."""
    losses: Losses = {}
    for length, workdir in workdirs.items():
        results = workdir / "results.json"
        if not results.exists() or "tuned" not in json.loads(results.read_text()).get("train", {}):
            run("train.py", CONFIG, workdir, {**overrides, **length_of(length, overrides)})
        found = json.loads(results.read_text())["train"]
        losses |= {"masked": found["masked"]["loss"], length: found["tuned"]["loss"]}
    return losses


def compare(folder: Path, seed: int, common: Mapping[str, str]) -> dict[str, Losses]:
    """Makes the runs of one seed, all with some overrides."""
    uniform, searched = (
        folder / f"seed{seed}_{UNIFORM[0]}of{M}_{method}" for method in ("uniform", "domino")
    )
    shares = folder / "attention_share"
    shares.mkdir(exist_ok=True)
    files = write_schemes(shares, list(schemes.load(uniform / "scheme.json")))
    files[SEARCHED] = searched / "scheme.json"
    made = {label(*UNIFORM): uniform, SEARCHED: searched}  # by benchmarks.allocations
    losses = {}
    for name, scheme in files.items():
        own = shares / f"seed{seed}_{SEARCHED if name == SEARCHED else scheme.stem}"
        workdirs = {length: own / length for length in LENGTHS}
        if name in made:
            workdirs["whole"] = made[name]
        overrides = {"seed": seed, **common, "init": uniform / "dense", "scheme": scheme}
        losses[name] = fine_tune(workdirs, overrides)
    return losses


def rows(results: Sequence[Mapping[str, Losses]]) -> list[list[str]]:
    """Makes the rows of the table from the losses of each seed."""
    made = []
    for name in results[0]:
        cells = [
            shown((seed[name][when] for seed in results), 1.0, "") for when in ("masked", *LENGTHS)
        ]
        gains = (seed[name]["whole"] - seed[label(*UNIFORM)]["whole"] for seed in results)
        made.append([name, *cells, "-" if name == label(*UNIFORM) else shown(gains, 1.0, "")])
    return made


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=Path("runs/allocations/stdlib_bytes"))
    parser.add_argument("--seeds", type=int, default=3)
    flags, others = parser.parse_known_args()
    common = overrides_of(others)
    folder = flags.folder.absolute()
    results = [compare(folder, seed, common) for seed in range(flags.seeds)]
    print(machine())
    print(f"\nnats a byte, mean ± standard deviation of {flags.seeds} seeds\n")
    heads = ["kept", "masked without training", "short fine-tuning", "whole", "whole over uniform"]
    print_table(heads, rows(results))


if __name__ == "__main__":
    main()
