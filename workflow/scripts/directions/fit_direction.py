"""Make one direction, as its method says, and say what it is worth.

mean_difference and probe are fitted on labelled features. Three methods need no texts: embeddings
is the difference between the unembeddings of words; svd the first singular vector of the value
vectors nearest to another direction; file a vector that is there already.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from neurondynamics.analysis.directions import (
    Direction,
    embedding_difference,
    read_direction,
    singular_direction,
    write_direction,
)
from neurondynamics.analysis.fitting import fit_direction as fit
from neurondynamics.analysis.fitting import hold_out, quality
from neurondynamics.analysis.labelled import labels_of, mixed_prompts, read_features, read_labelled
from neurondynamics.data.records import write_json
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.lens import decode_vectors
from neurondynamics.lm.loading import load_model, load_tokenizer, set_threads
from neurondynamics.lm.weights import cosines
from safetensors.numpy import load_file

logger = logging.getLogger(__name__)


def fit_direction(
    model: str,
    features: str | None,
    texts: list[str],
    file: str | None,
    vector: str,
    description: str,
    *,
    name: str,
    direction: dict,
    labelled: dict,
    dtype: str,
    threads: int,
    seed: int,
) -> None:
    """Write the direction `name`, which the configuration describes, and what it is worth.

    `features` and `texts` are what mean_difference and probe are fitted on; `labelled` is
    {threshold} of the files of scored samples, {format, text_field, where} of a dataset. `file` is
    the direction that svd starts from, or the vector of the method file. A direction is fitted on
    all texts; its accuracy and AUROC are those of a fit without the held-out ones. Raises
    ValueError, naming the key, for what the method cannot use.
    """
    set_threads(threads)
    found, measured = None, {}
    if features is not None:  # before the model is loaded: both may be large
        found, measured = measured_fit(
            *read_features(features),
            *read_labels(texts, labelled, direction.get("label")),
            direction["method"],
            direction["held_out"],
            seed,
        )
        logger.info("%s: %s", name, measured)
    tokenizer = load_tokenizer(model)
    lm = load_model(model, dtype, "cpu")
    if found is None:
        found = made_direction(lm, tokenizer, f"directions.{name}", direction, file)
    write_direction(vector, found)
    both = np.stack([found.vector, -found.vector])
    toward, away = decode_vectors(lm, tokenizer, both, tokens=20)
    tokens = {"tokens_toward": toward, "tokens_away": away}
    write_json(description, {"method": direction["method"], **measured, **tokens})


def read_labels(texts: list[str], labelled: dict, label: str | None) -> tuple[pd.DataFrame, bool]:
    """Return `toward` and `group` of each text, and whether its group has texts of both labels."""
    if label is None:
        return mixed_prompts(texts, labelled["threshold"]), True
    (folder,) = texts
    return labels_of(*read_labelled(folder, **labelled), label), False


def measured_fit(
    features: np.ndarray,
    rows: np.ndarray,
    table: pd.DataFrame,
    paired: bool,
    method: str,
    held_out: float,
    seed: int,
) -> tuple[Direction, dict]:
    """Return the direction of all texts, and what a fit without the held-out ones is worth.

    `features` (n, d_model) are those of the rows (n,) of `table`. Texts without a label are left
    out.
    """
    table = table.iloc[rows]
    labelled = table.toward.notna().to_numpy()
    if not labelled.all():
        features, table = features[labelled], table[labelled]
    table = table.astype({"toward": bool})
    toward, groups = table.toward.to_numpy(), table.group.to_numpy()
    fitting, held = hold_out(groups, held_out, seed)
    partial = fit(features[fitting], toward[fitting], groups[fitting], method, seed, paired=paired)
    measured = {
        "texts": len(table),
        "texts_toward": int(toward.sum()),
        "prompts" if paired else "distinct_texts": len(np.unique(groups)),
        "held_out_texts": len(held),
        "held_out": quality(partial, features[held], toward[held]),
    }
    return fit(features, toward, groups, method, seed, paired=paired), measured


def made_direction(lm, tokenizer, key: str, direction: dict, file: str | None) -> Direction:
    """Return a direction that needs no texts; `file` is that of another, or of a vector.

    `direction` is what the configuration says of it, under `key`.
    """
    if direction["method"] == "embeddings":
        sides = (
            [
                word_rows(lm, tokenizer, word, f"{key}.words.{side}")
                for word in direction["words"][side]
            ]
            for side in ("toward", "away")
        )
        return Direction(embedding_difference(*sides))
    if direction["method"] == "svd":
        along, number = read_direction(file).vector, direction["number"]
        return Direction(singular_direction(nearest_values(lm, along, number, f"{key}.number")))
    return ready_direction(file, lm.config.hidden_size)


def word_rows(lm, tokenizer, word: str, key: str) -> np.ndarray:
    """Return the unembedding rows of a word's tokens, (tokens, d_model) in float64.

    Raises ValueError, naming the word, if it has no tokens or the tokenizer does not know it.
    """
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if not word.strip() or not ids or tokenizer.unk_token_id in ids:
        raise ValueError(
            f"the word {word!r} of {key} is empty or unknown to the tokenizer; take another"
        )
    return dissect(lm).unembedding.weight[ids].double().cpu().numpy()


def nearest_values(lm, direction: np.ndarray, number: int, key: str) -> np.ndarray:
    """Return the value vectors of highest cosine with a direction, (number, d_model) in float64.

    Raises ValueError, naming the key, if the model has fewer.
    """
    layers = [layer.value_vectors() for layer in dissect(lm).layers]
    along = np.concatenate([cosines(v.double().cpu().numpy(), direction)[0] for v in layers])
    if number > len(along):
        raise ValueError(f"{key} is {number}; the model has {len(along)} neurons")
    best = np.argsort(-along, kind="stable")[:number]
    starts = np.cumsum([0, *(len(v) for v in layers)])
    owners = np.searchsorted(starts, best, side="right") - 1
    rows = [layers[i][j - starts[i]] for i, j in zip(owners, best, strict=True)]
    return np.stack([row.double().cpu().numpy() for row in rows])


def ready_direction(path: str | Path, width: int) -> Direction:
    """Read a direction that was made elsewhere, of `width` components.

    A .safetensors file holds `vector`, and `intercept` if there is one; .npy and .pt files hold an
    array. Of a probe with a vector for each of two classes, (d_model, 2) or (2, d_model), the
    second is taken, as Lee et al. do (arXiv 2401.01967). Raises ValueError, naming the file, for
    anything else.
    """
    path, intercept = Path(path), 0.0
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            array = tensors["vector"]
            intercept = float(np.squeeze(tensors.get("intercept", 0.0)))
        elif path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        elif path.suffix == ".pt":
            array = torch.load(path, map_location="cpu", weights_only=True).detach().numpy()
        else:
            raise ValueError("its name ends in none of .safetensors, .npy and .pt")
        array = np.asarray(array, dtype=np.float64)
    except Exception as error:
        raise ValueError(f"{path}: no vector can be read from it ({error})") from error
    shape = array.shape
    array = array.squeeze()
    if array.shape == (width, 2):
        array = array.T
    if array.shape == (2, width):
        array = array[1]
    if array.shape != (width,):
        raise ValueError(
            f"{path}: an array of shape {shape} is no direction of a model whose residual stream "
            f"has {width} components"
        )
    return Direction(array, intercept)


if __name__ == "__main__":
    fit_direction(
        model=snakemake.input.model,
        features=snakemake.input.get("features"),
        texts=snakemake.input.get("texts", []),
        file=snakemake.input.get("file"),
        vector=snakemake.output.vector,
        description=snakemake.output.description,
        name=snakemake.wildcards.direction,
        threads=snakemake.threads,
        **snakemake.params.settings,
    )
