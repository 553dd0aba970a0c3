"""Decode value vectors to the tokens they promote: those most along the direction, those most
against it, and those that reduced the behaviour most."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from neurondynamics.data.tables import read_parquet, write_csv
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.lens import decode_vectors
from neurondynamics.lm.loading import load_model, load_tokenizer, weight_digest
from neurondynamics.study.behaviour import Behaviour


def decode_neurons(
    model: str, neurons: str, output: str, *, number: int, behaviour: Behaviour, dtype: str
) -> None:
    """Write `number` neurons of each kind with their ten most promoted tokens.

    A neuron against the direction is shown by what it promotes when negatively activated, −v.
    """
    table = read_parquet(neurons, weights=weight_digest(model))
    kinds = {
        f"most {behaviour.adjective}": (table.nlargest(number, "cosine"), 1),
        f"most {behaviour.anti}": (table.nsmallest(number, "cosine"), -1),
        "largest reduction": (table.nlargest(number, "reduction"), None),
    }
    lm = load_model(model, dtype, "cpu")
    tokenizer = load_tokenizer(model)
    layers = dissect(lm).layers
    parts = []
    for kind, (chosen, sign) in kinds.items():
        signs = np.full(len(chosen), sign) if sign else np.where(chosen.cosine > 0, 1, -1)
        vectors = np.stack(
            [
                s * layers[layer].value_vectors()[neuron].double().numpy()
                for layer, neuron, s in zip(chosen.layer, chosen.neuron, signs, strict=True)
            ]
        )
        tokens = [" ".join(map(repr, row)) for row in decode_vectors(lm, tokenizer, vectors, 10)]
        columns = ["layer", "neuron", "cosine", "activation_base", "activation_tuned", "reduction"]
        parts.append(
            chosen[[*columns, "group"]].assign(
                kind=kind, vector=np.where(signs > 0, "v", "-v"), tokens=tokens
            )
        )
    write_csv(output, pd.concat(parts))


if __name__ == "__main__":
    decode_neurons(
        model=snakemake.input.model,
        neurons=snakemake.input.neurons,
        output=snakemake.output[0],
        number=snakemake.params.number,
        behaviour=Behaviour(**snakemake.params.behaviour),
        dtype=snakemake.params.dtype,
    )
