"""Wrong input, case by case: arguments and files, and words that the one line must hold."""

import json
from pathlib import Path
from typing import NamedTuple

OWN = Path(__file__).parent / "own.py"


class Case(NamedTuple):
    """Arguments, where {tmp} is an empty folder and {made} is `made`; words of the one line."""

    arguments: str | list[str]
    wanted: tuple[str, ...]
    script: str = "search"
    files: dict[str, str] = {}  # noqa: RUF012 (never changed); made in {tmp}
    config: str = f"--config={OWN} "


FLAGS = {
    "unknown setting": Case("--config.search.budge=0.3", ("'search.budge'", "search.budget")),
    "unknown group": Case("--config.serch.budget=0.3", ("'serch.budget'", "search.budget")),
    "setting without its group": Case("--config.budget=0.3", ("'budget'", "search.budget")),
    "group as a setting": Case("--config.search=3", ("search:", "group", "budget", "'3'")),
    "unknown flag": Case("--wrkdir=runs", ("--wrkdir", "--workdir")),
    "setting as a flag": Case("--budget=0.3", ("--budget", "--config.search.budget")),
    "strange flag": Case("--zzz", ("--zzz", "--config", "--workdir")),
    "flag without value": Case("--config.search.budget", ("--config.search.budget", "value")),
    "stray argument": Case("configs/digits.py", ("'configs/digits.py'", "--config=FILE")),
    "number as text": Case("--config.search.budget=low", ("search.budget", "above 0", "'low'")),
    "fraction for a count": Case("--config.search.m=8.0", ("search.m", "from 2 to 64", "'8.0'")),
    "part of a setting": Case(
        "--config.search.candidates[0]=1", ("search.candidates[...]", "--config.search.candidates=")
    ),
    "setting without a name": Case("--config.=1", ("unknown setting ''",)),
    "setting without a value, last": Case("--config.init", ("--config.init: expected a value",)),
    "denied setting": Case("--noconfig.search.m", ("search.m: expected a whole", "'False'")),
    "text for a tuple": Case(
        "--config.search.candidates=many", ("search.candidates: expected None or", "'many'")
    ),
    "too large for a float": Case(
        f"--config.search.lr={10**400}"[:450], ("search.lr: expected a number above 0",)
    ),
    "option of another type": Case(
        "--config.data.workers=two", ("data.workers: expected a whole number", "'two'")
    ),
    "flag that takes no value": Case("--anew=5", ("--anew: expected True or False", "'5'")),
    "no truth value": Case("--config.evaluate=maybe", ("evaluate", "True or False", "'maybe'")),
    "option that the network lacks": Case(
        "--config.model.width=3", ("model 'own:network'", "'width'", "it takes", "features=8")
    ),
    "option that the data set lacks": Case(
        "--config.data.lables=3", ("data set 'own:data'", "'lables'", "it takes", "labels=3")
    ),
    "option of an option": Case("--config.model.head.width=3", ("model.head.width", "own.py")),
    "evaluating by search.py": Case("--config.evaluate", ("evaluate:", "train.py")),
    "no config": Case("", ("--config=FILE", "configs/"), config=""),
    "empty config": Case("--config=", ("--config=FILE",), config=""),
    "config without value": Case("--config", ("--config",), config=""),
    "missing config": Case(
        "--config=configs/digit.py --config.search.m=4",
        ("'configs/digit.py'", "does not exist", "nearest: configs/digits.py"),
        config="",
    ),
    "config by name alone": Case("--config=digits", ("nearest: configs/digits.py",), config=""),
    "config is a folder": Case("--config=configs", ("'configs' is a folder",), config=""),
}

START = "from domino_jax.settings import defaults\ndef get_config():\n  config = defaults()\n"
UNLOCKED = f"{START}  with config.unlocked():\n    "


def config(text, *wanted):
    return Case("--config={tmp}/c.py", wanted, files={"c.py": text}, config="")


