"""The special tokens of a model, decided once when it is brought and kept in its folder.

Software reads them from four files that may differ; here one record says what a tokenizer adds to a
text and which tokens end one.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from neurondynamics.data.files import reading, replacing
from neurondynamics.lm.encoding import added_tokens, check_vocabulary

logger = logging.getLogger(__name__)

RECORD = "special_tokens.json"
FILES = ("generation_config.json", "config.json")  # that may say which tokens end a text
MARK = "\u4e00 x"  # a message that a chat template is asked to show


def decide_special(folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Return the special tokens of a model folder with its tokenizer, as `load_tokenizer` gives it.

    `begin` and `finish` are what the tokenizer adds to a text; `ends` the tokens that end one, from
    the first of generation_config.json, config.json, the tokenizer's end of text and the turn's end
    of its chat template that states any, which `ends_from` names; `pad` and `unknown` an id or
    None; `without_embedding` added tokens beyond the model's embeddings. Raises ValueError for
    values that no token of the model can have, or a tokenizer of another model.
    """
    folder = Path(folder)
    known = tokenizer.embeddings
    without = sorted(n for n in tokenizer.get_vocab().values() if n >= known)
    ordinary = sorted(set(without) - set(tokenizer.get_added_vocab().values()))
    if ordinary:
        raise ValueError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens and the model {known} "
            f"embeddings; {tokenizer.convert_ids_to_tokens(ordinary[0])!r} is {ordinary[0]}: they "
            "are of different models, take the tokenizer that belongs to the weights"
        )
    check_vocabulary(tokenizer, known, folder)
    begin, finish = added_tokens(tokenizer)
    beyond = [number for number in (*begin, *finish) if number >= known]
    if beyond:
        raise ValueError(
            f"{folder}: the tokenizer adds {tokenizer.convert_ids_to_tokens(beyond[0])!r}, token "
            f"{beyond[0]}, to every text, and the model has {known} embeddings: take that out of "
            "the post_processor in tokenizer.json"
        )
    ends, origin = _ends(folder, tokenizer)
    pad, unknown = (
        number if number is not None and number < known else None
        for number in (tokenizer.pad_token_id, tokenizer.unk_token_id)
    )
    record = {
        "begin": begin,
        "finish": finish,
        "ends": ends,
        "ends_from": origin,
        "pad": pad,
        "unknown": unknown,
        "without_embedding": without,
    }
    _tell(tokenizer, record)
    return record


def decide_like(base: dict, tuned: dict, base_name: str, tuned_name: str) -> dict:
    """Return a tuned version's special tokens, whose texts end where the base model's do.

    What is compared has to be decoded alike, and the base model's texts serve all its versions. A
    difference is logged. Raises ValueError if only the tuned version has tokens that end a text.
    """
    if set(base["ends"]) == set(tuned["ends"]):
        return {**tuned, "ends": base["ends"]}
    if not base["ends"]:
        raise ValueError(
            f"no token ends a text of the base model, {base_name}, and {tuned['ends']} end those "
            f"of the tuned version, by {tuned['ends_from']} of {tuned_name}: write "
            "eos_token_id into generation_config.json of the base model, for both, or remove it "
            "from the tuned version"
        )
    logger.warning(
        "tokens that end a text: %s in the base model, by %s; %s in the tuned version, by %s. Both "
        "are decoded with those of the base model; to end texts elsewhere, write eos_token_id into "
        "its generation_config.json",
        *(base["ends"], base["ends_from"], tuned["ends"], tuned["ends_from"] or "no file"),
    )
    return {**tuned, "ends": base["ends"], "ends_from": "the base model", "own_ends": tuned["ends"]}


def write_special(record: dict, folder: str | Path) -> None:
    """Write the record of a model folder's special tokens into it."""
    with replacing(Path(folder) / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_special(folder: str | Path) -> dict | None:
    """Return what was decided of a model folder's special tokens; None for a folder of elsewhere.

    Raises ValueError if the record is damaged.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        return None
    with reading(path):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["ends"] = [int(end) for end in record["ends"]]
    return record


def padded_for_training(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Give a tokenizer, in place, a token for padding that the model has an embedding for.

    Padding is masked, so any will do where it has none. Not one to be saved.
    """
    known = getattr(tokenizer, "embeddings", len(tokenizer))
    for number in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0):
        if number is not None and number < known:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(number)
            return tokenizer
    raise ValueError("the model has no embeddings")


def _ends(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], str | None]:
    for name in FILES:
        path = folder / name
        stated = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        ends = stated.get("eos_token_id")
        ends = [
            end for end in (ends if isinstance(ends, list) else [ends]) if end not in (None, -1)
        ]
        for end in ends:
            if type(end) is not int or not 0 <= end < tokenizer.embeddings:
                raise ValueError(
                    f"{path}: eos_token_id has {end!r}, which is none of the model's tokens, 0 to "
                    f"{tokenizer.embeddings - 1}: correct it, or remove the key"
                )
        if ends:
            return list(dict.fromkeys(ends)), name
    for end, name in ((tokenizer.eos_token_id, "the tokenizer"), _turn_end(tokenizer)):
        if end is not None and end < tokenizer.embeddings:
            return [end], name
    return [], None


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, str]:
    """Return the special token behind what an assistant says, if there is a chat template."""
    end = None
    if tokenizer.chat_template:
        said = [{"role": "user", "content": "x"}, {"role": "assistant", "content": MARK}]
        try:
            text = tokenizer.apply_chat_template(said, tokenize=False)
        except Exception as error:  # whatever a template of any kind raises
            logger.warning("the chat template cannot be read: %s", error)
            return None, "chat template"
        behind = tokenizer(text.rpartition(MARK)[2], add_special_tokens=False).input_ids
        special = set(tokenizer.get_added_vocab().values())
        end = next((number for number in behind if number in special), None)
    return end, "chat template"


def _tell(tokenizer: PreTrainedTokenizerBase, record: dict) -> None:
    def named(numbers: list[int]) -> str:
        pairs = zip(numbers, tokenizer.convert_ids_to_tokens(numbers), strict=True)
        return ", ".join(f"{number} ({token})" for number, token in pairs) or "none"

    logger.info(
        "special tokens: before a text %s, behind it %s, which prompts are read without; texts end "
        "at %s, by %s; without an embedding: %s",
        *(named(record[key]) for key in ("begin", "finish", "ends")),
        *(record["ends_from"] or "no file", named(record["without_embedding"])),
    )
    if not record["ends"]:
        logger.warning("no token ends a text: each is as long as generation.new_tokens")
    others = {"the tokenizer's end of text": tokenizer.eos_token_id}
    others["the end of a turn in its chat"] = _turn_end(tokenizer)[0]
    for what, number in others.items():
        if number is not None and number not in record["ends"]:
            logger.warning("%s, %s, ends no text here", what, named([number]))
