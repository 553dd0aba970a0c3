"""The neuron table and the sums per prompt, end to end, against sums over single positions."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch
from attribute_heads import attribute_heads, head_table
from attribute_neurons import attribute_neurons, layer_table
from capture_activations import capture_activations
from decode_neurons import decode_neurons
from measure_change import measure_change
from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.analysis.directions import Direction, write_direction
from neurondynamics.data import store
from neurondynamics.data.hdf5 import write_attribute
from neurondynamics.data.tables import read_csv
from neurondynamics.lm.weights import ValueProjections
from neurondynamics.study.behaviour import Behaviour
from scipy.stats import false_discovery_control, ttest_1samp

W = np.random.default_rng(4).normal(size=tiny.HIDDEN)


@pytest.fixture
def attributed(case, tmp_path, prompts_file):
    """Runs capture in two shards and attribution; returns the paths and the tuned model."""
    tuned = tiny.save(tiny.nudge(tiny.build_model(case.family), 0.1), tmp_path / "tuned")
    write_direction(tmp_path / "direction.safetensors", Direction(W, 0.0))

    def capture(folder, state, texts=()):
        paths = []
        for shard in ("1-of-2", "2-of-2"):
            paths.append(str(tmp_path / f"{state}-{shard}.h5"))
            own = [path for path in texts if shard in path]
            capture_activations(
                str(folder), str(prompts_file), paths[-1],
                texts=own, neurons=None, state=state, shard=shard, ablated=0, origin={},
                reading=tiny.reading(), new_tokens=8,
            )  # fmt: skip
        return paths

    base = capture(case.folder, "base")
    names = ("neurons.parquet", "reductions.h5", "heads.parquet", "changes.h5")
    paths = {name.split(".")[0]: str(tmp_path / name) for name in names}
    models = {"base_model": str(case.folder), "tuned_model": str(tuned)}
    measure_change(**models, base=base, changes=paths["changes"], reading=tiny.reading())
    of_both = models | {
        "base": base,
        "tuned": capture(tuned, "tuned"),
        "same_text": capture(tuned, "tuned-on-base-text", base),
        "direction": str(tmp_path / "direction.safetensors"),
        "changes": paths["changes"],
        "dtype": "float32",
    }
    attribute_neurons(**of_both, neurons=paths["neurons"], reductions=paths["reductions"])
    attribute_heads(**of_both, heads=paths["heads"])
    return paths | {"tuned": plain.load(tuned)}


def brute_force(model, prompts, continuations, part=plain.down):
    """Return what a part of the blocks reads on average, (layers, n, inputs), and the vectors of
    its inputs seen along W, (layers, 1, inputs)."""
    parts = [part(block) for block in plain.blocks(model)]
    unit = torch.tensor(W / np.linalg.norm(W))
    along = torch.stack([plain.vectors(module) @ unit for module in parts])
    means = torch.stack(
        [
            plain.read(model, prompt, new, parts).mean(1)
            for prompt, new in zip(prompts, continuations, strict=True)
        ],
        1,
    )
    return means.numpy(), along[:, None].numpy()


def group_by_hand(cosine, base, tuned):
    """The eight groups, as the glossary words them."""
    if base == tuned or cosine == 0:
        return "unchanged"
    toxic = "T" if cosine > 0 else "A"
    sign = "P" if base >= 0 else "N"
    more = tuned > base if sign == "P" else tuned < base  # more of its sign
    return toxic + sign + ("+" if more else "-")


def by_hand(case, tuned, part=plain.down):
    """Return what the base model, the tuned one and the tuned one on the base's text read, and by
    column what they write, all (layers, n, inputs)."""
    prompts, greedy = case.stored
    own = [plain.generate(tuned, prompt, 8, [0]) for prompt in prompts]
    m_base, u_base = brute_force(case.plain, prompts, greedy, part)
    m_tuned, u_tuned = brute_force(tuned, prompts, own, part)
    m_same, _ = brute_force(tuned, prompts, greedy, part)
    p_base, p_tuned, p_same = m_base * u_base, m_tuned * u_tuned, m_same * u_tuned
    # what a change does if it comes first, and if it comes after the other one
    by_activation = (p_base - m_same * u_base + m_base * u_tuned - p_same) / 2
    by_value = (p_base - m_base * u_tuned + m_same * u_base - p_same) / 2
    return (m_base, m_tuned, m_same), {
        "projection_base": p_base,
        "projection_tuned": p_tuned,
        "projection_same_text": p_same,
        "reduction": p_base - p_tuned,
        "reduction_activation": by_activation,
        "reduction_value": by_value,
        "reduction_context": p_same - p_tuned,
    }


def test_everything_equals_brute_force(case, attributed):
    table = pd.read_parquet(attributed["neurons"])
    (m_base, m_tuned, m_same), written = by_hand(case, attributed["tuned"])
    p_base, by_value = written["projection_base"], written["reduction_value"]
    p_tuned, p_same = written["projection_tuned"], written["projection_same_text"]
    shape = (tiny.LAYERS, tiny.NEURONS)
    expected = written | {
        "activation_base": m_base,
        "activation_tuned": m_tuned,
        "activation_same_text": m_same,
    }
    for column, per_prompt in expected.items():
        found = table[column].to_numpy().reshape(shape)
        np.testing.assert_allclose(found, per_prompt.mean(1), rtol=1e-4, atol=1e-5, err_msg=column)
    parts = table[["reduction_activation", "reduction_value", "reduction_context"]]
    np.testing.assert_allclose(parts.sum(axis=1), table.reduction, rtol=0, atol=1e-12)
    vectors = np.stack([plain.values(block).numpy() for block in plain.blocks(case.plain)])
    norms = np.linalg.norm(vectors, axis=-1)
    cosines = vectors @ W / norms / np.linalg.norm(W)
    np.testing.assert_allclose(table.cosine.to_numpy().reshape(shape), cosines, atol=1e-6)
    np.testing.assert_allclose(table.value_norm.to_numpy().reshape(shape), norms, atol=1e-6)
    assert table.layer.tolist() == list(np.repeat(range(tiny.LAYERS), tiny.NEURONS))
    assert table.neuron.tolist() == list(range(tiny.NEURONS)) * tiny.LAYERS
    assert table.layer.dtype == table.neuron.dtype == np.int32

    groups = [
        group_by_hand(*row)
        for row in zip(
            cosines.ravel(), m_base.mean(1).ravel(), m_tuned.mean(1).ravel(), strict=True
        )
    ]
    assert table.group.tolist() == groups
    # an activation hardly ever falls below zero on average in GPT-2, and never in OPT (ReLU)
    assert len(set(groups)) >= (4 if case.family == "opt" else 6)

    where = np.array(groups).reshape(shape)
    with h5py.File(attributed["reductions"]) as file:
        assert file.attrs["groups"].decode().split() == list(GROUPS)
        expected = {
            "reduction": p_base - p_tuned,
            "reduction_same_text": p_base - p_same,
            "reduction_value": by_value,
        }
        for name, reduction in expected.items():
            sums = file[name][:]
            assert sums.shape == (len(tiny.PROMPTS), tiny.LAYERS, 9)
            assert sums.dtype == np.float64
            for index, group in enumerate(GROUPS):
                per_prompt = np.where(where[:, None] == group, reduction, 0).sum(2)
                np.testing.assert_allclose(
                    sums[..., index], per_prompt.T, rtol=1e-4, atol=1e-4, err_msg=group
                )
            total = sums.sum(axis=(1, 2)).mean()
            np.testing.assert_allclose(total, reduction.sum(axis=(0, 2)).mean(), rtol=1e-4)


def test_p_values_are_those_of_a_t_test_over_prompts(case, attributed):
    for name, part in (("neurons", plain.down), ("heads", plain.out)):
        table = pd.read_parquet(attributed[name])
        _, written = by_hand(case, attributed["tuned"], part)
        reduction = written["projection_base"] - written["projection_tuned"]  # by prompt
        by_unit = reduction.swapaxes(0, 1).reshape(len(tiny.PROMPTS), len(table), -1).sum(2)
        moved = by_unit.any(axis=0)
        expected = ttest_1samp(by_unit[:, moved], 0).pvalue
        np.testing.assert_allclose(table["p_value"][moved], expected, rtol=1e-2, atol=1e-5)
        assert (table["p_value"][~moved] == 1).all()
        adjusted = false_discovery_control(table["p_value"])
        np.testing.assert_allclose(table["q_value"], adjusted)


def test_heads_equal_brute_force(case, attributed):
    """A head is the block of the output projection's inputs that it writes."""
    table = pd.read_parquet(attributed["heads"])
    assert table.layer.tolist() == list(np.repeat(range(tiny.LAYERS), 4))
    assert table["head"].tolist() == list(range(4)) * tiny.LAYERS
    assert table.layer.dtype == table["head"].dtype == np.int32
    (m_base, m_tuned, _), written = by_hand(case, attributed["tuned"], plain.out)
    for column, per_prompt in written.items():
        expected = per_prompt.mean(1).reshape(len(table), -1).sum(1)
        np.testing.assert_allclose(table[column], expected, rtol=1e-4, atol=1e-5, err_msg=column)
    for column, means in {"inputs_base": m_base, "inputs_tuned": m_tuned}.items():
        expected = means.mean(1).reshape(len(table), -1)
        np.testing.assert_allclose(np.stack(table[column]), expected, rtol=1e-4, atol=1e-5)
    parts = table[["reduction_activation", "reduction_value", "reduction_context"]]
    np.testing.assert_allclose(parts.sum(axis=1), table.reduction, rtol=0, atol=1e-12)
    assert (parts.abs() > 0).all(axis=None)


