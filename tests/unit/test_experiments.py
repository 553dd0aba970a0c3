"""Controls that experiments ask for, what experiments depend on, and mistakes in them by key."""

import copy

import pytest
from neurondynamics.study import margins
from neurondynamics.study.interventions import (
    all_steps,
    contradictions,
    searches,
    selected_files,
    with_controls,
)
from neurondynamics.study.schema import mistakes

MODEL = {"layers": 3, "neurons": 10, "heads": 4}
PATCH = {"select": {"groups": ["TP-"]}, "operation": "patch", "mode": "shift"}
ZERO = {"select": {"top": 3}, "operation": "zero"}
PAIRED = {"operation": "patch", "mode": "paired"}
HEADS = {"select": {"heads": [[0, 1]]}}
CHANGED = {"top": 3, "of": "all", "by": "change"}
KEY_VALUES = {"modules": ["key_values"]}
NORMS = {"operation": "transplant", "parts": ["final_norm"]}


def study(**experiments):
    """Return a configuration of a base and a tuned experiment and those given."""
    least = {
        "a": {"state": "base", "interventions": {"none": []}},
        "b": {"state": "tuned", "interventions": {"none": []}},
    }
    directions = {"svd": {}, "probe": {}}
    return {"model": MODEL, "experiments": least | experiments, "directions": directions}


def on(state, *edits, **keys):
    return study(c={"state": state, "interventions": {"x": list(edits)}, **keys})


def problems(config):
    """What is wrong with the experiments: first what the schema says, as for a user."""
    structure = [line for line in mistakes(config) if line.startswith("experiments.")]
    return structure or [*contradictions(config), *margins.contradictions(config)]


def test_controls_follow_what_they_control():
    experiment = {
        "interventions": {"none": [], "x": [PATCH]},
        "controls": {"random": 2, "signs": 1},
    }
    before = copy.deepcopy(experiment)
    assert with_controls(experiment) == {
        "none": [],
        "x": [PATCH],
        "x~random-1": [{**PATCH, "select": {"random": PATCH["select"], "seed": 1}}],
        "x~random-2": [{**PATCH, "select": {"random": PATCH["select"], "seed": 2}}],
        "x~signs-1": [{**PATCH, "shuffle_signs": 1}],
    }
    assert experiment == before


def test_without_controls_nothing_is_added():
    interventions = {"none": [], "x": [PATCH, ZERO]}
    assert with_controls({"interventions": interventions}) == interventions


def test_an_experiment_may_make_the_edits_of_its_searches():
    config = study(
        s={
            "state": "base",
            "search": {"perplexity": 2},
            "interventions": {"none": [], "y": [ZERO]},
        },
        c={"state": "base", "interventions": {"x": [PATCH], "z": {"best_of": "s"}}},
    )
    assert problems(config) == []
    experiments = config["experiments"]
    assert searches(experiments["c"]) == {"z": "s"}
    assert list(all_steps(experiments, experiments["c"])) == [PATCH, ZERO]


def test_files_that_neurons_are_selected_from():
    edits = [
        ZERO,
        {"select": {"file": "b.csv"}, "operation": "zero"},
        {"select": {"random": {"file": "a.csv"}, "seed": 0}, "operation": "zero"},
        {"operation": "subtract", "direction": "probe", "layer": 0, "scale": 1},
    ]
    assert selected_files(iter(edits)) == ["a.csv", "b.csv"]


