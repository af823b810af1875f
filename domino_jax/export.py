"""A finished run for PyTorch: python -m domino_jax.export --workdir=runs/digits --out=digits_pt.

Reads the sparse weights, the scheme and the settings of a work directory, and writes a folder that
`domino_jax.deploy.runtime` runs; `domino_jax.pytorch.exported` describes it. --format=hf writes a
language model as the folder of Hugging Face that it came in.
"""

import signal

if __name__ == "__main__":  # before all that takes its time to import: no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from domino_jax import data, models
from domino_jax.core import scheme
from domino_jax.core.errors import TRACEBACK, InputError, escaped, fault, printable
from domino_jax.core.factories import told
from domino_jax.core.finite import require_finite
from domino_jax.core.kernels import n_by_path
from domino_jax.core.layers import LayerSpec
from domino_jax.core.paths import require_known
from domino_jax.core.scheme import Scheme
from domino_jax.deploy import sparse24
from domino_jax.pytorch import hugging_face_writer, writer
from domino_jax.pytorch.document import Network
from domino_jax.run import checkpoint, experiment, output, settings
from domino_jax.run.provenance import DATA, read_record
from domino_jax.run.workdir import require_outside_runs
from domino_jax.trace.kernels import find_kernels

FORMATS = ("folder", "onnx", "hf")
SAMPLES = 64


def _silent(line: str) -> None:
    del line


def network_of(
    workdir: Path, *, data_dir: str | None = None, say: Callable[[str], None] = _silent
) -> Network:
    """Reads the finished run of a work directory.

    Args:
        workdir: where search.py and train.py wrote.
        data_dir: folder of the data sets, instead of the run's.
        say: takes a line about what of the run is not in the export.

    Raises:
        InputError: a part of it is missing or does not fit.
    """
    if not workdir.is_dir():
        raise InputError(f"workdir {workdir}: there is no such folder")
    sparse = workdir / "train" / "sparse"
    if checkpoint.latest(sparse) is None:
        raise InputError(f"workdir {workdir}: train.py has not finished: no weights in {sparse}")
    flat, trained_scheme = _record(workdir)
    trained_scheme = (
        scheme.load(workdir / "scheme.json") if trained_scheme is None else trained_scheme
    )
    if flat.get("train.pattern", "n:m") != "n:m":
        raise InputError(
            f"workdir {workdir}: expected weights in N:M, got train.pattern="
            f"{flat['train.pattern']!r}: a baseline only, whose zeros no device skips"
        )
    if data_dir is not None:
        flat["data.dir"] = data_dir
    config = _config(flat)
    settings.check(config)
    known = ":" not in config.model.name
    if known and "dtype" in config.model:
        if config.model.dtype not in (None, "float32"):
            say(f"model.dtype={config.model.dtype} is left out: the stored logits are of float32")
        with config.unlocked():
            del config.model["dtype"]
    dataset = data.create(
        config.data.name, data_dir=config.data.dir, **experiment.data_options(config)
    )
    options = experiment.model_options(config)
    model = models.create(
        config.model.name,
        example=dataset.example,
        classes=dataset.classes,
        seed=config.seed,
        **options,
    )
    saved = checkpoint.restore_parts(sparse, experiment.weights_of(model))
    require_finite(sparse, saved)
    batch = next(iter(dataset.evaluate(SAMPLES)))
    return Network(
        name=config.model.name,
        options=options,
        model=model._replace(params=saved["params"], stats=saved["stats"]),
        layers=_layers(model, dataset.example, config.search, trained_scheme),
        scheme=trained_scheme,
        inputs=np.asarray(batch["inputs"])[np.asarray(batch["weight"]) > 0],
        known=known,
    )


def _record(workdir: Path) -> tuple[dict[str, Any], Scheme | None]:
    """Reads settings (key -> value) and, where the run has recorded it, the scheme it trained."""
    path = workdir / "scheme.json"
    document = scheme.load_document(path) if path.exists() else {}
    config = document.get("config", {})
    if not isinstance(config, Mapping):
        raise InputError(f"{path}: 'config': expected an object, got {config!r}")
    flat = dict(settings.flat(config))
    recorded = read_record(workdir)
    for part in ("common", "search", "train"):
        flat |= recorded.get(part, {})
    flat.pop(DATA, None)
    trained = flat.pop("scheme", None)
    if not flat:
        raise InputError(
            f"workdir {workdir}: neither scheme.json nor config.json tells its settings"
        )
    if not isinstance(trained, Mapping):
        return flat, None
    try:
        return flat, {name: scheme.NM.parse(nm) for name, nm in trained.items()}
    except (InputError, TypeError, AttributeError) as error:
        raise InputError(f"{workdir / 'config.json'}: 'scheme': {error}") from None


def _config(flat: Mapping[str, Any]) -> ConfigDict:
    """Builds the settings of the run, as far as the network, its layers and its data need them."""
    config = settings.defaults().unlock()
    for key, value in flat.items():
        group, _, name = key.rpartition(".")
        if group in ("model", "data"):
            config[group][name] = value
        elif key in ("seed", *(f"search.{of}" for of in ("m", "candidates", "rules", "shrink_m"))):
            owner = config[group] if group else config
            owner[name] = tuple(value) if isinstance(value, list) else value
    return config


