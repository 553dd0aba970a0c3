"""Tabulate the directions: what each is worth, and its cosines with all of them."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import numpy as np
import pandas as pd
from neurondynamics.analysis.directions import read_vectors
from neurondynamics.data.records import read_json
from neurondynamics.data.tables import write_csv

COUNTS = ("method", "texts", "texts_toward")
MEASURES = ("accuracy", "balanced_accuracy", "majority_accuracy", "auroc")
TOKENS = 5  # of those that a direction promotes


def compare_directions(vectors: list[str], descriptions: list[str], table: str) -> None:
    """Write one row a direction: counts, held-out measures, tokens, and `cosine_NAME` columns.

    `vectors` and `descriptions` are what fitting each direction wrote, by its name. What a
    direction without texts lacks stays empty. Raises ValueError if two directions differ in length.
    """
    read = read_vectors(vectors)
    lengths = {name: len(vector) for name, vector in read.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the directions have components of different numbers: {lengths}")
    units = np.stack([vector / np.linalg.norm(vector) for vector in read.values()])
    cosines = units @ units.T  # (directions, directions)
    rows = []
    for name, path, along in zip(read, descriptions, cosines, strict=True):
        told = read_json(path)
        rows.append(
            {
                "direction": name,
                **{key: told.get(key) for key in COUNTS},
                **{key: told.get("held_out", {}).get(key) for key in MEASURES},
                "tokens_toward": " ".join(map(repr, told["tokens_toward"][:TOKENS])),
                **{f"cosine_{other}": value for other, value in zip(read, along, strict=True)},
            }
        )
    frame = pd.DataFrame(rows).astype(dict.fromkeys(COUNTS[1:], "Int64"))
    write_csv(table, frame)


if __name__ == "__main__":
    compare_directions(
        vectors=snakemake.input.vectors,
        descriptions=snakemake.input.descriptions,
        table=snakemake.output.table,
    )