EDITS = [
    ZERO,
    PATCH | {"shuffle_signs": 3, "positions": "all"},
    {"select": {"top": 30, "by": "reduction"}, "operation": "scale", "factor": 0.5},
    {"select": {"neurons": [[0, 1], [2, 9]]}, "operation": "scale_keys", "factor": -2},
    {"select": {"file": "neurons.csv"}, "operation": "patch", "mode": "paired"},
    {
        "select": {"groups": ["TP", "AN"], "fraction": 0.5, "ranked": "highest"},
        "operation": "rescale",
        "factor": 0.95,
    },
    {"operation": "subtract", "direction": "svd", "layer": 2, "scale": 20.0, "positions": "new"},
    {"operation": "subtract", "direction": "svd", "layer": "last", "scale": 20.0},
    {"select": {"top": "all", "by": "reduction"}, "operation": "zero"},
    {"select": {"heads": [[0, 3]]}, "operation": "zero"},
    {"select": {"heads": [[0, 3]]}, "operation": "patch", "mode": "shift"},
    {"select": {"modules": ["attention"]}, "operation": "rescale", "factor": 0.5},
    {"select": {"top": 12, "of": "heads", "by": "change"}, "operation": "patch"},
    {"select": {"top": 42, "of": "all", "by": "reduction"}, "operation": "zero"},
    {"select": {"top": 30, "of": "neurons", "by": "change"}, "operation": "zero"},
    {"select": {"random": {"top": 3, "of": "heads", "by": "change", "layers": "late"}, "seed": 1}}
    | PAIRED,
    {"select": {"modules": ["attention", "mlp"], "layers": "late"}, **PAIRED, "positions": "all"},
    {"select": {"top": 10, "layers": [1, 1]}, "operation": "zero"},
    {"select": {"heads": [[0, 3]]}, "operation": "transplant", "factor": 8},
    {"operation": "transplant", "parts": ["mlp", "embeddings"], "layers": "early"},
    {"operation": "transplant", "parts": ["queries", "keys", "mlp_output"], "layers": [0, 1]},
    {"select": {"key_values": [[0, 1]]}, "operation": "transplant"},
    {"select": {"modules": ["attention", "key_values"]}, "operation": "transplant", "factor": 2},
]


@pytest.mark.parametrize("edit", EDITS)
def test_every_selection_and_operation_is_accepted(edit):
    assert problems(on("base", edit)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "average"},
        {"positions": "prompt"},
        {"select": {"neurons": [[0, 1, 2]]}},
        {"select": {"neurons": []}},
        {"select": {"groups": ["TP"], "fraction": 1.5, "ranked": "highest"}},
        {"select": {"top": 3, "by": "norm"}},
        {"shuffle_signs": -1},
    ],
)
def test_values_that_mean_nothing_are_refused(change):
    assert problems(on("base", PATCH | change))


SEARCH = {"state": "base", "search": {"perplexity": 2}, "interventions": {"none": [], "y": [ZERO]}}


