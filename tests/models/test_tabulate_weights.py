"""Where tuning changed the weights: norms and ranks by hand, and every parameter in its module."""

import numpy as np
import pytest
import tiny
import torch
from neurondynamics.data.tables import read_csv
from neurondynamics.lm.stored import StoredWeights
from tabulate_weights import effective_rank, tabulate_weights


@pytest.fixture
def tabulate(tmp_path):
    def run(base, tuned):
        tabulate_weights(str(base), str(tuned), str(tmp_path / "weights.csv"), threads=1)
        return read_csv(tmp_path / "weights.csv").set_index("parameter")

    return run


def test_effective_rank_by_hand():
    assert effective_rank(torch.eye(4, 6).double()) == pytest.approx(4)
    assert effective_rank(torch.ones(5, 3).double()) == pytest.approx(1, abs=1e-5)
    # shares 3/4 and 1/4
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert effective_rank(torch.diag(torch.tensor([3.0, 0, 1]).double())) == pytest.approx(expected)


def test_every_parameter_has_its_module_once(every_case, tabulate):
    case = every_case
    table = tabulate(case.folder, case.folder)
    parameters = dict(case.model.named_parameters())
    assert set(table.index) == set(parameters)
    assert table["size"].to_dict() == {name: w.numel() for name, w in parameters.items()}
    in_blocks = table["layer"].notna()
    assert set(table.loc[in_blocks, "module"]) == {"attention", "mlp", "norms"}
    assert set(table.loc[~in_blocks, "module"]) <= {"embeddings", "final_norm", "unembedding"}
    for layer in range(tiny.LAYERS):
        here = table[table["layer"] == layer]
        assert here["module"].nunique() == 3
        assert here.loc[here["full_rank"].notna(), "module"].isin(["attention", "mlp"]).all()
    assert (table["change"] == 0).all()
    assert table["effective_rank"].isna().all()


def test_what_was_moved_is_measured(case_of, tabulate, tmp_path):
    case = case_of("llama")
    tuned = tiny.build_model("llama")
    name = "model.layers.1.mlp.down_proj.weight"
    weight = tuned.get_parameter(name)
    weight.add_(torch.outer(torch.ones(weight.shape[0]), torch.arange(weight.shape[1]) / 100))
    table = tabulate(case.folder, tiny.save(tuned, tmp_path / "tuned"))
    base = case.model.get_parameter(name).double()
    row = table.loc[name]
    assert (row["module"], row["layer"], row["full_rank"]) == ("mlp", 1, tiny.HIDDEN)
    change = float((weight.double() - base).norm())
    assert row[["norm", "change"]].tolist() == pytest.approx([float(base.norm()), change])
    assert row["relative_change"] == pytest.approx(change / float(base.norm()))
    assert row["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert (table.drop(name)["change"] == 0).all()


def test_stored_weights_are_those_of_the_loaded_model(every_case):
    """Also where a file has another name for one, as GPT-NeoX's has for its unembedding."""
    parameters = dict(every_case.model.named_parameters(remove_duplicate=False))
    stored = StoredWeights(every_case.folder)
    assert set(stored) == set(parameters)
    for name, weight in stored.items():
        assert torch.equal(weight, parameters[name]), name
