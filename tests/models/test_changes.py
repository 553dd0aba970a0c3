"""How far tuning moves neurons and heads, against passes in float64, one prompt at a time."""

import h5py
import numpy as np
import plain
import pytest
import tiny
import torch
from capture_activations import capture_activations
from measure_change import measure_change
from neurondynamics.analysis.changes import Changes, read_changes, write_changes
from neurondynamics.lm.changes import SquaredChanges

ROUNDING = 1e-4  # of squares of differences of numbers in float32


@pytest.fixture
def measure(tmp_path, prompts_file):
    """A function that measures the change of a case's tuned model: its folder and the file."""

    def run(case, **changes):
        base, tuned = str(tmp_path / "base.h5"), tmp_path / "tuned"
        if not tuned.exists():
            tiny.save(tiny.nudge(tiny.build_model(case.family), 0.05), tuned)
            capture_activations(
                str(case.folder), str(prompts_file), base, texts=[], neurons=None, state="base",
                shard="1-of-1", ablated=0, origin={}, reading=tiny.reading(), new_tokens=8,
            )  # fmt: skip
        path = str(tmp_path / "changes.h5")
        reading = tiny.reading(**changes)
        measure_change(str(case.folder), str(tuned), [base], path, reading=reading)
        return tuned, path

    return run


def squares_by_hand(case, tuned) -> Changes:
    """Average over all tokens of all prompts what the definitions say, written out in full."""
    blocks = [plain.blocks(model) for model in (case.plain, tuned)]
    vectors = [plain.vectors(plain.out(block)).unflatten(0, (4, -1)) for block in blocks[0]]
    neurons, heads = [], []
    for prompt, new in zip(case.prompts, case.greedy, strict=True):
        for part, squares in ((plain.down, neurons), (plain.out, heads)):
            before, after = (
                plain.read(model, prompt, new, [part(block) for block in of_model])
                for model, of_model in zip((case.plain, tuned), blocks, strict=True)
            )
            squares.append(after - before)  # (layers, T, inputs)
    moved = torch.cat(heads, 1).unflatten(2, (4, -1))  # (layers, tokens, heads, head_width)
    written = torch.stack(
        [torch.einsum("thi,hid->thd", *pair) for pair in zip(moved, vectors, strict=True)]
    )
    return Changes(
        torch.cat(neurons, 1).square().mean(1).numpy(), written.square().sum(-1).mean(1).numpy()
    )


def test_change_of_neurons_and_heads_in_every_family(every_case, measure):
    tuned, path = measure(every_case)
    # Falcon's unfused attention adds its position biases twice (transformers 5.23)
    attention = "sdpa" if every_case.family == "falcon-alibi" else "eager"
    expected = squares_by_hand(every_case, plain.load(tuned, attention))
    for found, squares in zip(read_changes(path), expected, strict=True):
        assert found.dtype == np.float64
        assert (squares > 0).any()
        np.testing.assert_allclose(found, squares, rtol=ROUNDING, atol=1e-7)


def test_batches_and_halves_of_them_do_not_matter(case, measure, monkeypatch):
    whole = read_changes(measure(case)[1])
    alone = read_changes(measure(case, batch_size=1)[1])
    read, tried = SquaredChanges.read, []

    def scarce(models, prompts, continuations):
        tried.append(len(prompts))
        if len(prompts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(models, prompts, continuations)

    monkeypatch.setattr(SquaredChanges, "read", scarce)
    halved = read_changes(measure(case)[1])
    assert tried == [4, 2, 2, 4, 2, 2, 2]
    for other in (alone, halved):
        for found, expected in zip(other, whole, strict=True):
            np.testing.assert_allclose(found, expected, rtol=ROUNDING)


def test_the_same_bytes_come_out_again(case_of, measure):
    first, again = ((measure(case_of("llama"))[1]) for _ in range(2))
    contents = []
    for path in (first, again):
        with h5py.File(path) as file:
            contents.append([file[name][:].tobytes() for name in Changes._fields])
    assert contents[0] == contents[1]


def test_what_is_not_finite_names_its_prompts(case_of, measure, tmp_path):
    case = case_of("llama")
    measure(case)
    broken = tiny.build_model("llama")
    broken.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    tiny.save(broken, tmp_path / "tuned")
    (tmp_path / "changes.h5").unlink()
    with pytest.raises(ValueError, match="NaN or infinite in one of the models, for a prompt of"):
        measure(case)
    assert not (tmp_path / "changes.h5").exists()


def test_a_file_of_other_models_is_refused(tmp_path):
    written = Changes(np.arange(6.0).reshape(2, 3), np.ones((2, 1)))
    path = tmp_path / "changes.h5"
    write_changes(path, written, {"base_weights": "a", "tuned_weights": "b"})
    for found, expected in zip(read_changes(path, {"base_weights": "a"}), written, strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=r"changes\.h5 was made .* its tuned weights is b, not c"):
        read_changes(path, {"tuned_weights": "c"})