@pytest.mark.parametrize(
    ("config", "key", "said"),
    [
        (on("base", ZERO | {"mode": "mean"}), "c.interventions.x[0].mode", "not go with zero"),
        (on("base", {"operation": "zero"}), "c.interventions.x[0].select", "zero needs it"),
        (on("base", PATCH | {"factor": 2}), "c.interventions.x[0].factor", "not go with patch"),
        (on("base", {**ZERO, "operation": "rescale"}), "c.interventions.x[0].factor", "missing"),
        (
            on("base", {"operation": "subtract", "direction": "svd", "layer": 3, "scale": 1}),
            "c.interventions.x[0].layer",
            "3, but layers are counted 0 to 2",
        ),
        (
            on("base", {"operation": "subtract", "direction": "svd", "scale": 1}),
            "c.interventions.x[0].layer",
            "subtract needs it",
        ),
        (
            on("base", ZERO | {"operation": "rescale", "factor": 2, "mode": "paired"}),
            "c.interventions.x[0].mode",
            "does not go with rescale",
        ),
        (
            on("base", {"select": {"groups": ["TP"], "fraction": 0.5}, "operation": "zero"}),
            "c.interventions.x[0].select.ranked",
            "fraction needs it",
        ),
        (
            on("base", {"select": {"top": 3, "fraction": 0.5}, "operation": "zero"}),
            "c.interventions.x[0].select.fraction",
            "does not go with top",
        ),
        (
            on(
                "base",
                {"select": {"random": {"random": {"top": 3}, "seed": 1}, "seed": 1}, **ZERO}
                | {"select": {"random": {"random": {"top": 3}, "seed": 1}, "seed": 1}},
            ),
            "c.interventions.x[0].select.random",
            "random neurons cannot match random ones",
        ),
        # heads, layers and transplants
        (
            on("base", HEADS | {"operation": "scale_keys", "factor": 2}),
            "c.interventions.x[0].operation",
            "heads have no keys",
        ),
        (
            on("base", {"select": CHANGED, "operation": "scale_keys", "factor": 2}),
            "c.interventions.x[0].operation",
            "heads have no keys",
        ),
        (
            on("base", {"select": {"top": 3, "of": "heads"}, "operation": "zero"}),
            "c.interventions.x[0].select.by",
            "heads have no cosine; rank them by reduction or change",
        ),
        (
            on(
                "base",
                {"select": {"random": CHANGED | {"by": "cosine"}, "seed": 1}, "operation": "zero"},
            ),
            "c.interventions.x[0].select.random.by",
            "heads have no cosine",
        ),
        (
            on("base", {"select": CHANGED | {"activated": "positive"}, "operation": "zero"}),
            "c.interventions.x[0].select.activated",
            "a head is neither positively nor negatively activated",
        ),
        (
            on("base", {"select": {"groups": ["TP"], "of": "heads"}, "operation": "zero"}),
            "c.interventions.x[0].select.of",
            "does not go with groups",
        ),
        (
            on("base", {"select": CHANGED | {"top": 43}, "operation": "zero"}),
            "c.interventions.x[0].select.top",
            "43 units, but the model has only 42",
        ),
        (
            on(
                "base",
                {"select": CHANGED | {"of": "heads", "top": 5, "layers": [1, 1]}} | PAIRED,
            ),
            "c.interventions.x[0].select.top",
            "5 heads, but these layers have only 4",
        ),
        (
            on("base", {"select": {"heads": [[0, 4]]}, "operation": "zero"}),
            "c.interventions.x[0].select.heads[0]",
            "no head 4 in layer 0; the model has layers 0 to 2, each with heads 0 to 3",
        ),
        (
            on("base", {"select": {"heads": [[0, 1], [0, 1]]}, "operation": "zero"}),
            "c.interventions.x[0].select.heads[1]",
            "is listed twice",
        ),
        (
            on("base", {"select": {"modules": ["mlp"], "layers": [2, 3]}, "operation": "zero"}),
            "c.interventions.x[0].select.layers",
            "[2, 3] is no range of layers 0 to 2",
        ),
        (
            on("base", {"select": {"top": 11, "layers": "late"}, "operation": "zero"}),
            "c.interventions.x[0].select.top",
            "11 neurons, but these layers have only 10",
        ),
        (
            on("base", {"operation": "transplant"}),
            "c.interventions.x[0]",
            "name one of select, parts",
        ),
        (
            on("base", NORMS | {"layers": "late"}),
            "c.interventions.x[0].layers",
            "none of these parts lies in a layer",
        ),
        (
            on("base", {"select": {"key_values": [[0, 1]]}, "operation": "zero"}),
            "c.interventions.x[0].select.key_values",
            "a transplant moves their weights",
        ),
        (
            on("base", {"select": {"random": KEY_VALUES, "seed": 1}, **PAIRED}),
            "c.interventions.x[0].select.random.modules",
            "keys and values are no inputs of the output projection",
        ),
        (
            on("base", {"select": {"key_values": [[0, 1], [3, 0]]}, "operation": "transplant"}),
            "c.interventions.x[0].select.key_values[1]",
            "there is no key/value head 0 in layer 3",
        ),
        (
            on("base", NORMS | {"parts": ["attention", "queries", "keys"]}),
            "c.interventions.x[0].parts",
            "attention has queries and keys in it already",
        ),
        (
            on("base", NORMS | {"positions": "all"}),
            "c.interventions.x[0].positions",
            "leave it out",
        ),
        # measures
        (
            on("base", ZERO | PAIRED | {"mode": "identity"}),
            "c.interventions.x[0].mode",
            "identity goes with measures: [fidelity] alone",
        ),
        (
            on("base", ZERO, PATCH | {"mode": "identity"}, measures=["fidelity"]),
            "c.interventions.x",
            "identity stands alone",
        ),
        (on("base", ZERO, measures=["behaviour"]), "c.measures", "go together"),
        (study(s=SEARCH | {"measures": ["fidelity"]}), "s.measures", "a search chooses by what"),
        # margins
        (study(s=SEARCH | {"margins": ["x"]}), "s.margins", "a search is not reported"),
        (
            on("base", ZERO, measures=["behaviour", "damage"], margins="all"),
            "c.margins",
            "margins go with fidelity: add it to measures",
        ),
        (on("base", ZERO, margins=["x", "none"]), "c.margins", "none is what every other margin"),
        (on("base", ZERO, margins="x"), "c.margins", "is not valid under any of the given schemas"),
        # controls
        (on("base", ZERO, controls={"signs": 1}), "c.controls.signs", "x is no patch"),
        (
            on(
                "base",
                {"operation": "subtract", "direction": "svd", "layer": 0, "scale": 1},
                controls={"random": 1},
            ),
            "c.controls",
            "x edits no selected neurons",
        ),
        (
            on(
                "base",
                {"select": {"random": {"top": 3}, "seed": 1}, "operation": "zero"},
                controls={"random": 1},
            ),
            "c.controls",
            "x cannot have controls",
        ),
        # searches
        (
            study(s=SEARCH | {"interventions": {"y": [ZERO]}}),
            "s",
            "a search needs the baseline `none: []`",
        ),
        (study(s=SEARCH | {"controls": {"random": 1}}), "s.controls", "a search has no controls"),
        (
            study(c={"state": "base", "interventions": {"x": {"best_of": "a"}}}),
            "c.interventions.x.best_of",
            "'a' is no experiment with the key search",
        ),
        (
            study(c={"state": "base", "interventions": {"x": {"best_of": "nowhere"}}}),
            "c.interventions.x.best_of",
            "'nowhere' is no experiment",
        ),
        (
            study(s=SEARCH, c={"state": "tuned", "interventions": {"x": {"best_of": "s"}}}),
            "c.interventions.x.best_of",
            "s runs on the base model",
        ),
        (
            study(s=SEARCH, t=SEARCH | {"interventions": {"none": [], "x": {"best_of": "s"}}}),
            "t",
            "a search cannot take the best of another",
        ),
    ],
)
def test_mistakes_are_named_by_key(config, key, said):
    found = problems(config)
    assert any(line.startswith(f"experiments.{key}: ") and said in line for line in found), found


