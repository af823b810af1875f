"""A tokenizer of letters, in a folder as Hugging Face has it."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, processors

LETTERS = "abcdefghijklmnopqrstuvwxyz \n"
END, START, UNKNOWN = len(LETTERS), len(LETTERS) + 1, len(LETTERS) + 2
SIZE = UNKNOWN + 1


def letter(token):
    return (*LETTERS, ".", "<", "?")[token]


def save(folder, *, start=False, truncate=0):
    """Writes tokenizer.json and tokenizer_config.json."""
    vocabulary = {letter: index for index, letter in enumerate(LETTERS)}
    vocabulary |= {"<end>": END, "<start>": START, "<unknown>": UNKNOWN}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if start:
        made.post_processor = processors.TemplateProcessing(
            single="<start> $A", special_tokens=[("<start>", START)]
        )
    if truncate:
        made.enable_truncation(truncate)
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    return folder