def test_change_is_the_root_mean_square_by_the_length_of_what_is_written(case, attributed):
    with h5py.File(attributed["changes"]) as file:
        neurons, heads = file["neurons"][:].ravel(), file["heads"][:].ravel()
    table = pd.read_parquet(attributed["neurons"])
    np.testing.assert_allclose(table.change, np.sqrt(neurons) * table.value_norm)
    np.testing.assert_allclose(pd.read_parquet(attributed["heads"]).change, np.sqrt(heads))
    assert (heads > 0).all()


def test_a_head_by_hand():
    """Two heads of two inputs: each is the sum of its own."""
    before, after, along = np.array([1.0, 2, 3, 4]), np.zeros(4), np.array([1.0, 10, 100, 1000])
    table = head_table(7, before, after, after, along, along, np.array([4.0, 9.0]))
    assert table.projection_base.tolist() == table.reduction.tolist() == [21, 4300]
    assert table.change.tolist() == [2, 3]
    assert table.layer.tolist() == [7, 7]
    assert table.inputs_base.map(list).tolist() == [[1, 2], [3, 4]]


def test_the_parts_of_a_reduction_by_hand():
    """Activations 3, 2 on the same text and 1 on its own; value vectors 4 and 2: 12 falls to 2."""

    def store(activation):
        return SimpleNamespace(mean=lambda layer: np.array([activation]))

    def weights(along):
        return ValueProjections(*(np.array([[along]]) for _ in range(3)), np.zeros(1))

    table = layer_table(0, store(3.0), store(1.0), store(2.0), weights(4.0), weights(2.0))
    (row,) = table.to_dict("records")
    assert row["reduction"] == 10
    assert row["reduction_activation"] == 3  # 4 if it changes first, 2 if it changes second
    assert row["reduction_value"] == 5  # 6 if it changes first, 4 if it changes second
    assert row["reduction_context"] == 2


