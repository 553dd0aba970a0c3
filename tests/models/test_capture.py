"""Stored activations, and what is projected from them, against plain passes in float64."""

import json
from itertools import product

import h5py
import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch
from capture_activations import capture_activations, capture_batch
from neurondynamics.analysis.directions import Direction, write_direction
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.data.hdf5 import read_texts
from neurondynamics.data.store import ActivationStore
from neurondynamics.data.tables import read_csv
from neurondynamics.lm.weights import value_projections
from project_layers import project_layers

# on a GPU products of float32 round a little more
ROUNDING = 1e-5 if tiny.DEVICE == "cpu" else 1e-4
PLAIN_TOLERANCE = {"rtol": ROUNDING, "atol": ROUNDING}
PARTS = {"mean": plain.down, "heads": plain.out}  # group of a store -> what its means are read at


@pytest.fixture
def capture(tmp_path, prompts_file):
    """A function that runs the script on a model's folder and returns the store's path."""

    def run(folder, name, **changes):
        output = tmp_path / f"{name}.h5"
        given = {"texts": [], "neurons": None, "state": name, "shard": "1-of-1", "ablated": 0}
        given |= {"origin": {"model": "tiny", "revision": "random", "seed": 0}}
        options = given | {"reading": tiny.reading(), "new_tokens": 8} | changes
        capture_activations(str(folder), str(prompts_file), str(output), **options)
        return output

    return run


def by_prompt(file):
    """Return the rows of an open store in the order of the prompts."""
    return np.argsort(file["prompt_ids"][:])


def read_means(*paths, group="mean"):
    """Read means without the project's reader, in the order of the prompts: (layers, n, width)."""
    parts, numbers = [], []
    for path in paths:
        with h5py.File(path) as file:
            layers = range(len(file[group]))
            parts.append(np.stack([file[f"{group}/{layer:02d}"][:] for layer in layers]))
            numbers.extend(file["prompt_ids"][:])
    return np.concatenate(parts, 1)[:, np.argsort(numbers)]


def plain_means(model, prompts, continuations, changes=(), part=plain.down):
    """Average what the down projections, or another part, read over the new-token positions, text
    by text."""
    modules = [part(block) for block in plain.blocks(model)]
    rows = [
        plain.read(model, prompt, new, modules, changes=changes).mean(1)
        for prompt, new in zip(prompts, continuations, strict=True)
    ]
    return torch.stack(rows, 1).numpy()  # (layers, n, width)


def test_means_while_generating(every_case, capture):
    case = every_case
    store = capture(case.folder, "base")
    for group, part in PARTS.items():
        expected = plain_means(case.plain, case.prompts, case.greedy, part=part)
        np.testing.assert_allclose(read_means(store, group=group), expected, **PLAIN_TOLERANCE)
    with h5py.File(store) as file:
        order = by_prompt(file)
        texts = read_texts(file, "prompts")
        assert [texts[row] for row in order] == list(tiny.PROMPTS)
        assert file["prompt_ids"][:][order].tolist() == list(range(len(tiny.PROMPTS)))
        assert file["lengths"][:][order].tolist() == [len(new) for new in case.greedy]
        for row, new in zip(file["tokens"][:][order], case.greedy, strict=True):
            assert row.tolist() == new + [-1] * (len(row) - len(new))
        neurons = len(plain.values(plain.blocks(case.plain)[0]))
        assert file["mean/00"].shape == (len(tiny.PROMPTS), neurons)
        assert file["mean/00"].dtype == file["heads/00"].dtype == np.float32
        assert file.attrs["complete"]
        assert file.attrs["state"] == b"base"
        assert json.loads(file.attrs["decoding"])["method"] == "greedy"
        assert {"torch", "transformers"} <= set(json.loads(file.attrs["packages"]))


def test_a_store_says_which_weights_tokenizer_and_prompts_made_it(case_of, capture, tmp_path):
    first = capture(case_of("llama").folder, "base")
    again = capture(case_of("llama").folder, "again")
    other = capture(case_of("mistral").folder, "other")
    with h5py.File(first) as a, h5py.File(again) as b, h5py.File(other) as c:
        assert a.attrs["weight_digest"] == b.attrs["weight_digest"] != c.attrs["weight_digest"]
        assert a.attrs["tokenizer_digest"] == c.attrs["tokenizer_digest"]
        assert a.attrs["prompt_set_digest"] == c.attrs["prompt_set_digest"]


def test_means_while_reading_given_text(case, capture, tmp_path):
    base = capture(case.folder, "base")
    tuned = tiny.nudge(tiny.build_model(case.family), 0.1)
    folder = tiny.save(tuned, tmp_path / "tuned")
    store = capture(folder, "tuned-on-base-text", texts=[str(base)])
    for group, part in PARTS.items():
        expected = plain_means(plain.load(folder), case.prompts, case.greedy, part=part)
        np.testing.assert_allclose(read_means(store, group=group), expected, **PLAIN_TOLERANCE)
    with h5py.File(base) as one, h5py.File(store) as other:
        np.testing.assert_array_equal(one["tokens"][:], other["tokens"][:])
        assert json.loads(other.attrs["decoding"])["method"] == "given"