CONFIGS = {
    "syntax": config("def get_config(:\n", "c.py, line 1: invalid syntax"),
    "import": config("import nothing_here\n", "c.py, line 1", "No module named 'nothing_here'"),
    "error": config("def get_config():\n  return 1 / 0\n", "c.py, line 2", "ZeroDivisionError"),
    "no function": config("config = 1\n", "c.py: it has no function get_config"),
    "nothing returned": config(
        "def get_config():\n  pass\n", "c.py", "ConfigDict", "settings.defaults()", "nothing"
    ),
    "dictionary": config("def get_config():\n  return {'seed': 1}\n", "c.py", "got dict"),
    "unknown group": config(f"{START}  config.serch.m = 4\n", "c.py, line 4", "'serch'", "search"),
    "unknown key": config(
        f"{START}  config.search.budgt = 1\n", "line 4", "'search.budgt'", "search.budget"
    ),
    "wrong type": config(
        f"{START}  config.search.m = 'four'\n",
        *("c.py, line 4: search.m: expected a whole number from 2 to 64", "got 'four'"),
    ),
    "wrong type, updated": config(
        f"{START}  config.train.update(lr='high')\n",
        "c.py, line 4: train.lr: expected a number above 0",
    ),
    "missing setting": config(
        f"{UNLOCKED}del config.search.m\n  return config", "search.m is miss"
    ),
    "missing group": config(
        f"{UNLOCKED}del config.search\n  return config", "search.", "is missing"
    ),
    "group that is none": config(
        "import ml_collections as m\ndef get_config():\n  return m.ConfigDict({'data': 3})\n",
        *("data: expected a group of settings", "workers", "got 3"),
    ),
    "further setting": config(
        f"{UNLOCKED}config.search.budgt = 3\n  return config", "'search.budgt'", "search.budget"
    ),
}

SETTINGS = {
    "budget 0": Case("--config.search.budget=0", ("search.budget", "above 0 and below 1", "'0'")),
    "budget 1": Case("--config.search.budget=1", ("search.budget", "above 0 and below 1", "'1'")),
    "budget beyond": Case("--config.search.budget=1.5", ("search.budget", "below 1", "1.5")),
    "budget of all": Case("--config.search.budget=100%", ("search.budget", "below 1", "'100%'")),
    "budget above dense": Case(
        "--config.search.budget=5.0M", ("budget: expected less than the dense 304", "'5.0M'")
    ),
    "budget of another unit": Case(
        ["--config.search.budget=227M MACs"], ("227M MACs", "objective to 'macs'")
    ),
    "N:M of no layer": Case("--config.search.nm=8:16", ("nm: expected N:M of M = 4", "got 8:16")),
    "budget negative": Case("--config.search.budget=-0.1", ("search.budget", "above 0", "-0.1")),
    "m too small": Case("--config.search.m=1", ("search.m", "from 2 to 64", "got 1")),
    "m too large": Case("--config.search.m=65", ("search.m", "from 2 to 64", "got 65")),
    "m that groups nothing": Case(
        "--config.search.m=7 --config.search.rules=()",
        ("m=7", "stem/kernel", "3 is no multiple of 7", "hidden/kernel", "8 is no multiple"),
    ),
    "candidates not up to m": Case(
        "--config.search.candidates=(1,2)", ("search.candidates", "search.m = 4", "(1, 2)")
    ),
    "candidates beyond m": Case(
        "--config.search.candidates=(1,2,8)", ("search.candidates", "search.m = 4", "(1, 2, 8)")
    ),
    "candidates that fall": Case(
        "--config.search.candidates=(2,1,4)", ("search.candidates", "rising", "(2, 1, 4)")
    ),
    "candidate 0": Case(
        "--config.search.candidates=(0,2,4)", ("search.candidates", "1 or more", "(0, 2, 4)")
    ),
    "rules that are no pairs": Case(
        "--config.search.rules=('stem','flatten')", ("search.rules", "pairs", "'flatten'")
    ),
    "rule of an unknown kind": Case(
        "--config.search.rules=(('stem','flat'),)", ("'stem'", "'flat'", "'flatten'", "'dense'")
    ),
    "rule that is no regex": Case(
        "--config.search.rules=(('stem[','dense'),)", ("'stem['", "regular expression")
    ),
    "rule that matches nothing": Case(
        "--config.search.rules=(('stern','dense'),)", ("'stern'", "stem/kernel", "hidden/kernel")
    ),
    "rule with an m that does not fit": Case(
        "--config.search.rules=(('hidden',3),)", ("'hidden'", "hidden/kernel", "8", "of 3")
    ),
    "rules for all layers": Case(
        "--config.search.rules=(('','dense'),)", ("no layer", "head/kernel (dense by rule '')")
    ),
    "unknown method": Case(
        "--config.search.method=greedy", ("search.method", "'domino', 'uniform'", "'greedy'")
    ),
    "too many steps from decay to decay": Case(
        "--config.search.penalty_every=10000000000",
        ("search.penalty_every: expected a whole number from 1 to 2147483647", "got 10000000000"),
    ),
    "epochs of too many steps": Case(
        "--config.train.epochs=1000000000", ("train.epochs: expected a number from 0", "1e+06")
    ),
    "more steps than int32 counts": Case(
        "--config.dense.epochs=1e6 --config.dense.batch=2 --config.data.name=own:endless",
        ("dense.epochs", "2147483647 steps of 2", "got 1e+06 epochs"),
    ),
    "seed too large": Case("--config.seed=4294967296", ("seed", "4294967295", "4294967296")),
    "warm-up longer than training": Case(
        "--config.train.epochs=0.5", ("train.warmup_epochs", "train.epochs = 0.5", "got 1")
    ),
    "no pace at all": Case(
        ["--config.search.macs_weight=0", "--config.search.erk_weight=0"],
        ("search.macs_weight", "search.erk_weight", "above 0"),
    ),
    "batch that devices cannot share": Case(
        "--config.search.batch=15", ("search.batch", "multiple of the 2 part", "15")
    ),
    "batch larger than the data": Case(
        "--config.train.batch=66", ("train.batch", "64 training examples", "'own:data'", "66")
    ),
    "too few steps to get there": Case(
        "--config.search.max_steps=2", ("search.max_steps: expected 3 or more", "2 votes", "got 2")
    ),
    "budget out of reach": Case(
        "--config.search.budget=0.1", ("0.1 is out of reach", "0.2566 (78 of 304)")
    ),
    "budget out of reach without flatten": Case(
        "--config.search.rules=() --config.search.budget=0.5",
        ("0.5 is out of reach", "0.7829 (238 of 304)", "0.2566", "'flatten'"),
    ),
    "budget out of reach of the uniform method": Case(
        "--config.search.method=uniform --config.search.budget=0.1", ("0.2566 (78 of 304)",)
    ),
}