def test_the_groups_partition_the_neurons(attributed):
    table = pd.read_parquet(attributed["neurons"])
    assert not table.duplicated(["layer", "neuron"]).any()
    assert len(table) == tiny.LAYERS * tiny.NEURONS
    assert set(table.group) <= set(GROUPS)
    with h5py.File(attributed["reductions"]) as file:
        sums = file["reduction"][:].mean(0)  # (layers, groups)
        value = file["reduction_value"][:].mean(0)
    by_group = table.groupby(["layer", "group"]).reduction.sum()
    for (layer, group), reduction in by_group.items():
        np.testing.assert_allclose(sums[layer, GROUPS.index(group)], reduction, atol=1e-9)
    np.testing.assert_allclose(sums.sum(), table.reduction.sum(), atol=1e-9)
    np.testing.assert_allclose(value.sum(), table.reduction_value.sum(), atol=1e-9)


@pytest.fixture
def llama(case_of, tmp_path, prompts_file):
    """A function that captures a state of the llama model and returns its store."""

    def capture(state, **changes):
        path = str(tmp_path / f"{state}.h5")
        given = {
            "texts": [],
            "neurons": None,
            "state": state,
            "shard": "1-of-1",
            "ablated": 0,
            "origin": {},
            "reading": tiny.reading(),
            "new_tokens": 8,
        }
        prompts = changes.pop("prompts", str(prompts_file))
        folder = changes.pop("folder", str(case_of("llama").folder))
        capture_activations(folder, prompts, path, **given | changes)
        return path

    return capture


