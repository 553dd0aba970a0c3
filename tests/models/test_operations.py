"""The tables of acts and operations: whole, closed, and all that a new operation takes."""

from pathlib import Path

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch
import yaml
from neurondynamics.data.tables import write_parquet
from neurondynamics.interventions.edits import (
    applied,
    count_units,
    followed_sites,
    listening,
    needs_leader,
)
from neurondynamics.interventions.export import bake
from neurondynamics.interventions.operations import ACTS, OPERATIONS, Act, OnActivations
from neurondynamics.interventions.parts import Edit
from neurondynamics.interventions.plans import plan_steps
from neurondynamics.interventions.units import Units
from neurondynamics.lm.anatomy import dissect

SCHEMA = Path(__file__).resolve().parents[2] / "workflow" / "schemas" / "config.schema.yaml"
STEPS = {
    "zero": {},
    "patch": {"mode": "paired"},
    "scale": {"factor": 2.0},
    "scale_keys": {"factor": 2.0},
    "rescale": {"factor": 1.5},
    "subtract": {"direction": "probe", "layer": "last", "scale": 2.0},
    "transplant": {"factor": 2.0},
}
NEURONS = pd.DataFrame(
    {
        "layer": [0, 1, 1],
        "neuron": [3, 0, 7],
        "cosine": [0.3, 0.2, 0.1],
        "activation_base": [1.0, -2.0, 0.5],
        "activation_tuned": [0.0, 1.0, 2.0],
    }
)
DIRECTIONS = {"probe": np.ones(tiny.HIDDEN)}
IDS = torch.tensor([[17, 40, 303, 8, 99]])


def kinds_of(node, key):
    """Yield the kinds that a schema names for the values of a key."""
    if isinstance(node, dict):
        if node.get("by") == key:
            yield node["of"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from kinds_of(item, key)


def test_every_operation_of_the_schema_has_an_entry_and_conversely():
    (kinds,) = kinds_of(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")), "operation")
    assert set(OPERATIONS) == set(kinds) == set(STEPS)


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "transplant"])
def test_every_operation_makes_an_edit_of_a_known_act(case_of, operation):
    step = {"operation": operation, "select": {"top": 2}, "positions": "all"} | STEPS[operation]
    (edit,) = plan_steps(Units(NEURONS), [step], DIRECTIONS).edits
    assert edit.positions == "all"
    act = ACTS[edit.act]
    assert count_units([edit]) == (2 if act.of_units else 0, 0)
    assert needs_leader([edit]) == (operation == "patch")
    model = case_of("llama").model
    before = model(input_ids=IDS).logits
    leader = tiny.build_model("llama", seed=1)
    heard = {}
    with listening(dissect(leader), followed_sites([edit]), heard):
        leader(input_ids=IDS)
    with applied(dissect(model), [edit], heard):
        assert not torch.equal(model(input_ids=IDS).logits, before)


@pytest.mark.parametrize(
    ("step", "counted"),
    [
        ({"select": {"top": 2}}, (2, 0)),
        ({"select": {"heads": [[1, 3]]}, "factor": 8}, (0, 1)),
        ({"parts": ["attention", "norms"], "layers": [1, 2]}, (0, 8)),
        ({"parts": ["mlp", "embeddings"]}, (3 * tiny.NEURONS, 0)),
    ],
)
def test_a_transplant_moves_weights_and_needs_no_hook(case_of, step, counted):
    model, other = case_of("llama").model, tiny.build_model("llama", seed=1)
    units = Units.of(dissect(model), NEURONS, tiny.heads_of(model), "base")
    made = plan_steps(units, [{"operation": "transplant", **step}], {})
    assert made.edits == ()
    assert made.count() == counted
    assert not torch.equal(
        made.moved(model, other)(input_ids=IDS).logits, model(input_ids=IDS).logits
    )


MEANS = {"mean": 0, "shift": 0, "rescale": 1.5}


@pytest.mark.parametrize("mode", MEANS)
@pytest.mark.parametrize("edited", ["base", "tuned"])
def test_heads_are_moved_by_their_means(case, mode, edited):
    """Read from their table, and as by hand: of the head 2 of the middle layer, and of head 0 of
    the first one."""
    model, table = case.model, tiny.heads_of(case.model)
    select = {"heads": [[1, 2], [0, 0]]}
    step = {"operation": "patch", "mode": mode, "select": select, "positions": "all"}
    if mode == "rescale":
        step |= {"operation": "rescale", "mode": "mean", "factor": MEANS[mode]}
    plan = plan_steps(Units.of(dissect(model), NEURONS, table, edited), [step], {})
    assert plan.count() == (0, 2)
    with applied(dissect(model), plan.edits):
        found = model(input_ids=IDS).logits[0].double()
    other = "tuned" if edited == "base" else "base"
    changes = []
    for layer, head in select["heads"]:
        row = table[(table.layer == layer) & (table["head"] == head)].iloc[0]
        own, target = torch.tensor(row[f"inputs_{edited}"]), torch.tensor(row[f"inputs_{other}"])
        block = slice(head * len(own), (head + 1) * len(own))
        base = torch.tensor(row["inputs_base"])

        def moved(x, block=block, own=own, target=target, base=base):
            x = x.clone()
            kinds = {"mean": target, "shift": x[..., block] + target - own, "rescale": 1.5 * base}
            x[..., block] = kinds[mode]
            return x

        changes.append((plain.out(plain.blocks(case.plain)[layer]), "input", moved))
    with plain.changed(changes):
        expected = plain.logits(case.plain, IDS[0].tolist())
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)
    assert not np.allclose(found, case.model(input_ids=IDS).logits[0], atol=1e-2)


