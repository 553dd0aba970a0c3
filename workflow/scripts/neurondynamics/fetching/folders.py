"""Whether a model folder is whole and its parts go together, told from its files alone.

Only JSON and the headers of safetensors are read, so that folders of any size are looked at in
milliseconds, by the Snakefile too.
"""

from __future__ import annotations

from pathlib import Path

from neurondynamics.fetching.contents import AGAIN, read_header, read_mapping
from neurondynamics.fetching.tokenizers import BESIDE, check_tokenizer

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = {"F64", "F32", "F16", "BF16"}


def check_folder(path: str | Path) -> None:
    """Raise ValueError, with file and remedy, unless a folder holds a model or a LoRA adapter.

    Of a model, weights are held against their index, and config.json against weights and
    tokenizer. Only transformers can tell the rest.
    """
    folder = Path(path)
    if is_adapter(folder):
        check_adapter(folder)
        return
    config = check_description(folder)
    check_tokenizer(folder)
    tensors = _check_weights(folder)
    _refuse_quantised(folder, config, tensors)
    _check_sizes(folder, config, tensors)


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter, not a whole model that one was merged into.

    Raises ValueError if it holds the weights of both.
    """
    if not (folder / ADAPTER).is_file():
        return False
    whole = (folder / CONFIG).is_file() and weight_files(folder)
    weights = (folder / ADAPTER_WEIGHTS).is_file()
    if whole and weights:
        raise ValueError(
            f"{folder} holds a whole model, {whole[0].name}, and an adapter, {ADAPTER_WEIGHTS}: "
            "put the one that is meant into a folder of its own"
        )
    return not whole


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a whole model's weights in safetensors."""
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("model-*.safetensors"))


def check_adapter(folder: Path) -> None:
    """Raise ValueError unless a folder holds a LoRA adapter in safetensors."""
    config = read_mapping(folder / ADAPTER)
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"{folder / ADAPTER}: the adapter is of the kind {config.get('peft_type')}, and only "
            "LORA is merged: merge it with its own software and save the whole model"
        )
    if config.get("layer_replication"):
        raise ValueError(
            f"{folder / ADAPTER}: layer_replication gives the adapted model other layers than the "
            "base model has, and what has other layers cannot be compared: take an adapter that "
            "was trained without it"
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ValueError(
            f"{folder}: the adapter has no {ADAPTER_WEIGHTS}; pickles are not read: load it with "
            "peft and write it anew with save_pretrained"
        )
    read_header(folder / ADAPTER_WEIGHTS)
    for name in BESIDE:
        if (folder / name).is_file():
            read_mapping(folder / name)


def check_description(folder: Path) -> dict:
    """Return the config.json of a model folder; raise ValueError if none can be used."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} is no Hugging Face model folder: it holds no {CONFIG}{_below(folder)}"
        )
    config = read_mapping(folder / CONFIG)
    key = f"{folder / CONFIG}:"
    for name in ("attn_implementation", "_attn_implementation"):
        if config.get(name) not in (None, "eager", "sdpa"):
            raise ValueError(
                f"{key} {name} is {config[name]!r}, which needs software that is not used here: "
                "remove the key, which changes how fast attention is and not what it computes"
            )
    for name in ("dtype", "torch_dtype"):
        value = config.get(name)
        if value is not None and (not isinstance(value, str) or value.startswith("torch.")):
            meant = str(value).removeprefix("torch.")
            raise ValueError(
                f"{key} {name} is {value!r}, which transformers cannot read: write {meant}"
            )
    rows, pad = config.get("vocab_size"), config.get("pad_token_id")
    if type(rows) is int and type(pad) is int and pad >= rows:
        raise ValueError(
            f"{key} pad_token_id is {pad}, and the model has {rows} embeddings, 0 to {rows - 1}: "
            "remove the key, or set it to the id of a token that has an embedding"
        )
    return config


def _check_weights(folder: Path) -> dict[str, dict]:
    """Return the headers of a model's tensors; raise ValueError unless its files are all there."""
    files = weight_files(folder)
    index = folder / INDEX
    if not files:
        other = [f.name for f in folder.glob("*") if f.suffix in (".bin", ".pth", ".pt", ".gguf")]
        there = f" Its {sorted(other)[0]} is not read:" if other else ""
        raise ValueError(
            f"{folder} is no Hugging Face model folder: it holds no model*.safetensors.{there} "
            "a GGUF file is named itself, not its folder; other formats have to be loaded with "
            "transformers and saved with save_pretrained first"
        )
    if files[0].name == "model.safetensors":
        return read_header(files[0])
    if not index.is_file():
        raise ValueError(f"{folder} holds {files[0].name} but no {INDEX}: fetch that too")
    places = read_mapping(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise ValueError(f"{index} has no weight_map, from weights to files: {AGAIN}")
    wanted = sorted(set(places.values()))
    missing = [name for name in wanted if not (folder / Path(name).name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(wanted)} files of weights, such as "
            f"{missing[0]}, which {INDEX} names: fetch them too"
        )
    headers = {name: read_header(folder / Path(name).name) for name in wanted}
    for tensor, name in places.items():
        if tensor not in headers[name]:
            raise ValueError(
                f"{index} says that {tensor} is in {name}, and it is not: these files are not of "
                "one model; fetch all of them again"
            )
    return {tensor: headers[name][tensor] for tensor, name in places.items()}


def _refuse_quantised(folder: Path, config: dict, tensors: dict[str, dict]) -> None:
    said = config.get("quantization_config")
    if said is None:
        return
    method = said.get("quant_method") if isinstance(said, dict) else None
    plain = {name.rpartition(".")[2] for name in tensors} <= {"weight", "bias"}
    whole = plain and {tensor["dtype"] for tensor in tensors.values()} <= FLOATS
    remedy = (
        "its weights are whole, so remove the key"
        if whole
        else "load the model with transformers, call its dequantize(), and save it anew"
    )
    raise ValueError(
        f"{folder / CONFIG} has quantization_config ({method}), and only unquantised weights are "
        f"read: {remedy}"
    )


def _check_sizes(folder: Path, config: dict, tensors: dict[str, dict]) -> None:
    """Hold the embeddings' rows against the vocabulary that config.json states."""
    rows = config.get("vocab_size")
    matrices = {name: t["shape"] for name, t in tensors.items() if len(t["shape"]) == 2}
    if rows is None or not matrices or any(shape[0] == rows for shape in matrices.values()):
        return
    named = [name for name in matrices if "embed" in name or "wte" in name or "lm_head" in name]
    widest = max(named or matrices, key=lambda name: matrices[name][0])
    raise ValueError(
        f"{folder / CONFIG} says vocab_size {rows}, and no weight has as many rows: {widest} has "
        f"{matrices[widest][0]}. One of them is of another model, or the weights were resized "
        "without config.json: save both together with save_pretrained"
    )


def _below(folder: Path) -> str:
    """Say which folders below one hold a model."""
    found = sorted(
        {path.parent for name in (CONFIG, ADAPTER) for path in folder.glob(f"*/{name}")},
        key=lambda path: (len(path.name), path.name),
    )
    if found:
        names = ", ".join(path.name for path in found[-3:])
        return f". A model lies in {names}: name that folder"
    if any(folder.glob("*.gguf")):
        return f". It holds {next(folder.glob('*.gguf')).name}: name that file"
    return "; name the folder of a whole model, as save_pretrained makes it"