def attribute(case, tmp_path, base, tuned, same, tuned_model=None):
    write_direction(tmp_path / "direction.safetensors", Direction(W, 0.0))
    models, changes = [str(case.folder), tuned_model or str(case.folder)], str(tmp_path / "c.h5")
    measure_change(*models, [str(tmp_path / "base.h5")], changes, reading=tiny.reading())
    attribute_neurons(
        [base], [tuned], [same], *models,
        str(tmp_path / "direction.safetensors"), changes, str(tmp_path / "neurons.parquet"),
        str(tmp_path / "reductions.h5"), dtype="float32",
    )  # fmt: skip
    return pd.read_parquet(tmp_path / "neurons.parquet")


def test_a_model_against_itself_changes_nothing(case_of, llama, tmp_path):
    base = llama("base")
    stores = [str(tmp_path / f"{state}.h5") for state in ("tuned", "tuned-on-base-text")]
    for path in stores:
        shutil.copy(base, path)
        with h5py.File(path, "r+") as file:
            write_attribute(file, "state", Path(path).stem)
    table = attribute(case_of("llama"), tmp_path, base, *stores)
    assert set(table.group) == {"unchanged"}
    assert (table.filter(like="reduction") == 0).all(axis=None)
    assert (table.change == 0).all()


def test_stores_of_other_prompts_are_refused(case_of, llama, tmp_path, prompts_file):
    base = llama("base")
    lines = prompts_file.read_text().splitlines(keepends=True)
    (tmp_path / "others.jsonl").write_text("".join(lines[:-1]))
    other = llama("tuned", prompts=str(tmp_path / "others.jsonl"))
    same = llama("tuned-on-base-text", texts=[base])
    with pytest.raises(ValueError, match=r"tuned\.h5 was made .* its prompt set digest is"):
        attribute(case_of("llama"), tmp_path, base, other, same)
    assert not (tmp_path / "neurons.parquet").exists()
    assert not (tmp_path / "reductions.h5").exists()


def test_the_store_of_another_state_or_model_is_refused(case_of, llama, tmp_path):
    case, base = case_of("llama"), llama("base")
    with pytest.raises(ValueError, match=r"base\.h5 was made .* its state is base, not tuned;"):
        attribute(case, tmp_path, base, base, base)
    tuned, same = llama("tuned"), llama("tuned-on-base-text", texts=[base])
    other = tiny.save(tiny.nudge(tiny.build_model("llama"), 0.1), tmp_path / "other")
    with pytest.raises(ValueError, match=r"tuned\.h5 was made .* its weight digest is"):
        attribute(case, tmp_path, base, tuned, same, tuned_model=str(other))


def test_text_of_another_run_does_not_pass_for_the_same_text(case_of, llama, tmp_path):
    """The comparison on the same text must notice that the text is not the same."""
    base = llama("base")
    other = llama("tuned-on-base-text", new_tokens=5)
    with pytest.raises(ValueError, match="text"):
        attribute(case_of("llama"), tmp_path, base, llama("tuned"), other)


def test_changes_between_other_models_are_refused(case_of, llama, tmp_path):
    case, base = case_of("llama"), llama("base")
    other = str(tiny.save(tiny.nudge(tiny.build_model("llama"), 0.1), tmp_path / "other"))
    tuned = llama("tuned", folder=other)
    same = llama("tuned-on-base-text", texts=[base], folder=other)
    attribute(case, tmp_path, base, tuned, same, other)
    measure_change(
        str(case.folder), str(case.folder), [base], str(tmp_path / "c.h5"), reading=tiny.reading()
    )
    given = [[base], [tuned], [same], str(case.folder), other]
    given += [str(tmp_path / "direction.safetensors"), str(tmp_path / "c.h5")]
    with pytest.raises(ValueError, match=r"c\.h5 was made .* its tuned weights is"):
        attribute_heads(*given, str(tmp_path / "heads.parquet"), dtype="float32")
    with pytest.raises(ValueError, match=r"c\.h5 was made .* its tuned weights is"):
        attribute_neurons(
            *given, str(tmp_path / "n.parquet"), str(tmp_path / "r.h5"), dtype="float32"
        )
    assert not (tmp_path / "heads.parquet").exists()