_TABLE = "--config.search.method=table --config.search.table={tmp}/t.json"


def _losses(stem: str, *, hidden: str = '{"2": 0.1, "1": 0.2}') -> dict[str, str]:
    layers = f'"stem/kernel": {stem}, "hidden/kernel": {hidden}, "head/kernel": {hidden}'
    return {"t.json": '{"format": 1, "layers": {' + layers + "}}"}


LOSSES = {
    "no loss table": Case(
        "--config.search.method=table", ("search.table: expected the file of a loss table, got ''",)
    ),
    "loss table that is not read": Case(
        "--config.search.table=t.json", ("search.table", "search.method", "'table'", "'domino'")
    ),
    "loss table that is not there": Case(_TABLE, ("t.json", "expected a JSON file, got none")),
    "loss table of another network": Case(
        _TABLE,
        ("t.json", "of another network", "lacks 'stem/kernel'", "no 'fc'"),
        files={"t.json": '{"format": 1, "layers": {"fc": {"1": 1}}}'},
    ),
    "loss table without a candidate": Case(
        _TABLE,
        ("stem/kernel: expected a loss for every candidate n = 1, 2, 4", "got n = 1, 4"),
        files=_losses('{"1": 1}'),
    ),
    "loss table with NaN": Case(
        _TABLE, ("stem/kernel", "0 or more", "got nan for 2"), files=_losses('{"1": 1, "2": NaN}')
    ),
    "loss table that rises": Case(
        _TABLE, ("stem/kernel", "do not rise", "2 at n = 2"), files=_losses('{"1": 1, "2": 2}')
    ),
    "calibration without batches": Case(
        "--config.search.method=fisher --config.search.calibration_batches=0",
        ("search.calibration_batches", "from 1", "got 0"),
    ),
    "more calibration than data": Case(
        "--config.search.method=sensitivity --config.search.calibration_batches=3",
        ("search.calibration_batches: expected at most 2", "64 training examples", "got 3"),
    ),
    "unknown loss": Case(
        "--config.loss=mse", ("loss: expected one of 'softmax_cross", "got 'mse'")
    ),
    "loss that is not there": Case(
        "--config.loss=nowhere:loss", ("loss 'nowhere:loss': cannot import nowhere",)
    ),
    "smoothing of numbers": Case(
        "--config.loss=squared_error --config.train.label_smoothing=0.1",
        ("train.label_smoothing: expected 0 of loss='squared_error', got 0.1",),
    ),
    "unknown pattern": Case(
        "--config.train.pattern=2:4", ("train.pattern: expected one of 'n:m', 'unst", "got '2:4'")
    ),
    "grid without candidates": Case(
        "--config.search.method=sensitivity --config.search.calibration_batches=1 "
        "--config.search.grid=(3,)",
        ("grid: expected some of the candidates [1, 2] of stem/kernel", "got [3]"),
    ),
    "guard that is none": Case(
        "--config.search.guard=yes", ("search.guard: expected one of 'none', 'uni",)
    ),
    "exchanges below 0": Case("--config.search.refine=-1", ("search.refine", "from 0", "got -1")),
    "more calibration of a guard than data": Case(
        "--config.search.guard=uniform --config.search.calibration_batches=3",
        ("search.calibration_batches: expected at most 2", "got 3"),
    ),
    "further budgets that are no pairs": Case(
        "--config.search.budgets=('macs',)",
        ("search.budgets: expected a tuple of pairs (objective, budget)", "got ('macs',)"),
    ),
    "further budget that is none": Case(
        "--config.search.budgets=(('macs',2.0),)",
        ("search.budgets: expected", "got (('macs', 2.0),)"),
    ),
    "further budget of an unknown objective": Case(
        "--config.search.budgets=(('flops',0.5),)",
        ("search.budgets: objective: expected 'params', 'macs' or the path", "flops"),
    ),
    "further budget out of reach": Case(
        "--config.search.budgets=(('macs',0.01),)", ("budget 0.01 is out of reach",)
    ),
    "further budget that a method does not know": Case(
        "--config.search.method=dense --config.search.budgets=(('macs',0.5),)",
        ("search.budgets: expected () with the allocator 'dense'", "one budget at most"),
    ),
    "budget out of reach of the loss": Case(
        "--config.search.method=fisher --config.search.budget=0.1", ("0.2566 (78 of 304)",)
    ),
}

