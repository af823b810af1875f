"""The settings of the two trainings, of the dense and of the sparse network."""

from domino_jax.run import kinds
from domino_jax.run.setting import (
    Setting,
    curves,
    dense_optimizers,
    optimizers,
    patterns,
    schedules,
    scores,
    trainers,
)

STARTS = ("dense", "random")


def _training(lr: float, weight_decay: float, epochs: Setting) -> dict[str, Setting]:
    """Returns what the two trainings have in common; they differ in three defaults."""
    return {
        "schedule": Setting(
            "cosine", *kinds.one_of(schedules), "How the learning rate falls after the warm-up."
        ),
        "warmup_epochs": Setting(
            5.0,
            *kinds.number(0, kinds.MOST_EPOCHS),
            "Epochs in which the learning rate rises from 0; at most `epochs`.",
        ),
        "lr": Setting(lr, *kinds.above(0), "Learning rate after the warm-up."),
        "momentum": Setting(0.9, *kinds.below(1), "Of SGD; the other optimizers do not use it."),
        "weight_decay": Setting(weight_decay, *kinds.number(0), "Added to the gradient by SGD."),
        "label_smoothing": Setting(
            0.0, *kinds.below(1), "Share of each label that is spread over all classes."
        ),
        "epochs": epochs,
        "batch": Setting(256, *kinds.whole(1), "Examples of one step, on all devices together."),
    }


DENSE = {
    "optimizer": Setting("sgd", *kinds.one_of(dense_optimizers), "Of the dense training."),
    **_training(
        lr=0.1,
        weight_decay=1e-4,
        epochs=Setting(
            90.0, *kinds.above(0, kinds.MOST_EPOCHS), "Passes over the training set; may be 0.5."
        ),
    ),
}
TRAIN = {
    "method": Setting(
        "sr_ste",
        *kinds.one_of_or_own(trainers),
        "How the sparse network is trained: 'sr_ste', 'straight_through', or with 'fixed' masks; "
        "'none' masks the dense network, and 'update' lets the weights that stay make up for "
        "those that go, layer by layer (SparseGPT), both without training; or "
        "'package.module:function'.",
    ),
    "score": Setting(
        None,
        *kinds.none_or(kinds.one_of_or_own(scores)),
        "What masks that are made once ('fixed', 'none', 'update') keep the largest of, as "
        "`search.score`; None: the magnitude, and with 'update' what SparseGPT chooses itself.",
        str,
    ),
    "calibration_batches": Setting(
        8,
        *kinds.whole(1),
        "Batches of the training data that 'update' and the scores of `score` look at.",
    ),
    "pattern": Setting(
        "n:m",
        *kinds.one_of(patterns),
        "'unstructured' keeps as many weights of each layer as N:M does, the largest wherever they "
        "lie: a bound to compare with, not for export.",
    ),
    "optimizer": Setting(
        "sgd",
        *kinds.one_of(optimizers),
        "Of the sparse training: 'adamw' has the SR-STE term before Adam, 'adamw_decoupled' "
        "beside it.",
    ),
    "sr_ste": Setting(5e-4, *kinds.number(0), "Lambda: the decay of masked weights by SR-STE."),
    **_training(
        lr=0.01,
        weight_decay=5e-5,
        epochs=Setting(
            120.0,
            *kinds.number(0, kinds.MOST_EPOCHS),
            "Passes over the training set; may be 0.5; with 0 the masked network is all.",
        ),
    ),
    "start": Setting(
        "dense", *kinds.one_of(lambda: STARTS), "The weights that the sparse training starts from."
    ),
    "recalibrate": Setting(
        False,
        *kinds.flag(),
        "Batch statistics are taken anew at the end, from training batches and the final weights.",
    ),
    "ramp": Setting(
        "",
        *kinds.one_of(curves),
        "How sparsity rises to the scheme's, for every method but 'fixed' and 'none'; '': evenly "
        "where the method is soft ('decaying_mask', 'decaying_structure', 'maxq'), else at once.",
    ),
    "ramp_from": Setting(0.0, *kinds.below(1), "Share of the training after which it rises."),
    "ramp_until": Setting(
        0.75, *kinds.above(0, 1), "Share of the training at which it has risen; above `ramp_from`."
    ),
    "mask_every": Setting(
        1, *kinds.whole(1), "Steps from one making of the masks to the next, as for `ramp`."
    ),
    "switch": Setting(
        (0.1, 0.5),
        *kinds.pair_of_shares(),
        "Shares of the training between which 'step' freezes Adam's second moments, as soon as "
        "they hardly change.",
    ),
    "distill": Setting(
        0.0,
        *kinds.number(0, 1),
        "Weight in the loss of the dense network's outputs as a target, the labels have the rest.",
    ),
    "temperature": Setting(
        2.0, *kinds.above(0), "Both outputs are divided by it where they are compared (`distill`)."
    ),
}