def test_a_table_of_other_heads_is_refused(case_of):
    anatomy, table = dissect(case_of("llama").model), tiny.heads_of(case_of("llama").model)
    for wrong in (table.iloc[:-1], table.iloc[::-1], table.assign(layer=0)):
        with pytest.raises(ValueError, match="not that of 3 layers with 4 heads each"):
            Units.of(anatomy, NEURONS, wrong, "base")


def test_tables_of_units_are_about_the_model(case_of, tmp_path):
    model, paths = case_of("llama").model, [tmp_path / name for name in ("n.parquet", "h.parquet")]
    for path, table in zip(paths, (NEURONS, tiny.heads_of(model)), strict=True):
        write_parquet(path, table, {"base_weights": "a", "tuned_weights": "b"})
    units = Units.read(dissect(model), *paths, weights="b", edited="tuned")
    assert (len(units.neurons), len(units.heads), units.other) == (3, 12, "base")
    write_parquet(paths[1], tiny.heads_of(model), {"base_weights": "a", "tuned_weights": "c"})
    with pytest.raises(ValueError, match=r"h\.parquet was made from other models"):
        Units.read(dissect(model), *paths, weights="b", edited="tuned")


def test_a_transplant_of_every_part_is_the_other_model(case_of):
    model, other = case_of("llama").model, tiny.build_model("llama", seed=1)
    parts = ["attention", "mlp", "norms", "final_norm", "embeddings", "unembedding"]
    units = Units.of(dissect(model), NEURONS, tiny.heads_of(model), "base")
    everything = plan_steps(units, [{"operation": "transplant", "parts": parts}], {})
    moved = everything.moved(model, other)
    assert torch.equal(moved(input_ids=IDS).logits, other(input_ids=IDS).logits)


class Limit(OnActivations):
    """The activation becomes at most `factor`."""

    def moved(self, part):
        most = part.spread(part.factor, torch.inf)
        return lambda m: torch.minimum(m, most)


def test_an_operation_with_a_factor_takes_its_entries_alone(case_of, monkeypatch):
    monkeypatch.setitem(ACTS, "limit", Limit())
    monkeypatch.setitem(OPERATIONS, "limit", OPERATIONS["scale"])
    step = {"operation": "limit", "select": {"top": 3}, "factor": -0.5}
    edits = plan_steps(Units(NEURONS), [step], {}).edits
    case = case_of("gpt2")
    with applied(dissect(case.model), edits):
        found = case.model(input_ids=IDS).logits[0].double()
    changes = []
    for layer, neurons in {0: [3], 1: [0, 7]}.items():
        most = torch.full((tiny.NEURONS,), torch.inf, dtype=torch.float64)
        most[neurons] = -0.5
        down = plain.down(plain.blocks(case.plain)[layer])
        changes.append((down, "input", lambda m, most=most: torch.minimum(m, most)))
    with plain.changed(changes):
        expected = plain.logits(case.plain, IDS[0].tolist())
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)
    # an act that says nothing of weights is not baked as anything
    with pytest.raises(ValueError, match=r"^limit cannot be exported: "):
        bake(case.model, edits)


def test_an_unknown_act_is_refused_everywhere(case_of):
    model = case_of("gpt2").model
    unknown = Edit("erase", np.array([1]), np.array([2]), factor=2.0)
    for use in (
        lambda: applied(dissect(model), [unknown]).__enter__(),
        lambda: bake(model, [unknown]),
        lambda: needs_leader([unknown]),
        lambda: count_units([unknown]),
    ):
        with pytest.raises(ValueError, match="unknown act 'erase'; known are zero, set, shift"):
            use()


@pytest.mark.parametrize("act", ACTS)
def test_every_act_is_baked_or_says_why_not(case_of, act):
    model = case_of("llama").model
    edit = Edit(act, np.array([1, 1]), np.array([2, 5]), np.array([1.0, -1.0]), 2.0)
    if not ACTS[act].of_units:
        edit = Edit(act, np.array([1]), np.array([], dtype=int), np.ones(tiny.HIDDEN))
    if type(ACTS[act]).bake is Act.bake:
        with pytest.raises(ValueError, match=f"^{act} cannot be exported: "):
            bake(model, [edit])
    else:
        before, after = model.state_dict(), bake(model, [edit]).state_dict()
        assert any(not torch.equal(after[name], before[name]) for name in before)
