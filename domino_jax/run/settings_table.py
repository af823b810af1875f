"""Every setting of the two scripts, once: its default, what it may be, and what it means.

The defaults, the checks, `--help` and docs/settings.md are made of this table.
"""

from domino_jax.run import kinds
from domino_jax.run.setting import Setting, losses, methods, paces, scores
from domino_jax.run.settings_training import DENSE, TRAIN

STATISTICS = ("batch", "running")
PARTS = ("all", "movable")
GUARDS = ("none", "uniform")


_ALL = {
    "seed": Setting(
        0,
        *kinds.whole(0, kinds.LARGEST_SEED),
        "Of fresh weights, of the order of the data and of all else that is drawn.",
    ),
    "init": Setting(
        "",
        *kinds.text(),
        "The dense network: a checkpoint, a .pth or a .safetensors file, or with model.name="
        "'causal_lm' a folder of Hugging Face; '' trains it.",
    ),
    "init_head": Setting(
        True, *kinds.flag(), "False leaves the last layer of a PyTorch file out: other classes."
    ),
    "permute": Setting(
        "",
        *kinds.nm(),
        "Channels of the dense network are put into another order, in which this N:M in every "
        "layer keeps more of the magnitudes; the outputs stay. '' leaves them as they are.",
    ),
    "scheme": Setting(
        "",
        *kinds.text(),
        "For train.py: a scheme.json, or a text of the paper (.txt); '' is the work directory's.",
    ),
    "loss": Setting(
        "softmax_cross_entropy",
        *kinds.one_of_or_own(losses),
        "What is trained for, in every phase: of labels that are classes, as 'next_token' which "
        "reports the perplexity too; 'sigmoid_cross_entropy' "
        "of 0 and 1 for each output; 'squared_error' of numbers; or 'package.module:function', "
        "(outputs, labels) -> the loss of each example.",
    ),
    "log_every": Setting(50, *kinds.whole(1), "Steps from one report to the next."),
    "checkpoint_every": Setting(1000, *kinds.whole(1), "Steps from one checkpoint to the next."),
    "accumulate": Setting(
        1,
        *kinds.whole(1),
        "Parts of a batch that a step goes through one after another, in the memory of one; they "
        "must divide every batch. Batch norms see a part at a time.",
    ),
    "remat": Setting(
        False,
        *kinds.flag(),
        "True: gradients keep the outputs of products with weights alone, and make the rest of "
        "the forward pass anew: less memory, more time, the same numbers.",
    ),
    "evaluate": Setting(
        False, *kinds.flag(), "train.py evaluates what the work directory holds, and no more."
    ),
    "dry_run": Setting(
        False,
        *kinds.flag(),
        "One step of each phase on zeros of the data's shapes; writes nothing.",
    ),
}
_MODEL = {
    "name": Setting(
        "resnet50",
        *kinds.name(),
        "A network that we have, or 'package.module:factory'. Further keys of `model` are options "
        "of that factory.",
    )
}
_DATA = {
    "name": Setting(
        "imagenet2012",
        *kinds.name(),
        "A data set that we have, or 'package.module:factory'. Further keys of `data` are options "
        "of that factory.",
    ),
    "dir": Setting("", *kinds.text(), "Folder of the data; '' is that of TensorFlow Datasets."),
    "workers": Setting(
        0, *kinds.whole(0, kinds.MOST_WORKERS), "Processes that read the data; 0 takes threads."
    ),
}
_SEARCH = {
    "method": Setting(
        "domino",
        *kinds.one_of_or_own(methods),
        "How the N of each layer is found: 'sensitivity', 'fisher', 'kdiag' and 'kronecker' ask "
        "the loss, 'table' reads it from `table`; 'domino' searches, 'instant' does so without "
        "data; 'uniform' takes the largest N that fits everywhere, 'erk' the densities of "
        "Erdős-Rényi-kernel graphs; 'dense' keeps all; or 'package.module:function'.",
    ),
    "m": Setting(16, *kinds.whole(2, kinds.LARGEST_M), "Weights in one group: the M of N:M."),
    "candidates": Setting(
        None,
        *kinds.candidates(),
        "The N that a layer may have, the last of them M; 'every': all up to M; None: powers of "
        "two up to M.",
        tuple,
        words=True,
    ),
    "objective": Setting(
        "params",
        *kinds.name(),
        "What the budget counts: 'params', 'macs' or a JSON file {path: {n: cost}}.",
    ),
    "budget": Setting(
        0.2,
        *kinds.budget(),
        "What is kept of the dense cost: a share, also '25%' or '1/4', or a count: '5.0M' of what "
        "the objective counts, '227M MACs'.",
        object,
    ),
    "budget_of": Setting(
        "all",
        *kinds.one_of(lambda: PARTS),
        "'all': the budget is of the whole cost; 'movable': of the layers that have groups, and "
        "those that stay dense come on top.",
    ),
    "budgets": Setting(
        (),
        *kinds.budgets(),
        "Further budgets ((objective, budget), …) that hold too, such as (('macs', '50%'),).",
    ),
    "nm": Setting(
        "",
        *kinds.nm(),
        "The budget is what this N:M in every layer costs ('2:16'), and 'uniform' is this N:M; '' "
        "leaves it to `budget`.",
    ),
    "vote_ratio": Setting(
        0.75,
        *kinds.above(0, 1),
        "Share of a layer's groups that must agree before it gives up one more weight of M.",
    ),
    "vote_every": Setting(100, *kinds.whole(1), "Steps from one vote to the next."),
    "penalty": Setting(0.1, *kinds.number(0), "Strength of the decay of surviving weights."),
    "penalty_every": Setting(5, *kinds.whole(1), "Steps from one decay to the next."),
    "penalty_doubles_at": Setting(
        (30_000, 10_000),
        *kinds.pair_of_steps(),
        "The step at which the penalty doubles first, and every how many again; () is never.",
    ),
    "pace": Setting(
        "domino",
        *kinds.one_of_or_own(paces),
        "Rule for the layers' shares of the penalty, or 'package.module:maker'.",
    ),
    "erk_weight": Setting(
        None,
        *kinds.none_or(kinds.number(0)),
        "Of ERK in the pace; None: 0.5 for params, 0.2 otherwise.",
        float,
    ),
    "macs_weight": Setting(
        None,
        *kinds.none_or(kinds.number(0)),
        "Of the cost in the pace; None: 0.5 for params, 0.8 otherwise.",
        float,
    ),
    "lr": Setting(0.01, *kinds.above(0), "Learning rate of the search, constant."),
    "batch": Setting(64, *kinds.whole(1), "Examples of one step, on all devices together."),
    "max_steps": Setting(100_000, *kinds.whole(1), "The search gives up after so many steps."),
    "patience": Setting(200, *kinds.whole(1), "It gives up after so many votes without change."),
    "calibration_batches": Setting(
        8,
        *kinds.whole(1),
        "Batches of the training data that a loss is measured on; the best of several schemes is "
        "told on as many others.",
    ),
    "calibration_statistics": Setting(
        "batch",
        *kinds.one_of(lambda: STATISTICS),
        "Statistics of batch norms while losses are measured: 'batch', those of each batch, or "
        "'running', those of the dense network, with which pruned layers look worse than they are.",
    ),
    "grid": Setting(
        None,
        *kinds.none_or(kinds.rising()),
        "The N that 'sensitivity' measures, the others lie between them; None: every candidate.",
        tuple,
    ),
    "score": Setting(
        "magnitude",
        *kinds.one_of_or_own(scores),
        "What a mask keeps the largest of, for the methods by the loss: 'magnitude'; 'wanda', |w| "
        "times the norm of its input; 'fisher', w² F; or 'package.module:function'. The training "
        "goes by `train.score`.",
    ),
    "low_memory": Setting(
        False,
        *kinds.flag(),
        "'kronecker' keeps the H of one layer at a time, for a second pass over the batches.",
    ),
    "table": Setting("", *kinds.text(), "The loss table (JSON) that the method 'table' reads."),
    "guard": Setting(
        "none",
        *kinds.one_of(lambda: GUARDS),
        "'uniform': the scheme of any method is compared, by the true loss, with uniform and with "
        "floors under its n, and the best is taken; the methods by loss always do so. 'none': the "
        "scheme is that of the method.",
    ),
    "refine": Setting(
        0,
        *kinds.whole(0),
        "Exchanges between two layers to try in the end; those that lower the true loss are kept.",
    ),
    "shrink_m": Setting(
        False,
        *kinds.flag(),
        "Where M does not divide a layer's inputs: their common divisor instead of dense.",
    ),
    "rules": Setting(
        (),
        *kinds.pairs(),
        "Exceptions ((regex, value), …) by a layer's path; the first match wins. A value is "
        "'dense', 'flatten', 'shrink', an M or a tuple of candidates.",
    ),
}
_MESH = {
    "data": Setting(
        -1,
        *kinds.whole(-1),
        "Parts of a batch, one on each device or row of devices; -1: all devices that `model` "
        "leaves.",
    ),
    "model": Setting(
        1,
        *kinds.whole(1),
        "Parts of every large weight and of what belongs to it, for networks that one device "
        "cannot hold; groups of M are never cut.",
    ),
}
GROUPS = {
    "model": _MODEL,
    "data": _DATA,
    "mesh": _MESH,
    "dense": DENSE,
    "search": _SEARCH,
    "train": TRAIN,
}
# Every setting by its key, such as 'search.budget'.
SETTINGS = _ALL | {
    f"{group}.{key}": setting
    for group, members in GROUPS.items()
    for key, setting in members.items()
}