def test_a_model_reads_its_own_text_as_it_wrote_it(every_case, capture):
    case = every_case
    base = capture(case.folder, "base")
    read = capture(case.folder, "read", texts=[str(base)])
    np.testing.assert_allclose(read_means(base), read_means(read), rtol=1e-5, atol=1e-5)


def test_one_new_token(case_of, capture):
    case = case_of("gpt2")
    base = capture(case.folder, "base", new_tokens=1)
    read = capture(case.folder, "read", new_tokens=1, texts=[str(base)])
    expected = plain_means(case.plain, case.prompts, [new[:1] for new in case.greedy])
    for store in (base, read):
        np.testing.assert_allclose(read_means(store), expected, **PLAIN_TOLERANCE)


def test_ablated_neurons_are_stored_as_zero_and_change_the_rest(case, capture, tmp_path):
    table = pd.DataFrame(
        {
            "layer": np.repeat(np.arange(tiny.LAYERS), tiny.NEURONS),
            "neuron": np.tile(np.arange(tiny.NEURONS), tiny.LAYERS),
            "cosine": np.random.default_rng(0).normal(size=tiny.LAYERS * tiny.NEURONS),
        }
    )
    table.to_parquet(tmp_path / "neurons.parquet")
    store = capture(
        case.folder, "base-ablated", neurons=str(tmp_path / "neurons.parquet"), ablated=20
    )
    kept = np.ones(len(table))
    kept[np.argsort(-table.cosine.to_numpy())[:20]] = 0
    masks = torch.tensor(kept.reshape(tiny.LAYERS, tiny.NEURONS))
    changes = [
        (plain.down(block), "input", lambda m, mask=mask: m * mask)
        for block, mask in zip(plain.blocks(case.plain), masks, strict=True)
    ]
    new = [plain.generate(case.plain, p, 8, case.ends, changes) for p in case.prompts]
    # what is read is the edited activation: the changes are hooked before the listeners
    expected = plain_means(case.plain, case.prompts, new, changes)
    means = read_means(store)
    np.testing.assert_allclose(means, expected, **PLAIN_TOLERANCE)
    assert (means[masks.numpy()[:, None].repeat(len(new), 1) == 0] == 0).all()
    assert new != case.greedy


def test_given_text_is_read_unedited_or_not_at_all(case_of, capture):
    folder = case_of("llama").folder
    with pytest.raises(ValueError, match="ablated while generating"):
        capture(folder, "both", texts=["base.h5"], neurons="neurons.parquet", ablated=3)


@pytest.mark.parametrize(("number", "given"), [(2, False), (3, True)])
def test_shards_hold_the_rows_of_one_store_to_the_bit(case, capture, number, given):
    def run(name, shard):
        made = {"shard": shard, "state": "base"}
        texts = [str(capture(case.folder, f"text-{name}", **made))] if given else []
        return capture(case.folder, name, texts=texts, **made)

    whole = run("whole", "1-of-1")
    shards = [run(f"shard{k}", f"{k}-of-{number}") for k in range(1, number + 1)]
    with ActivationStore([whole]) as one, ActivationStore(shards) as several:
        assert several.prompts == one.prompts
        np.testing.assert_array_equal(several.prompt_ids, one.prompt_ids)
        np.testing.assert_array_equal(several.tokens, one.tokens)
        np.testing.assert_array_equal(several.lengths, one.lengths)
        for module, layer in product(one.widths, range(one.layers)):
            rows, expected = (
                np.concatenate(list(s.blocks(layer, module=module))) for s in (several, one)
            )
            np.testing.assert_array_equal(rows, expected)


def test_more_shards_than_batches_are_refused(case_of, capture):
    """Ten prompts in batches of four are three batches."""
    with pytest.raises(ValueError, match=r"3 batches.*4 shards.*generation\.batch_size"):
        capture(case_of("llama").folder, "shard", shard="1-of-4")