def _layers(
    model: models.Model, example: Any, search: ConfigDict, trained_scheme: Scheme
) -> tuple[LayerSpec, ...]:
    """Finds the layers of the run, in groups of the M that its scheme says of each.

    A run of train.py alone records no M. Its M is the one of the scheme's from which all others
    follow by the rules.

    Raises:
        InputError: no M gives the groups of the scheme.
    """
    sizes = sorted({nm.m for nm in trained_scheme.values()}, reverse=True)
    reasons: list[str] = []
    kernels = find_kernels(experiment.forward_of(model), model.params, example)
    for m in dict.fromkeys((search.m, *(size for size in sizes if size > 1))):
        trial = search.copy_and_resolve_references()
        trial.m, trial.candidates = m, search.candidates if m == search.m else None
        try:
            layers = experiment.group_under(kernels, trial)
            n_by_path(trained_scheme, layers)
        except InputError as error:
            reasons.append(str(error))
        else:
            return layers
    raise InputError(reasons[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, or 1 (130: Ctrl-C) after one line on stderr."""
    flags, rest = _parser().parse_known_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is half written goes
    try:
        _require_flags(flags, rest)
        with output.arriving():
            _run(flags)
    except KeyboardInterrupt:
        print("stopped: no folder was made", file=sys.stderr)
        return 130
    except output.OutputLost as error:
        made = f"{flags.out} was made whole" if Path(flags.out).is_dir() else "no folder was made"
        return _fail(f"{error}; {made}")
    except (InputError, OSError) as error:
        return _fail(str(error))
    except BaseException as error:  # of any type
        return _fail(fault(error))
    return 0


def _fail(message: str) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    print(printable(message), file=sys.stderr)
    return 1


def _require_flags(flags: argparse.Namespace, rest: Sequence[str]) -> None:
    """Refuses unknown flags, by their nearest names, and missing ones."""
    names = [f"--{name}" for name in vars(flags)]
    for word in rest:
        require_known([word.partition("=")[0]], names, what="flag")
    for name in ("workdir", "out"):
        if not getattr(flags, name):
            raise InputError(f"--{name}=FOLDER is missing")
    if flags.format == "hf":
        for name in ("dtype", "fold", "backend", "names"):
            if getattr(flags, name):
                raise InputError(f"--{name}: --format=hf keeps names and dtypes; leave it out")


def _run(flags: argparse.Namespace) -> None:
    logging.set_verbosity(logging.WARNING)  # Orbax reports what it reads at INFO
    out = Path(flags.out)
    writer.require_free(out)
    require_outside_runs(out, "out")
    said: list[str] = []
    network = network_of(Path(flags.workdir), data_dir=flags.data_dir, say=said.append)
    if flags.format == "hf":
        print(*said, *hugging_face_writer.export(network, out), sep="\n")
        return
    document = writer.export(
        network,
        out,
        dtype=flags.dtype or "float16",
        fold_norms=flags.fold,
        onnx=flags.format == "onnx",
        backend=flags.backend,
        names=_function(flags.names) if flags.names else None,
    )
    _print(document, out, said)


def _function(name: str) -> Callable[[str], str]:
    module, _, attribute = name.partition(":")
    try:
        names = getattr(importlib.import_module(module), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's module does when imported
        raise InputError(
            f"--names: expected 'package.module:function', got {name!r} ({told(error, name)})"
        ) from error
    if not callable(names):
        raise InputError(f"--names {name!r}: is no function")
    return names


def _print(document: Mapping[str, Any], out: Path, said: Sequence[str]) -> None:
    print(*said, sep="\n", end="\n" if said else "")
    layers = document["layers"]
    runs = sum(entry["sparse24"] for entry in layers.values())
    print(f"{escaped(str(out))}: {len(layers)} layers, {runs} can run sparse ({document['dtype']})")
    for name, entry in layers.items():
        if not entry["sparse24"]:
            reason = "all weights kept" if entry["why"] == "dense" else entry["why"]
            print(escaped(f"  {name} runs dense: {entry.get('reason', reason)}"))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Prints one line and exits, as the scripts do."""
        print(printable(message), file=sys.stderr)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m domino_jax.export", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="", help="of search.py and train.py")
    parser.add_argument("--out", default="", help="folder to make")
    parser.add_argument(
        "--dtype",
        default=None,
        choices=sparse24.DTYPES,
        help="of the weights; float16 if not given",
    )
    parser.add_argument(
        "--fold", action="store_true", help="put batch norms into the convolutions before them"
    )
    parser.add_argument(
        "--format",
        default="folder",
        choices=FORMATS,
        help="onnx: model.onnx too; hf: a folder of Hugging Face, for a language model",
    )
    parser.add_argument(
        "--backend",
        default=None,
        choices=sparse24.BACKENDS,
        help="whose shape multiples count; cusparselt unless float32, which only cutlass has",
    )
    parser.add_argument("--names", default="", help="package.module:function, path -> name")
    parser.add_argument("--data_dir", default=None, help="of the data sets, instead of the run's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
