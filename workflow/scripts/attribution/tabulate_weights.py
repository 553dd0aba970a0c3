"""Say where tuning changed the weights, how far, and how low in rank: a row per weight matrix.

Weights are read one at a time, as they are stored.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
import torch
from neurondynamics.data.tables import write_csv
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.loading import set_threads
from neurondynamics.lm.stored import StoredWeights
from neurondynamics.runtime import progress
from transformers import AutoConfig, AutoModelForCausalLM

COLUMNS = ["parameter", "module", "layer", "size", "norm", "change", "relative_change"]
COLUMNS += ["effective_rank", "full_rank"]


def tabulate_weights(base_model: str, tuned_model: str, table: str, threads: int) -> None:
    """Write the CSV file `table`, the parameters in the order of the model.

    `norm` is ‖W‖ (Frobenius) of the base model, `change` ‖ΔW‖ and `relative_change` their ratio,
    empty where W is 0. `effective_rank` of ΔW is the exponential of the entropy of its singular
    values over their sum (Roy and Vetterli 2007), at most `full_rank`; both are empty for vectors,
    and the first where nothing changed. A layer is empty for what is in no block.
    """
    set_threads(threads)
    base, tuned = StoredWeights(base_model), StoredWeights(tuned_model)
    places, beside = module_of_parameters(base_model), set(base.names_beside(tuned))
    # a weight that two parts share in both models stands there once, under the first one's name
    names = [n for shared in places for n in list(shared)[: len(beside & set(shared))]]
    places = {name: place for shared in places for name, place in shared.items()}
    rows = [
        {"parameter": name, "module": places[name][0], "layer": places[name][1]}
        | measure(base[name].double(), tuned[name].double())
        for name in progress(names, "measuring weights")
    ]
    written = pd.DataFrame(rows, columns=COLUMNS)
    write_csv(table, written.astype(dict.fromkeys(["layer", "size", "full_rank"], "Int64")))


def module_of_parameters(folder: str) -> list[dict[str, tuple[str, int | None]]]:
    """Return the module and the layer of each parameter of a model's folder, by its names.

    Modules are embeddings, attention, mlp, norms, final_norm and unembedding, in the order of the
    model; what is in no block has no layer. No weight is read.
    """
    options = {"local_files_only": True, "trust_remote_code": False}
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, **options)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    anatomy, places = dissect(model), {}
    parts = [(anatomy.final_norm, "final_norm", None), (anatomy.unembedding, "unembedding", None)]
    for number, layer in enumerate(anatomy.layers):
        parts += [(layer.block, "norms", number), (layer.self_attention, "attention", number)]
        parts += [(module, "mlp", number) for module in (*layer.keys, layer.down)]
    for part, name, number in parts:  # what lies deeper comes later
        places |= dict.fromkeys(part.modules(), (name, number))
    found: dict[int, dict[str, tuple[str, int | None]]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            place = places.get(module, ("embeddings", None))
            found.setdefault(id(parameter), {})[f"{path}.{name}"] = place
    return list(found.values())


def measure(base: torch.Tensor, tuned: torch.Tensor) -> dict[str, float]:
    """Return what the table says of one weight, in float64."""
    change = tuned - base
    norm, moved = float(base.norm()), float(change.norm())
    found = {"size": base.numel(), "norm": norm, "change": moved}
    found["relative_change"] = moved / norm if norm else np.nan
    if base.dim() == 2:
        found["full_rank"] = min(base.shape)
        found["effective_rank"] = effective_rank(change) if moved else np.nan
    return found


def effective_rank(matrix: torch.Tensor) -> float:
    """Return exp(−Σ p log p) of the singular values over their sum, p, of a matrix in float64.

    They are the roots of the eigenvalues of its smaller Gram matrix.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values = torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0).sqrt()
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


if __name__ == "__main__":
    tabulate_weights(
        base_model=snakemake.input.base_model,
        tuned_model=snakemake.input.tuned_model,
        table=snakemake.output.table,
        threads=snakemake.threads,
    )