PARTS = {
    "unknown model": Case("--config.model.name=resnt20", ("'resnt20'", "resnet20", "module:")),
    "unknown data set": Case("--config.data.name=digit", ("data set 'digit'", "digits", "module:")),
    "module that is not there": Case(
        "--config.model.name=owm:network", ("'owm:network'", "import owm", "PYTHONPATH")
    ),
    "factory that is not there": Case(
        "--config.model.name=own:netwrk", ("own", "'netwrk'", "nearest: network")
    ),
    "name of no factory": Case(
        "--config.model.name=own:a-b", ("own:a-b", "package.module:factory")
    ),
    "factory of something else": Case(
        "--config.model.name=own:number", ("own:number", "models.Model", "got int")
    ),
    "factory of something else, data": Case(
        "--config.data.name=own:get_config", ("own:get_config", "'data_dir'", "takes ()")
    ),
    "factory without seed": Case(
        "--config.model.name=own:seedless", ("own:seedless", "'seed'", "(*, example, classes)")
    ),
    "outputs for fewer classes": Case(
        "--config.model.name=own:narrow", ("own:narrow", "3 classes", "(2, 2)")
    ),
    "outputs without stats": Case(
        "--config.model.name=own:no_pair", ("own:no_pair", "(outputs, stats)")
    ),
    "stats of another shape": Case(
        "--config.model.name=own:other_stats", ("'mean'", "float32[2]", "float32[3]")
    ),
    "model factory that fails": Case(
        "--config.model.name=own:with_bug",
        ("model 'own:with_bug': TypeError: unsupported operand", "own.py, line ", "TRACEBACK=1"),
    ),
    "model factory that asserts": Case(
        "--config.model.name=own:network --config.data.name=own:flat_data",
        ("model 'own:network': AssertionError (", "own.py, line "),
    ),
    "data factory that fails": Case(
        "--config.data.name=own:without_file",
        ("data set 'own:without_file': FileNotFoundError: ", "'nowhere.npy' (", "own.py, line "),
    ),
    "data factory that refuses": Case(
        "--config.data.name=own:refusing", ("data set 'own:refusing': ValueError (", "own.py, line")
    ),
    "apply on inputs of another shape": Case(
        "--config.model.name=own:transposed",
        ("model 'own:transposed': apply failed on inputs float32[2, 4, 4, 3]: ", "own.py, line "),
    ),
    "apply that branches": Case(
        "--config.model.name=own:branching",
        ("apply failed on inputs", "TracerBoolConversionError: Attempted", "own.py, line "),
    ),
    "apply in NumPy": Case(
        "--config.model.name=own:on_host", ("inputs float32[2, 4, 4, 3]: TracerArrayConversion",)
    ),
    "apply for one example": Case(
        "--config.model.name=own:only_one",
        ("inputs float32[2, 4, 4, 3]: TypeError", "(2, 4, 4, 3)"),
    ),
    "apply without keywords": Case(
        "--config.model.name=own:no_keywords", ("TypeError", "unexpected keyword argument 'train'")
    ),
    "apply only for training": Case(
        "--config.model.name=own:only_training", ("inputs float32[1, 4, 4, 3]: ", "own.py, line ")
    ),
    "apply without a batch axis": Case(
        "--config.model.name=own:summed", ("2 examples", "first axis", "outputs of shape (3,)")
    ),
    "integer parameter": Case(
        "--config.model.name=own:with_steps",
        ("parameter 'k' is int32[]", "into stats", "close over"),
    ),
    "parameter that is text": Case(
        "--config.model.name=own:with_text", ("params 'k': ", "got '1'")
    ),
    "markup in a name": Case("--config.model.name=[red]own:llama:[/]", ("'[red]own:llama:[/]'",)),
    "labels beyond the classes": Case("--config.data.name=own:high_labels", ("0 to 2", "0 to 7")),
    "labels that are no integers": Case("--config.data.name=own:float_labels", ("float64",)),
}


