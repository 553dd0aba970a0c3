"""The script that measures fidelity and margins: rows, shards, and margins against plain ones."""

import copy

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
from measure_fidelity import COLUMNS, OF_MARGINS, measure_fidelity
from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.data.tables import read_parquet, write_parquet
from neurondynamics.lm.loading import tokenizer_digest, weight_digest

PARTS = ["attention", "mlp", "norms", "final_norm", "embeddings", "unembedding"]
SILENT = [[0, 3], [2, 5]]
INTERVENTIONS = {
    "none": [],
    "zero": [{"select": {"neurons": SILENT}, "operation": "zero", "positions": "all"}],
    "paired": [{"select": {"modules": ["mlp"]}, "operation": "patch", "mode": "paired"}],
    "everything": [{"operation": "transplant", "parts": PARTS}],
}
NAMED = ["paired", "zero", "everything"]
CUTS = {"max_tokens": 9, "prompt_tokens": 6, "continuation_tokens": 3}
WORDS = (" was cold", " and the wind came", " a", " of the river so", " knows")


def pairs_of(case):
    """A pair of each prompt, of continuations of different lengths."""
    texts = [[WORDS[(number + shift) % len(WORDS)] for number in range(10)] for shift in (0, 1)]
    tokens = [[case.tokenizer(text).input_ids for text in side] for side in texts]
    table = pd.DataFrame({"prompt": tiny.PROMPTS, "chosen": texts[0], "rejected": texts[1]})
    table = table.assign(chosen_tokens=tokens[0], rejected_tokens=tokens[1])
    return table.assign(pair_id=range(len(table)))


@pytest.fixture
def run(tmp_path):
    """A function that runs the script on a case and a tuned folder; it returns both tables."""
    layer, neuron = np.indices((tiny.LAYERS, tiny.NEURONS)).reshape(2, -1)
    neurons = pd.DataFrame({"layer": layer, "neuron": neuron, "cosine": 0.0})
    neurons = neurons.assign(activation_base=0.0, activation_tuned=0.0, group=GROUPS[0])
    neurons.to_parquet(tmp_path / "neurons.parquet")

    def run(case, tuned, pairs=None, made=(), shard="1-of-1", state="base", **options):
        folders = {"base": str(case.folder), "tuned": str(tuned)}
        tiny.heads_of(case.model).to_parquet(tmp_path / "heads.parquet")
        followed = folders["tuned" if state == "base" else "base"]
        texts = pd.DataFrame({"prompt_id": [3, 5], "prompt": ["a", "b"], "tokens": [[5, 6], [7]]})
        texts = texts.assign(prompt_tokens=[[9, 8], [4]], kl_noise=1e-9)
        write_parquet(tmp_path / "texts.parquet", texts, {"weight_digest": weight_digest(followed)})
        if pairs is not None:
            said = {"tokenizer_digest": tokenizer_digest(case.folder)} | dict(made)
            write_parquet(tmp_path / "pairs.parquet", pairs, said)
            options = {"named": NAMED, "cuts": CUTS} | options
        outputs = {name: str(tmp_path / f"{name}.parquet") for name in ("fidelity", "margins")}
        measure_fidelity(
            model=folders[state],
            followed_model=followed,
            texts=str(tmp_path / "texts.parquet"),
            neurons=str(tmp_path / "neurons.parquet"),
            heads=str(tmp_path / "heads.parquet"),
            directions=[],
            choices=[],
            pairs=None if pairs is None else str(tmp_path / "pairs.parquet"),
            **outputs,
            experiment="test",
            shard=shard,
            reading=tiny.reading(),
            interventions=INTERVENTIONS,
            state=state,
            **options,
        )
        return [read_parquet(path) for path in outputs.values()]

    return run


@pytest.fixture
def models(case_of, tmp_path):
    """A case, and the folder of its model after a tuning that moved every weight."""
    case = case_of("llama")
    return case, tiny.save(tiny.nudge(copy.deepcopy(case.model), 0.05), tmp_path / "tuned")