def test_a_batch_that_does_not_fit_is_halved(case, capture, monkeypatch):
    """Memory for three prompts: the batches of four are halved, each anew."""
    whole = read_means(capture(case.folder, "whole"))
    tried = []

    def scarce(lm, anatomy, prompts, *rest):
        tried.append(len(prompts))
        if len(prompts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return capture_batch(lm, anatomy, prompts, *rest)

    monkeypatch.setattr("capture_activations.capture_batch", scarce)
    halved = capture(case.folder, "halved")
    assert tried == [4, 2, 2, 4, 2, 2, 2]
    np.testing.assert_allclose(read_means(halved), whole, **PLAIN_TOLERANCE)
    with h5py.File(halved) as file:
        new = [file["tokens"][row][: file["lengths"][row]].tolist() for row in by_prompt(file)]
    assert new == case.greedy


def test_shards_read_the_text_of_their_own_shard(case_of, capture):
    case = case_of("llama")
    base = [capture(case.folder, f"base{k}", shard=f"{k}-of-2") for k in (1, 2)]
    read = [
        capture(case.folder, f"read{k}", shard=f"{k}-of-2", texts=[str(base[k - 1])])
        for k in (1, 2)
    ]
    expected = plain_means(case.plain, case.prompts, case.greedy)
    np.testing.assert_allclose(read_means(*read), expected, **PLAIN_TOLERANCE)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_batch_size_does_not_matter(case, capture, batch_size):
    store = capture(case.folder, "base", reading=tiny.reading(batch_size=batch_size))
    for group, part in PARTS.items():
        expected = plain_means(case.plain, case.prompts, case.greedy, part=part)
        np.testing.assert_allclose(read_means(store, group=group), expected, **PLAIN_TOLERANCE)


@pytest.mark.parametrize("given", [False, True])
def test_nan_names_the_prompt_and_leaves_nothing(case_of, capture, tmp_path, given):
    case = case_of("llama")
    texts = [str(capture(case.folder, "base"))] if given else []
    model = tiny.build_model("llama")
    only_here = next(t for t in case.prompts[1] if sum(t in p for p in case.prompts) == 1)
    assert not any(only_here in new for new in case.greedy)
    model.model.embed_tokens.weight[only_here] = torch.nan
    folder = tiny.save(model, tmp_path / "broken")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match="The weather in the north"):
        capture(folder, "nan", texts=texts)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_projections_of_layers_equal_those_of_the_mlp_outputs(case, capture, tmp_path):
    """The identity: neurons' projections and the bias's sum to the MLP output's projection."""
    folder = tiny.save(tiny.nudge(tiny.build_model(case.family), 0.1), tmp_path / "tuned")
    w = np.random.default_rng(1).normal(size=tiny.HIDDEN)
    write_direction(tmp_path / "direction.safetensors", Direction(w, 0.5))
    base = capture(case.folder, "base")
    same = capture(folder, "tuned-on-base-text", texts=[str(base)])
    project_layers(
        str(case.folder),
        str(folder),
        {"base": [str(base)]},
        {"tuned-on-base-text": [str(same)]},
        str(tmp_path / "direction.safetensors"),
        str(tmp_path / "layers.csv"),
        dtype="float32",
        statistics=Statistics(samples=50, confidence=0.95, seed=0),
    )
    table = read_csv(tmp_path / "layers.csv").set_index(["state", "layer"])
    biased = 0
    for state, model in {"base": case.plain, "tuned-on-base-text": plain.load(folder)}.items():
        mlps = [plain.down(block) for block in plain.blocks(model)]
        outputs = [
            plain.read(model, prompt, new, mlps, "output").mean(1)
            for prompt, new in zip(case.prompts, case.greedy, strict=True)
        ]
        along = torch.stack(outputs, 1).numpy() @ (w / np.linalg.norm(w))  # (layers, n)
        np.testing.assert_allclose(table.loc[state].projection, along.mean(1), rtol=1e-5, atol=1e-6)
        assert (table.loc[state].projection_low <= along.mean(1)).all()
        assert (table.loc[state].projection_high >= along.mean(1)).all()
        for block in plain.blocks(model):
            biased += plain.down(block).bias is not None
    assert biased == (0 if case.family == "gemma2" else 6)


def test_the_identity_holds_for_every_prompt_and_layer(every_case, capture):
    """Neurons, and heads, with the bias add up to what the MLP, and attention, writes; where a norm
    stands behind it, to what that norm reads."""
    case = every_case
    store = capture(case.folder, "base")
    w = np.random.default_rng(1).normal(size=tiny.HIDDEN)
    for module, (group, part) in zip(("mlp", "attention"), PARTS.items(), strict=True):
        weights = value_projections(case.folder, w, "float32", module)
        summed = np.einsum("lni,li->ln", read_means(store, group=group), weights.projections)
        summed += weights.biases[:, None]
        projections = [part(block) for block in plain.blocks(case.plain)]
        for row, (prompt, new) in enumerate(zip(case.prompts, case.greedy, strict=True)):
            output = plain.read(case.plain, prompt, new, projections, "output").mean(1).numpy()
            np.testing.assert_allclose(
                summed[:, row], output @ (w / np.linalg.norm(w)), **PLAIN_TOLERANCE
            )


def test_value_projections_are_those_of_what_each_neuron_writes(case):
    w = np.random.default_rng(2).normal(size=tiny.HIDDEN)
    weights = value_projections(case.folder, 3 * w, "float32")  # the length of w does not matter
    for layer, block in enumerate(plain.blocks(case.plain)):
        vectors = plain.values(block).numpy()
        norms = np.linalg.norm(vectors, axis=1)
        along = vectors @ w / np.linalg.norm(w)
        np.testing.assert_allclose(weights.projections[layer], along, atol=1e-12)
        np.testing.assert_allclose(weights.norms[layer], norms, atol=1e-12)
        np.testing.assert_allclose(weights.cosines[layer], along / norms, atol=1e-12)


def test_a_direction_that_does_not_fit_is_refused(case_of):
    folder = case_of("llama").folder
    with pytest.raises(ValueError, match=r"31 components.*32"):
        value_projections(folder, np.ones(31), "float32")
    for bad in (np.zeros(32), np.full(32, np.nan)):
        with pytest.raises(ValueError, match="direction"):
            value_projections(folder, bad, "float32")