def test_decoded_neurons_are_those_asked_for(case, tmp_path):
    generator = np.random.default_rng(0)
    rows = tiny.LAYERS * tiny.NEURONS
    table = pd.DataFrame(
        {
            "layer": np.repeat(np.arange(tiny.LAYERS), tiny.NEURONS),
            "neuron": np.tile(np.arange(tiny.NEURONS), tiny.LAYERS),
            "cosine": generator.normal(size=rows),
            "activation_base": 0.0,
            "activation_tuned": 0.0,
            "reduction": generator.normal(size=rows),
            "group": "TP-",
        }
    )
    table.to_parquet(tmp_path / "neurons.parquet")
    decode_neurons(
        str(case.folder),
        str(tmp_path / "neurons.parquet"),
        str(tmp_path / "decoded.csv"),
        number=4,
        behaviour=Behaviour("deceit", "deceptive"),
        dtype="float32",
    )
    decoded = read_csv(tmp_path / "decoded.csv")
    by_cosine, by_reduction = table.sort_values("cosine"), table.sort_values("reduction")
    expected = {
        "most deceptive": by_cosine.iloc[::-1][:4],
        "most anti-deceptive": by_cosine[:4],
        "largest reduction": by_reduction.iloc[::-1][:4],
    }
    norm = plain.final_norm(case.plain)
    for kind, neurons in expected.items():
        found = decoded[decoded.kind == kind]
        assert found.neuron.tolist() == neurons.neuron.tolist()
        assert found.layer.tolist() == neurons.layer.tolist()
        for row, neuron in zip(found.itertuples(), neurons.itertuples(), strict=True):
            sign = 1 if neuron.cosine > 0 else -1
            assert row.vector == ("v" if sign > 0 else "-v")
            vector = sign * plain.values(plain.blocks(case.plain)[neuron.layer])[neuron.neuron]
            best = case.plain.lm_head(norm(vector[None]))[0].topk(10).indices.tolist()
            tokens = [repr(case.tokenizer.decode([token])) for token in best]
            assert row.tokens == " ".join(tokens)


WIDE = """
import resource, sys
from pathlib import Path
import numpy as np
from transformers import LlamaConfig, LlamaForCausalLM
from attribute_heads import attribute_heads, head_table
from attribute_neurons import attribute_neurons
from neurondynamics.analysis.changes import Changes, write_changes
from neurondynamics.analysis.directions import Direction, write_direction
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.data.store import create_store
from project_layers import project_layers

folder, layers, neurons = Path(sys.argv[1]), 4, 2048
config = LlamaConfig(
    vocab_size=8, hidden_size=16, intermediate_size=neurons, num_hidden_layers=layers,
    num_attention_heads=2, num_key_value_heads=2,
)
model = str(folder / "model")
LlamaForCausalLM(config).save_pretrained(model)
direction = str(folder / "direction.safetensors")
write_direction(direction, Direction(np.ones(16), 0.0))
block = np.random.default_rng(0).normal(size=(layers, 256, neurons)).astype("f4")
changes = str(folder / "changes.h5")
write_changes(changes, Changes(np.ones((layers, neurons)), np.ones((layers, 2))))

def peak(prompts):
    path = str(folder / f"{prompts}.h5")
    widths = {"mlp": neurons, "attention": 16}
    sizes = {"prompts": prompts, "new_tokens": 1, "layers": layers, "widths": widths}
    with create_store(path, attributes={}, **sizes) as store:
        means = {"mlp": block, "attention": block[..., :16]}
        for start in range(0, prompts, 256):
            rows = range(start, start + 256)
            store.append(rows, ["x"] * 256, np.ones((256, 1)), np.ones(256), means)
    paths = [path]
    attribute_neurons(
        paths, paths, paths, model, model, direction, changes,
        str(folder / "neurons.parquet"), str(folder / "reductions.h5"), dtype="float32",
    )
    project_layers(
        model, model, {"base": paths}, {}, direction, str(folder / "layers.csv"),
        dtype="float32", statistics=Statistics(samples=20, confidence=0.9, seed=0),
    )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB

few, many = peak(512), peak(4096)
print(Path(folder / "4096.h5").stat().st_size / 2**20, many - few)
"""


def test_peak_memory_does_not_grow_with_the_number_of_prompts(tmp_path):
    """Eight times the prompts, 128 MiB a store: the whole of it would be seen, so would a layer."""
    scripts = Path(store.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", WIDE, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": f"{scripts}:{scripts / 'attribution'}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    size, growth = map(float, done.stdout.split())
    assert size > 128
    assert growth < 16