def table(text, *wanted):
    arguments = "--config.search.objective={tmp}/t.json"
    return Case(arguments, wanted, files={} if text is None else {"t.json": text})


TABLES = {
    "missing file": table(None, "expected 'params', 'macs'", "t.json", "No such file"),
    "nested": table("[" * 100_000, "t.json", "nested too deeply"),
    "folder": Case("--config.search.objective={tmp}", ("'params', 'macs'", "Is a directory")),
    "name of 300 characters": Case(
        f"--config.search.objective={'x' * 300}", ("'params', 'macs'", "File name too long")
    ),
    "broken JSON": table('{"stem/kernel": 1', "t.json", "broken JSON", "line 1"),
    "no object": table("[1, 2]", "t.json", "{path: {n: cost}}"),
    "missing layer": table('{"stem/kernel": 1, "head/kernel": 1}', "hidden/kernel"),
    "unknown path": table(
        '{"stem/kernel": 1, "head/kernel": 1, "hidden/kernl": 1}', "'hidden/kernl'", "hidden/kernel"
    ),
    "no number": table(
        '{"stem/kernel": 1, "head/kernel": 1, "hidden/kernel": "1"}', "hidden/kernel", "'1'"
    ),
    "negative": table(
        '{"stem/kernel": 1, "head/kernel": 1, "hidden/kernel": -1}', "hidden/kernel", "got -1"
    ),
    "missing candidate": table(
        '{"stem/kernel": 1, "head/kernel": 1, "hidden/kernel": {"1": 1, "4": 2}}',
        *("hidden/kernel", "[2]", "[1, 4]"),
    ),
    "candidate that is no number": table(
        '{"stem/kernel": 1, "head/kernel": 1, "hidden/kernel": {"dense": 1}}',
        *("hidden/kernel", "'dense'"),
    ),
    "nothing but zeros": table(
        '{"stem/kernel": 0, "head/kernel": 0, "hidden/kernel": 0}', "dense network costs 0"
    ),
    "out of reach": table(
        '{"stem/kernel": {"1": 1, "2": 1, "4": 1}, "head/kernel": 1, "hidden/kernel": 1}',
        *("0.4 is out of reach", "0.5000 (1.5 of 3) of the dense cost"),
    )._replace(arguments="--config.search.objective={tmp}/t.json --config.search.budget=0.4"),
}

