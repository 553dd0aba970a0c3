"""Bring a model into a local Hugging Face folder of safetensors.

A GGUF file is dequantised to float32 once, here, and an adapter is merged on the base model. The
parts of a model are held against each other without loading its weights, and its shape against what
the configuration declares; a tuned version, with its tokenizer, against the base model. Only
weights in safetensors or GGUF and files of text are taken, never code or pickles.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging
import os
from pathlib import Path

from neurondynamics.data.files import replacing_folder
from neurondynamics.fetching.folders import (
    ADAPTER,
    check_description,
    check_folder,
    is_adapter,
)
from neurondynamics.fetching.sources import fetch_files, name_of, naming
from neurondynamics.fetching.tokenizers import TOKENIZER
from neurondynamics.lm.conversion import dequantise, merge_adapter
from neurondynamics.lm.likeness import check_alike
from neurondynamics.lm.loading import load_tokenizer
from neurondynamics.lm.precision import record_change, refuse_lost
from neurondynamics.lm.shape import check_positions, check_shape
from neurondynamics.lm.special import decide_like, decide_special, read_special, write_special

logger = logging.getLogger(__name__)


def fetch_model(
    folder: str,
    *,
    source: dict,
    shape: dict[str, int],
    base: str | None,
    dtype: str = "float32",
    lengths: dict[str, int] | None = None,
) -> None:
    """Fetch a model into `folder`, which appears only once it is whole and loads.

    Beside the model it holds what was decided of its special tokens and, of a tuned version, how
    much of its change is lost in a narrower precision.

    Parameters
    ----------
    source : see `fetch_files`.
    shape : what the configuration says of the base model.
    base : of a tuned version, the folder of the base model.
    dtype : the precision that models are read in.
    lengths : how many tokens the model is asked to read, by keys of the configuration.

    Raises
    ------
    ValueError : if the source holds no model, a checksum differs, parts of the model do not go
        together, the shape of the base model is not the declared one, it reads fewer tokens than it
        is asked to, or a tuned version is not of the same kind as the base model, is the base
        model, or loses more than a tenth of its change in `dtype`.
    OSError : where the disk has no room.
    """
    with replacing_folder(folder) as staged:
        fetched = staged.parent / "fetched"
        if "path" in source and Path(source["path"]).is_dir():
            check_folder(source["path"])  # before it is copied
        files = fetch_files(source, fetched)
        with naming(source, fetched, staged):
            bring(files, fetched, base, staged)
            tokenizer = load_tokenizer(staged)
            if base is None:
                check_shape(staged, shape)
            else:
                check_alike(base, staged)
            check_positions(staged, lengths or {})
            special = decide_special(staged, tokenizer)
            if base is not None:
                record_change(base, staged)
                refuse_lost(staged, dtype)
                of_base = read_special(base) or decide_special(base, load_tokenizer(base))
                special = decide_like(of_base, special, base, name_of(source))
            write_special(special, staged)


def bring(files: list[Path], fetched: Path, base: str | None, folder: Path) -> None:
    """Turn what was fetched, `files` in the folder `fetched`, into a whole model in `folder`."""
    if any(file.suffix == ".gguf" for file in files):
        dequantise(files, folder)
        return
    check_folder(fetched)
    if not is_adapter(fetched):
        if (fetched / ADAPTER).exists():
            logger.info("a whole model: its %s is left over from a merge and ignored", ADAPTER)
        take_folder(fetched, folder)
        return
    if base is None:
        raise ValueError(
            "the source of `model` holds an adapter, which is nothing without its model: "
            "name that model there, and the adapter as a version under `tuned`"
        )
    merge_adapter(fetched, base, folder)


def take_folder(fetched: Path, folder: Path) -> None:
    """Move the files of a Hugging Face model folder into another, which exists.

    A tokenizer in older files is written anew as tokenizer.json beside them.
    """
    check_description(fetched)
    for file in fetched.iterdir():
        if file.name != ADAPTER:
            os.replace(file, folder / file.name)
    if not (folder / TOKENIZER).exists():
        write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json beside the older files of a tokenizer. Raises ValueError if it cannot be
    made of them."""
    try:
        load_tokenizer(folder).save_pretrained(folder)
        reason = "it is of a kind that has none"
    except ValueError as error:
        reason = str(error)
    if not (folder / TOKENIZER).exists():
        raise ValueError(
            f"{folder} has no {TOKENIZER}, and none can be made of the tokenizer's older files: "
            f"{reason}. Correct tokenizer_class in tokenizer_config.json, or write it where the "
            "model was made: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    logger.info("the tokenizer is in older files: it is written as %s too", TOKENIZER)


if __name__ == "__main__":
    fetch_model(
        folder=snakemake.output[0],
        base=snakemake.input.get("base") or None,
        **snakemake.params.settings,
    )
