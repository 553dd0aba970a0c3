"""Whether a folder holds the files of a tokenizer that turns a text into the same tokens always."""

from __future__ import annotations

from pathlib import Path

from neurondynamics.data.formats import refuse_foreign
from neurondynamics.fetching.contents import read_mapping

TOKENIZER = "tokenizer.json"
# files that a tokenizer is made of, one set of them
TOKENIZERS = (
    (TOKENIZER,),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("tokenizer.model",),
    ("sentencepiece.bpe.model",),
    ("spiece.model",),
)
BESIDE = (  # that are read if they are there
    *("generation_config.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", TOKENIZER, "vocab.json"),
)


def check_tokenizer(folder: Path) -> None:
    """Raise ValueError unless a folder holds the files of a tokenizer, in JSON where they are.

    And if its tokenizer.json asks for tokens that are drawn at random, as some are trained with.
    """
    for name in BESIDE:
        if (folder / name).is_file():
            read_mapping(folder / name)
    there = [names for names in TOKENIZERS if all((folder / name).is_file() for name in names)]
    if not there:
        raise ValueError(
            f"{folder} holds no tokenizer, such as {TOKENIZER}: copy the tokenizer files of the "
            "model that it was made from into it"
        )
    for name in there[0]:
        if name.endswith(".txt"):
            refuse_foreign(folder / name, "a text")
    if there[0] == (TOKENIZER,):
        model = read_mapping(folder / TOKENIZER).get("model")
        if not isinstance(model, dict):
            raise ValueError(f"{folder / TOKENIZER} holds no tokenizer: it has no `model`")
        if model.get("dropout"):
            raise ValueError(
                f"{folder / TOKENIZER}: model.dropout is {model['dropout']!r}, so a text has other "
                "tokens each time that it is read: set it to null, as is done once training is over"
            )
