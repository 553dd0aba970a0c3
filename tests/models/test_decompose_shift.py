"""The shift of the final residual stream, against differences of the stream in float64."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch
from capture_activations import capture_activations
from decompose_shift import TOLERANCE, check_sums, decompose_shift, project_parts, tabulate
from neurondynamics.analysis.directions import Direction, write_direction
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.data.hdf5 import write_attribute
from neurondynamics.data.tables import read_csv
from neurondynamics.lm.families import FAMILIES

W = np.random.default_rng(4).normal(size=tiny.HIDDEN)
STATISTICS = Statistics(samples=300, confidence=0.9, seed=0)
ROWS = 1 + 2 * tiny.LAYERS + 4
STATES = ["base", "tuned_on_base_text", "tuned"]


@pytest.fixture
def study(case, tmp_path, prompts_file):
    """The folder of a tuned model, the stores of both models, and a direction."""
    return make_study(case, tmp_path, prompts_file)


def make_study(case, tmp_path, prompts_file) -> dict:
    tuned = tiny.save(tiny.nudge(tiny.build_model(case.family), 0.1), tmp_path / "tuned-model")
    write_direction(tmp_path / "direction.safetensors", Direction(W, 0.0))
    stores = {}
    for state, folder in (("base", case.folder), ("tuned", tuned)):
        stores[state] = [str(tmp_path / f"{state}-{n}.h5") for n in (1, 2)]
        for shard, path in zip(("1-of-2", "2-of-2"), stores[state], strict=True):
            capture_activations(
                str(folder), str(prompts_file), path, texts=[], neurons=None, state=state,
                shard=shard, ablated=0, origin={}, reading=tiny.reading(), new_tokens=8,
            )  # fmt: skip
    return {
        "base_model": str(case.folder),
        "tuned_model": str(tuned),
        "direction": str(tmp_path / "direction.safetensors"),
        **stores,
    }


def decompose(study, **changes) -> pd.DataFrame:
    output = study["direction"].replace("direction.safetensors", "shift.csv")
    reading = tiny.reading(**changes)
    decompose_shift(**study, output=output, reading=reading, statistics=STATISTICS)
    return read_csv(output)


# What reads the stream between attention and MLP, where that is not the MLP's norm
BETWEEN = {
    "GPT2Block": "ln_2",
    "Gemma2DecoderLayer": "pre_feedforward_layernorm",
    "OPTDecoderLayer": "final_layer_norm",
}


def embedded(model, ids) -> torch.Tensor:
    """Return what the first block gets, (tokens, d_model), from the tables."""
    places = torch.arange(len(ids))
    table = model.get_input_embeddings().weight[ids]
    if model.config.model_type == "gpt2":
        return table + model.transformer.wpe.weight[places]
    if model.config.model_type == "opt":
        return table + model.model.decoder.embed_positions.weight[places + 2]
    return table * (tiny.HIDDEN**0.5 if model.config.model_type == "gemma2" else 1)


def stream(model, prompts, continuations) -> np.ndarray:
    """Return the projection of what each step adds to the residual stream, (n, 2 + 2 layers).

    What attention adds is read as the difference between the stream before the block and before
    its second norm; the last column is the whole stream.
    """
    blocks = plain.blocks(model)
    norms = [
        block.get_submodule(BETWEEN.get(type(block).__name__, "post_attention_layernorm"))
        for block in blocks
    ]
    unit = torch.tensor(W / np.linalg.norm(W))
    rows = []
    for prompt, new in zip(prompts, continuations, strict=True):
        embeddings = embedded(model, torch.tensor([*prompt, *new[:-1]]))
        between = plain.read(model, prompt, new, norms)  # (layers, T, d_model)
        after = plain.read(model, prompt, new, blocks, "output")
        steps = [embeddings[len(prompt) - 1 :]]
        for middle, end in zip(between, after, strict=True):
            steps += [middle, end]
        stages = torch.stack(steps).mean(1) @ unit  # (1 + 2 layers,)
        rows.append(torch.cat([stages[:1], stages.diff(), stages[-1:]]))
    return torch.stack(rows).numpy()


def test_everything_equals_plain_differences(case, study):
    prompts, greedy = case.stored
    table = decompose(study)
    tuned = plain.load(study["tuned_model"])
    own = [plain.generate(tuned, prompt, 8, [0]) for prompt in prompts]
    assert own != greedy
    expected = {
        "base": stream(case.plain, prompts, greedy),
        "tuned_on_base_text": stream(tuned, prompts, greedy),
        "tuned": stream(tuned, prompts, own),
    }
    assert list(table["component"]) == [
        "embeddings",
        *["attention", "mlp"] * tiny.LAYERS,
        *["attention_all", "mlp_all", "total", "residue"],
    ]
    layers = table["layer"].dropna()
    assert layers.tolist() == np.repeat(range(tiny.LAYERS), 2).tolist()
    assert list(layers.index) == list(range(1, ROWS - 4))
    near = {"rtol": 1e-4, "atol": 1e-4}
    for state, columns in expected.items():
        found = table[state]
        np.testing.assert_allclose(found[: ROWS - 4], columns[:, :-1].mean(0), **near)
        np.testing.assert_allclose(found[ROWS - 2], columns[:, -1].mean(), **near)
        np.testing.assert_allclose(found[ROWS - 4], columns[:, 1:-1:2].sum(1).mean(), **near)
        np.testing.assert_allclose(found[ROWS - 3], columns[:, 2:-1:2].sum(1).mean(), **near)
    for suffix, after in (("", "tuned"), ("_same_text", "tuned_on_base_text")):
        shifts = expected["base"] - expected[after]
        estimate = STATISTICS.mean(shifts)
        for ending, values in zip(("", "_low", "_high"), estimate, strict=True):
            found = table[f"shift{suffix}{ending}"]
            np.testing.assert_allclose(found[: ROWS - 4], values[:-1], **near)
            np.testing.assert_allclose(found[ROWS - 2], values[-1], **near)


def test_the_residue_is_rounding(llama):
    table = decompose(llama).set_index("component")
    for column in [*STATES, "shift", "shift_same_text"]:
        parts = table.loc[["embeddings", "attention", "mlp"], column]
        total, residue = table.loc["total", column], table.loc["residue", column]
        np.testing.assert_allclose(total - parts.sum(), residue, rtol=0, atol=1e-12)
        assert abs(residue) <= TOLERANCE * abs(total)
        assert abs(residue) <= 1e-6 * parts.abs().sum()


def test_the_parts_of_every_family_add_up_whatever_the_batch(every_case):
    along = torch.from_numpy(W / np.linalg.norm(W))
    texts = (every_case.prompts, every_case.greedy)
    one, four = (project_parts(every_case.model, along, *texts, size, "base") for size in (1, 4))
    np.testing.assert_allclose(one, four, rtol=0, atol=1e-4)
    residue = one[:, :-1].sum(1) - one[:, -1]
    assert np.abs(residue).max() <= 1e-6 * np.abs(one).sum(1).min()


@pytest.fixture
def llama(case_of, tmp_path, prompts_file):
    """The study of the llama model."""
    return make_study(case_of("llama"), tmp_path, prompts_file)


def test_a_model_against_itself_shifts_nothing(llama):
    stores = [path.replace("tuned", "same") for path in llama["tuned"]]
    for old, new in zip(llama["base"], stores, strict=True):
        shutil.copy(old, new)
        with h5py.File(new, "r+") as file:
            write_attribute(file, "state", "tuned")
    same = llama | {"tuned_model": llama["base_model"], "tuned": stores}
    table = decompose(same)
    assert (table.filter(regex="shift") == 0).all(axis=None)
    assert table["share"].isna().all()
    assert (table["base"] == table["tuned"]).all()


def test_the_table_by_hand():
    """Two prompts, one layer: embeddings, attention, MLP and the stream, rounded in the base."""
    runs = {
        "base": np.array([[1.0, 4.0, 6.0, 11.5], [1.0, 6.0, 8.0, 15.5]]),
        "tuned_on_base_text": np.array([[1.0, 2.0, 3.0, 6.0], [1.0, 2.0, 3.0, 6.0]]),
        "tuned": np.array([[2.0, 1.0, 2.0, 5.0], [0.0, 1.0, 2.0, 3.0]]),
    }
    table = tabulate(runs, STATISTICS).set_index("component")
    assert table.index.tolist() == [
        *("embeddings", "attention", "mlp"),
        *("attention_all", "mlp_all", "total", "residue"),
    ]
    assert table["base"].tolist() == [1, 5, 7, 5, 7, 13.5, 0.5]
    assert table["tuned"].tolist() == [1, 1, 2, 1, 2, 4, 0]
    assert table["shift"].tolist() == [0, 4, 5, 4, 5, 9.5, 0.5]
    assert table["shift_same_text"].tolist() == [0, 3, 4, 3, 4, 7.5, 0.5]
    assert table["share"].tolist() == [value / 9.5 for value in table["shift"]]
    assert table.loc["attention", ["shift_low", "shift_high"]].tolist() == [3, 5]
    assert table["layer"].tolist()[1:3] == [0, 0]
    assert table["layer"].isna().sum() == 5


def test_a_part_that_is_not_added_to_the_stream_is_noticed(llama, monkeypatch):
    wrong = replace(FAMILIES["llama"], attention="self_attn.q_proj")
    monkeypatch.setitem(FAMILIES, "llama", wrong)
    with pytest.raises(ValueError, match=r"do not add up.*base.*FAMILIES"):
        decompose(llama)


def test_sixteen_bits_are_too_few(llama):
    with pytest.raises(ValueError, match="Read in float32"):
        decompose(llama, dtype="bfloat16")


def test_a_total_near_zero_is_no_error():
    """The parts cancel: their rounding must not be compared with what is left."""
    check_sums(np.array([[1000.0, -500.0, -500.0, 1e-3]]), "base")
    with pytest.raises(ValueError, match="prompt 1"):
        check_sums(np.array([[1.0, 1.0, 1.0, 3.0], [1000.0, -500.0, -500.0, 1.0]]), "base")


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="NaN or infinite for prompt 1 of tuned"):
        check_sums(np.array([[1.0, 1.0], [np.nan, 1.0]]), "tuned")


def test_stores_of_other_prompts_are_refused(llama):
    with pytest.raises(ValueError, match="different prompts"):
        decompose(llama | {"tuned": llama["tuned"][::-1]})