INIT = {
    "missing": Case("--config.init={tmp}/none", ("init: ", "/none does not exist", ".pth")),
    "work directory": Case("--config.init={made}", ("is no checkpoint", "/dense, ", "/search")),
    "foreign folder": Case("--config.init={tmp}/f", ("init:", "leaves.json"), files={"f/a": ""}),
    "of other shapes": Case(
        "--config.init={made}/dense --config.model.name=own:wider",
        ("init:", "'params/head/kernel'", "float32[8,3]", "float32[16,3]"),
    ),
    "of other paths": Case(
        "--config.init={made}/dense --config.model.name=own:renamed",
        ("init:", "lacks 'params/middle/kernel'", "unexpected 'params/hidden/kernel'"),
    ),
    "of other paths, uniform": Case(
        "--config.init={made}/dense --config.model.name=own:renamed --config.search.method=uniform",
        ("init:", "lacks 'params/middle/kernel'"),
    ),
    "damaged list of leaves": Case(
        "--config.init={tmp}", ("3", "leaves.json", "damaged"), files={"3/leaves.json": "{"}
    ),
}

WORKDIR = {
    "is a file": Case(
        "--workdir={tmp}/f", ("workdir", "/f: cannot be written (it is a file)"), files={"f": ""}
    ),
    "below a file": Case("--workdir={tmp}/f/run", ("workdir", "/f/run"), files={"f": ""}),
    "dense is a file": Case("", ("run/dense", "written"), files={"run/dense": ""}),
    "results of another kind": Case(
        "",
        ("results.json: 'train': expected an object, got a list",),
        files={"run/results.json": '{"train": [1]}'},
    ),
    "times that are no numbers": Case(
        "",
        ("timing.json: dense, 'seconds': expected a number, got 'long'",),
        files={"run/timing.json": '{"dense": {"seconds": "long"}}'},
    ),
    **{
        f"times that are {name}": Case(
            "",
            ("timing.json: dense, 'steps': expected a number, got ",),
            files={"run/timing.json": '{"dense": {"steps": ' + value + "}}"},
        )
        for name, value in (
            *(("not finite", "NaN"), ("too large", "1e999"), ("negative", "-1")),
            *(("true", "true"), ("of 320 digits", "9" * 320)),
        )
    },
    "nested record": Case(
        "", ("config.json: broken JSON: it is nested",), files={"run/config.json": "[" * 100_000}
    ),
    "record of another kind": Case(
        "",
        ("config.json: 'common': expected an object, got [1]",),
        files={"run/config.json": '{"program": "domino_jax", "format": 1, "common": [1]}'},
    ),
    "noted files of another kind": Case(
        "",
        ("'files': expected a dict, got [1]",),
        files={"run/data_files.json": '{"fingerprint": "a", "files": [1], "broken": []}'},
    ),
    "broken files that have no names": Case(
        "",
        ("data_files.json: 'broken': expected names, got [{}]",),
        files={"run/data_files.json": '{"fingerprint": "a", "files": {}, "broken": [{}]}'},
    ),
    "a fingerprint of another kind": Case(
        "",
        ("made with other settings", "data.fingerprint [1] there"),
        files={
            "run/config.json": '{"program": "domino_jax", "format": 1, "common": '
            '{"data.fingerprint": [1]}}',
            "run/scheme.json": "{}",
        },
    ),
    "nested results": Case(
        "",
        ("results.json: broken JSON: it is nested",),
        files={"run/results.json": '{"a":' * 100_000},
    ),
    **{
        f"{name} is a folder": Case(
            "",
            (f"run/{name}: expected a file, got a folder; remove it",),
            files={f"run/{name}/a": ""},
        )
        for name in ("scheme.json", "report.png", "timing.json", "search/votes.jsonl")
    },
    "results are a folder": Case(
        "", ("results.json: expected a file, got a folder",), files={"run/results.json/a": ""}
    ),
    "broken results": Case("", ("results.json", "broken JSON"), files={"run/results.json": "{"}),
}