def test_heads_that_are_not_known_yet_are_left_to_the_job():
    selections = ({"heads": [[0, 99]]}, CHANGED | {"top": 99}, CHANGED | {"of": "heads", "top": 99})
    for select in selections:
        config = on("base", {"select": select, "operation": "zero"})
        assert problems(config)
        without = {key: value for key, value in MODEL.items() if key != "heads"}
        assert problems(config | {"model": without}) == []


def test_the_baseline_of_a_search_is_its_own():
    assert problems(study(s=SEARCH)) == []


def test_a_curve_needs_its_experiment():
    assert problems(study() | {"curve": "a"}) == []
    assert problems(study() | {"curve": "z"}) == [
        "curve: there is no experiment 'z'; known are a, b"
    ]


def test_margins_are_of_named_interventions_that_are_there():
    """Neither of controls nor of what a later layer has dropped."""
    one = {"state": "base", "interventions": {"none": [], "x": [PATCH], "y": [ZERO]}}
    assert margins.margins_of(one) == []
    assert margins.margins_of(one | {"margins": "all", "controls": {"random": 2}}) == ["x", "y"]
    assert margins.margins_of(one | {"margins": ["y", "gone"]}) == ["y"]
    assert not margins.wants_margins(study(c=one))
    assert margins.wants_margins(study(c=one | {"margins": ["y"]}))
    assert problems(on("base", ZERO, margins=["x"])) == []


def test_margins_of_what_no_layer_has_are_named():
    named = {"experiments": {"c": {"interventions": {"x": [ZERO]}, "margins": ["x", "xx"]}}}
    dropped = {"experiments": {"c": {"interventions": {"x": None}}, "d": None}}
    said = "experiments.c.margins[1]: there is no intervention 'xx'; did you mean 'x'?"
    assert list(margins.unknown_names([named, dropped])) == [said]
    later = {"experiments": {"c": {"margins": ["x"]}}}
    assert list(margins.unknown_names([named, dropped, later])) == []