def plain_margins(case, tuned, pair):
    """The margins of a pair by the definitions, cut as tuning cuts it."""
    prompt = case.tokenizer(pair.prompt).input_ids[:9][-6:]

    def margin(model, changes=()):
        with plain.changed(changes):
            chosen, rejected = (
                plain.log_probability(model, prompt, tokens[:3])
                for tokens in (pair.chosen_tokens, pair.rejected_tokens)
            )
        return chosen - rejected

    def silence(unit):
        return lambda m: m * (np.arange(m.shape[-1]) != unit)

    blocks = plain.blocks(case.plain)
    silent = [(plain.down(blocks[n]), "input", silence(unit)) for n, unit in SILENT]
    return margin(case.plain, silent), margin(case.plain), margin(tuned)


def test_margins_equal_plain_ones_of_pairs_that_are_cut(models, run):
    case, tuned = models
    pairs, reference = pairs_of(case), plain.load(tuned)
    fidelity, margins = run(case, tuned, pairs)
    assert fidelity["intervention"].unique().tolist() == list(INTERVENTIONS)
    assert margins["intervention"].tolist() == list(np.repeat(NAMED, len(pairs)))
    assert margins["pair_id"].tolist() == [*range(len(pairs))] * len(NAMED)
    values = ["margin", "margin_unedited", "margin_followed"]
    rows = margins.set_index("intervention")[values]
    expected = [plain_margins(case, reference, pair) for pair in pairs.itertuples()]
    np.testing.assert_allclose(rows.loc["zero"], expected, rtol=1e-4, atol=1e-4)
    everything = rows.loc["everything"]
    np.testing.assert_array_equal(everything["margin"], everything["margin_followed"])
    assert not np.allclose(rows.loc["paired", "margin"], rows.loc["paired", "margin_unedited"])
    # back from the tuned model, it is the base model that is followed
    _, back = run(case, tuned, pairs, state="tuned")
    there, here = back.set_index("intervention").loc["zero", values[1:]], rows.loc["zero"]
    np.testing.assert_array_equal(there, here[values[:0:-1]])


def test_shards_are_parts_of_the_same_and_may_be_empty(models, run):
    case, tuned = models
    pairs = pd.concat([pairs_of(case)] * 4).assign(pair_id=range(40))  # more than a batch
    _, whole = run(case, tuned, pairs)
    parts = [run(case, tuned, pairs, shard=f"{n}-of-3")[1] for n in (1, 2, 3)]
    assert sorted(map(len, parts)) == [0, 8 * len(NAMED), 32 * len(NAMED)]
    assert all(part.dtypes.equals(whole.dtypes) for part in parts)
    order = ["intervention", "pair_id"]
    found = pd.concat(parts).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(found, whole.sort_values(order, ignore_index=True))


def test_without_pairs_there_are_no_rows_and_it_is_said_why(models, run, caplog):
    case, tuned = models
    fidelity, margins = run(case, tuned)  # of an experiment that names none
    assert (list(fidelity), list(margins)) == (list(COLUMNS), list(OF_MARGINS))
    assert margins.empty
    _, margins = run(case, tuned, pairs_of(case)[:0], {"none": "found is 0.250"})
    assert margins.empty
    assert margins.attrs["none"] == "found is 0.250"
    assert "no margin is measured: found is 0.250" in caplog.text


def test_pairs_that_cannot_be_read_are_refused(models, run, tmp_path):
    case, tuned = models
    with pytest.raises(ValueError, match=r"pairs\.parquet .*its tokenizer digest is other"):
        run(case, tuned, pairs_of(case), {"tokenizer_digest": "other"})
    long = pairs_of(case).assign(chosen_tokens=[[5] * 200] * 10)
    with pytest.raises(ValueError, match="continuation_tokens of the version, of the longest pair"):
        run(case, tuned, long, cuts=dict.fromkeys(CUTS))
    broken = copy.deepcopy(case.model)
    token = case.tokenizer(tiny.PROMPTS[5]).input_ids[0]
    broken.model.embed_tokens.weight[token] = np.nan
    folder = tiny.save(broken, tmp_path / "broken")
    with pytest.raises(ValueError, match=r"paired: .*; pair 5 of the prompt 'Nobody knows'"):
        run(case, folder, pairs_of(case))
