"""The weights of a model folder, read without holding the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

# as safetensors calls them
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


class StoredWeights(Mapping):
    """The parameters of a model folder by the names that transformers gives them, one at a time.

    One that two parts of the model share has both names.
    """

    def __init__(self, folder: str | Path):
        options = {"local_files_only": True, "trust_remote_code": False}
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, **options)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        first: dict[int, str] = {}  # of the names of a parameter
        self._tied = {
            name: first.setdefault(id(parameter), name)
            for name, parameter in model.named_parameters(remove_duplicate=False)
        }
        parameters = set(self._tied)
        self._files, self._loaded = {}, None
        prefix = f"{model.base_model_prefix}."
        for file in sorted(Path(folder).glob("model*.safetensors")):
            with safe_open(file, "pt") as stored:
                for name in stored.keys():  # noqa: SIM118
                    for meant in (name, prefix + name, name.removeprefix(prefix)):
                        if meant in parameters:
                            self._files[meant] = (file, name)
                            break
        self.names = sorted(parameters)
        lacking = [name for name in self.names if self._source(name) not in self._files]
        if lacking:  # stored in another form, which only transformers knows to turn into this
            self._loaded = AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", use_safetensors=True, **options
            ).state_dict()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> torch.dtype:
        """The widest precision that a parameter is stored in."""
        return reduce(torch.promote_types, map(self._dtype, self.names))

    def _dtype(self, name: str) -> torch.dtype:
        if self._loaded is not None:
            return self._loaded[name].dtype
        file, stored = self._files[self._source(name)]
        with safe_open(file, "pt") as opened:
            return DTYPES[opened.get_slice(stored).get_dtype()]

    def names_beside(self, other: StoredWeights) -> Iterator[str]:
        """Yield the names of all parameters, those that two share in both models once."""
        seen = set()
        for name in self.names:
            sources = (self._source(name), other._source(name))
            if sources not in seen:
                seen.add(sources)
                yield name

    def _source(self, name: str) -> str:
        return name if name in self._files else self._tied[name]

    def __getitem__(self, name: str) -> torch.Tensor:
        if self._loaded is not None:
            return self._loaded[name]
        file, stored = self._files[self._source(name)]
        with safe_open(file, "pt") as opened:
            return opened.get_tensor(stored)
