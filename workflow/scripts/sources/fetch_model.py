"""Bring a model into a local Hugging Face folder of safetensors.

A GGUF file is dequantised to float32 once, here, and an adapter is merged on the base model. The
shape is checked without loading the weights: the base model's against what the configuration
declares, a tuned version's, with its tokenizer, against the base model's. Only weights in
safetensors or GGUF and files of text are taken, never code or pickles.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging
import os
from pathlib import Path

from neurondynamics.data.files import replacing_folder
from neurondynamics.fetching.sources import fetch_files
from neurondynamics.lm.conversion import dequantise, merge_adapter
from neurondynamics.lm.likeness import check_alike
from neurondynamics.lm.loading import load_tokenizer
from neurondynamics.lm.shape import check_shape

logger = logging.getLogger(__name__)

NEEDED = ("config.json", "tokenizer.json", "model*.safetensors")


def fetch_model(folder: str, *, source: dict, shape: dict[str, int], base: str | None) -> None:
    """Fetch a model into `folder`, which appears only once it is whole and loads.

    Parameters
    ----------
    source : see `fetch_files`.
    shape : what the configuration says of the base model.
    base : of a tuned version, the folder of the base model.

    Raises
    ------
    ValueError : if the source holds no model, a checksum differs, the shape of the base model is
        not the declared one, or a tuned version is not of the same kind as the base model.
    OSError : where the disk has no room.
    """
    with replacing_folder(folder) as staged:
        fetched = staged.parent / "fetched"
        files = fetch_files(source, fetched)
        if any(file.suffix == ".gguf" for file in files):
            dequantise(files, staged)
        elif (fetched / "adapter_config.json").exists():
            if base is None:
                raise ValueError(
                    "the source of `model` holds an adapter, which is nothing without its model: "
                    "name that model there, and the adapter as a version under `tuned`"
                )
            merge_adapter(fetched, base, staged)
        else:
            take_folder(fetched, staged)
        load_tokenizer(staged)
        if base is None:
            check_shape(staged, shape)
        else:
            check_alike(base, staged)


def take_folder(fetched: Path, folder: Path) -> None:
    """Move the files of a Hugging Face model folder into another, which exists.

    Raises ValueError if they are no model with safetensors and a tokenizer.
    """
    for needed in NEEDED:
        if not list(fetched.glob(needed)):
            raise ValueError(
                f"this is no Hugging Face model folder: it holds no {needed}. A GGUF file is named "
                "itself, not its folder; other formats have to be saved as safetensors first"
            )
    for file in fetched.iterdir():
        os.replace(file, folder / file.name)


if __name__ == "__main__":
    fetch_model(
        folder=snakemake.output[0],
        source=snakemake.params.source,
        shape=snakemake.params.shape,
        base=snakemake.input.get("base") or None,
    )