NAMES = ("stem/kernel", "hidden/kernel", "head/kernel")


def scheme(text=None, n=2, m=4, names=NAMES, **others):
    layers = {name: {"n": n, "m": m} for name in names}
    return text or json.dumps({"format": 1, "order": list(names), "layers": layers} | others)


def trained(wanted, arguments="", **others):
    return Case(arguments, wanted, "train", {"run/scheme.json": scheme(**others)})


SCHEMES = {
    "missing": Case(
        "", ("run/scheme.json", "no scheme", "search.py first", "--config.scheme"), "train"
    ),
    "missing by name": Case("--config.scheme={tmp}/s.json", ("/s.json", "no scheme"), "train"),
    "folder": Case("--config.scheme={tmp}", ("Is a directory",), "train"),
    "broken JSON": trained(("scheme.json", "broken JSON", "line 1"), text='{"format": 1'),
    "nested": trained(("scheme.json", "nested too deeply"), text="[" * 100_000),
    "nested text of the paper": Case(
        "--config.scheme={tmp}/s.TXT",
        ("s.TXT", "nested too deeply"),
        "train",
        {"s.TXT": "-" * 100_000 + "1"},
    ),
    "escape sequences": Case(
        ["--config.scheme={tmp}/\x1b[31ms.json"], (r"/\x1b[31ms.json", "no scheme"), "train"
    ),
    "path of other bytes": Case(
        ["--config.scheme={tmp}/\udcff.json"], (r"/\udcff.json", "no scheme"), "train"
    ),
    "name of 300 characters": Case(
        f"--config.scheme={'x' * 300}", ("xxx", "File name too long"), "train"
    ),
    "wrong shape": trained(("scheme.json", "'layers'"), layers=[1, 2]),
    "other format": trained(("scheme.json", "expected format 1", "got 2"), format=2),
    "n beyond m": trained(("scheme.json", "'stem/kernel'", "1 <= N <= M", "5:4"), n=5),
    "n of 0": trained(("scheme.json", "'stem/kernel'", "1 <= N <= M", "0:4"), n=0),
    "n that is no integer": trained(("scheme.json", "'stem/kernel'", "integers", "2.5"), n=2.5),
    "other m": trained(("scheme.json", "stem/kernel: expected M = 4", "got 2:8"), m=8),
    "of another network": trained(
        ("scheme.json", "lacks 'hidden/kernel'", "no 'middle/kernel'"),
        names=("stem/kernel", "middle/kernel", "head/kernel"),
    ),
    "prunes what stays dense": trained(
        ("stem/kernel", "2:4", "dense", "3 is no multiple of 4"), "--config.search.rules=()"
    ),
    "to evaluate without dense weights": trained(
        ("run/dense", "not trained", "step 0 of 8", "search.py"), "--config.evaluate"
    ),
    "to evaluate what is forgotten": Case(
        "--anew --config.evaluate", ("--anew and --config.evaluate exclude each other",), "train"
    ),
    "to evaluate without a scheme": Case(
        "--config.evaluate", ("run/scheme.json", "no scheme"), "train"
    ),
}

CASES = {
    f"{group}: {name}": case
    for group, cases in (
        ("flags", FLAGS),
        ("config", CONFIGS),
        ("settings", SETTINGS),
        ("losses", LOSSES),
        ("parts", PARTS),
        ("cost table", TABLES),
        ("init", INIT),
        ("workdir", WORKDIR),
        ("scheme", SCHEMES),
    )
    for name, case in cases.items()
}
