"""A language model of Hugging Face, half of the weights in its blocks removed: N of 16 per matrix.

    python search.py --config=configs/causal_lm.py --config.init=DIR --config.data.dir=TEXT
    python train.py --config=configs/causal_lm.py --config.init=DIR --config.data.dir=TEXT
    python -m domino_jax.export --workdir=runs/causal_lm --out=OUT --format=hf

DIR is what save_pretrained writes, TEXT a .txt, .md or .jsonl file or a folder of such. Nothing is
trained: the search asks the loss on 16 batches of 4 windows; train.py sets to zero what is least by
Wanda's score, magnitude times the norm of the input, and tells the perplexity. Embedding and head
stay dense; the budget is of the blocks alone. Better: --config.train.method=update. To
fine-tune: --config.train.method=sr_ste --config.train.score=magnitude. docs/language_models.md has
more.

Needs a network and a text of your own. Measured on SmolLM2-135M, by these parts: perplexity 36.3
dense, 72.1 masked, 63.8 updated; uniform 91.5 and 74.5 (benchmarks/RESULTS.md). Both commands take
8 minutes on two cores, and 4 GB, with calibration_batches=6.
"""

from ml_collections import ConfigDict

from domino_jax.settings import defaults


def get_config() -> ConfigDict:
    """Returns the settings."""
    config = defaults()
    config.loss = "next_token"
    config.remat = True  # a fifth of the temporaries of the search's statistics
    config.model.name = "causal_lm"
    config.data.name = "text"
    with config.unlocked():
        config.model.folder = config.get_ref("init")
        config.model.dtype = "float32"
        config.data.tokenizer = config.get_ref("init")
        config.data.length = 512
    config.dense.batch = 4  # of an evaluation: nothing dense is trained
    config.search.update(
        method="kronecker",
        candidates=tuple(range(1, 17)),
        budget=0.5,
        budget_of="movable",
        batch=4,
        calibration_batches=16,
        score="wanda",
        rules=((r"embed_tokens|lm_head", "dense"),),
    )
    config.train.update(
        method="none",
        score="wanda",
        calibration_batches=16,
        optimizer="adamw",
        lr=2e-5,
        weight_decay=0.0,
        epochs=1.0,
        batch=4,
    )
    config.train.warmup_epochs = 0.05
    return config
