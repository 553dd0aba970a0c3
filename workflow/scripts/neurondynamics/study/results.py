"""The tables and figures of a study: a row for each, of which the rules, the report and the targets
are made.

A figure takes, beside its row here, a script `figures/draw_NAME.py` and a caption
`report/NAME.rst`; a table a rule and a caption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from neurondynamics.study import wanted
from neurondynamics.study.attribution import Attribution
from neurondynamics.study.tuning import Tuning

COMPARISON, OF_BASE = "{model}/{tuned}", "{model}/base"
KINDS = ("svg", "png")  # of a figure: the first is in the report


@dataclass(frozen=True)
class Table:
    """A table: its name, how the report calls it (not there, if None), when it is wanted (`when`,
    of configuration and version), and whether it is of a `place` other than a comparison."""

    name: str
    label: str | None
    when: Callable[[dict, dict], bool] = wanted.always
    place: str = COMPARISON
    caption: str = ""  # the name of its file, where it is not that of the table

    @property
    def path(self) -> str:
        """Its file, with wildcards."""
        return f"results/{self.place}/tables/{self.name}.csv"

    @property
    def paths(self) -> list[str]:
        """Its one file, with wildcards."""
        return [self.path]

    @property
    def in_report(self) -> dict:
        """How the report shows it: the keywords of `report`, for a file of rules."""
        if self.label is None:
            raise ValueError(f"{self.name}: a table without a label is not in the report")
        return _in_report("table", self, self.label)


def setting(key: str) -> Callable[[dict, Any], Any]:
    """Return the function that takes a key's value from a configuration; None where it lacks."""

    def take(config: dict, wildcards) -> Any:
        for part in key.split("/"):
            config = config.get(part, {})
        return config or None

    return take


def _recipe(config: dict, wildcards) -> dict:
    return Tuning(config).recipe(wildcards)


def _seeds(config: dict, wildcards) -> list[int]:
    return Attribution(config).seeds(wildcards)


@dataclass(frozen=True)
class Figure:
    """A figure: its name, how the report calls it, the files that it `reads`, by the names of its
    script's inputs and relative to its place, and `params` beside the names of the models.

    Its number in the paper, if it has one, stands before its label.
    """

    name: str
    label: str
    reads: Mapping[str, str]
    params: Mapping[str, Callable[[dict, Any], Any]] = field(default_factory=dict)
    when: Callable[[dict, dict], bool] = wanted.always
    place: str = COMPARISON
    paper: str = ""
    caption: str = ""

    @property
    def rule(self) -> str:
        """The name of its rule."""
        return f"draw_{self.name}"

    @property
    def script(self) -> str:
        """Its script in the folder of scripts, without the ending."""
        return f"figures/{self.rule}"

    @property
    def inputs(self) -> dict[str, str]:
        """The files that it is drawn from, with wildcards."""
        return {name: f"results/{self.place}/{path}" for name, path in self.reads.items()}

    @property
    def paths(self) -> list[str]:
        """Its files, with wildcards."""
        return [self.path(kind) for kind in KINDS]

    def path(self, kind: str) -> str:
        """Its file of a kind, with wildcards."""
        return f"results/{self.place}/figures/{self.name}.{kind}"

    def beside(self, folder: str, ending: str) -> str:
        """Its log or benchmark, with wildcards."""
        return f"{folder}/{self.place}/figures/{self.name}.{ending}"

    def settings(self, config: dict) -> dict[str, Any]:
        """The params of its rule: names of the models, and functions of the wildcards."""
        names = {"model": "{model}"}
        if self.place == COMPARISON:
            names["tuned"] = "{tuned}"
        return names | {name: _of_wildcards(take, config) for name, take in self.params.items()}

    @property
    def in_report(self) -> dict:
        """How the report shows it: the keywords of `report`, for a file of rules."""
        label = f"{self.paper}: {self.label}" if self.paper else self.label
        return _in_report("figure", self, label)


def _of_wildcards(take: Callable[[dict, Any], Any], config: dict) -> Callable[[Any], Any]:
    def taken(wildcards) -> Any:
        return take(config, wildcards)

    return taken


def _in_report(kind: str, result: Table | Figure, label: str) -> dict:
    tuned = "{tuned}" if result.place == COMPARISON else ""
    return {
        "caption": f"../report/{result.caption or result.name}.rst",
        "category": f"{kind.capitalize()}s",
        "labels": {kind: label, "model": "{model}", "tuned": tuned},
    }


TABLES = (
    Table("groups", "groups of neurons"),
    Table("layers", None),
    Table("interventions", "interventions next to tuning"),
    Table("claims", "claims: the paper's, and ours"),
    Table("power", "prompts that claims need"),
    Table("nulls", "claims where there is nothing to find"),
    Table("decoded_neurons", "tokens of value vectors"),
    Table("controls", "interventions next to their controls"),
    Table("categories", "interventions by category of prompt"),
    Table("group_categories", "groups by category of prompt"),
    Table("sources", "sources of the reduction"),
    Table("weights", "changes of the weights"),
    Table("residual_shift", "shift of the residual stream", caption="residual_shift_table"),
    Table("account", "account of the tuning", caption="account_table"),
    Table("rankings", "rankings of units", wanted.has_rankings, caption="rankings_table"),
    Table("ranking_curves", "effect over the units moved", wanted.has_rankings),
    Table("scorers", "agreement of the scorers"),
    Table("published", "published numbers", wanted.has_published),
    Table("direction_groups", "groups by direction", wanted.has_directions),
    Table("seeds", "groups by tuning seed", wanted.seeded),
    Table("seed_overlap", "agreement of tuning seeds", wanted.seeded),
    Table("directions", "directions", place=OF_BASE),
)

NEURONS, GROUPS = {"neurons": "neurons.parquet"}, {"groups": "tables/groups.csv"}
INTERVENTIONS = {"interventions": "tables/interventions.csv"}
RANKED = {"curves": "tables/ranking_curves.csv"}
BEHAVIOUR = {"behaviour": setting("behaviour")}
FIGURES = (
    Figure(
        "layer_projection",
        "MLP output by layer",
        {"layers": "tables/layers.csv"},
        BEHAVIOUR | {"ablated": setting("attribution/ablated")},
        paper="1a",
    ),
    Figure("cumulative_reduction", "reduction over ranked neurons", NEURONS, paper="1b"),
    Figure("group_shares", "shares of the groups", GROUPS, BEHAVIOUR, paper="2a"),
    Figure("group_stack", "groups among ranked neurons", NEURONS, paper="2b"),
    Figure("neuron_shifts", "shifts of single neurons", NEURONS, BEHAVIOUR, paper="2c"),
    Figure("layer_groups", "reduction by layer and group", NEURONS, paper="3"),
    Figure("top_activations", "activations of top neurons", NEURONS, BEHAVIOUR, paper="4"),
    Figure(
        "residual_shift",
        "shift of the residual stream",
        {"shifts": "tables/residual_shift.csv"},
    ),
    Figure("account", "account of the tuning", {"account": "tables/account.csv"}),
    Figure("rankings", "rankings of units", RANKED, when=wanted.has_rankings),
    Figure("reduction_sources", "sources of the reduction", {"sources": "tables/sources.csv"}),
    Figure(
        "cumulative_effect",
        "effect over the neurons edited",
        INTERVENTIONS,
        BEHAVIOUR | {"experiment": setting("curve")},
        when=wanted.has_curve,
    ),
    Figure("fidelity", "nearness to the other model", INTERVENTIONS, when=wanted.has_fidelity),
    Figure("tradeoff", "behaviour against damage", INTERVENTIONS, BEHAVIOUR, when=wanted.has_edits),
    Figure(
        "patch_modes",
        "interventions and their controls",
        INTERVENTIONS,
        BEHAVIOUR,
        when=wanted.has_controls,
    ),
    Figure(
        "scorer_effects",
        "effects by different scorers",
        INTERVENTIONS | {"scorers": "tables/scorers.csv"},
        BEHAVIOUR,
        when=wanted.has_scorers,
    ),
    Figure(
        "learning_curve",
        "learning curve of the tuning",
        {"curve": "tuning.csv"},
        {"version": _recipe},
        when=wanted.was_tuned_here,
    ),
    Figure(
        "seed_shares",
        "shares of the groups by tuning seed",
        {"shares": "tables/seeds.csv"},
        {"seeds": _seeds},
        when=wanted.seeded,
    ),
    Figure(
        "direction_cosines",
        "cosines of the directions",
        {"table": "tables/directions.csv"},
        BEHAVIOUR,
        place=OF_BASE,
    ),
)


def table(name: str) -> Table:
    """Return the row of a table."""
    (found,) = (row for row in TABLES if row.name == name)
    return found


def targets(config: dict) -> Iterator[str]:
    """Yield every file that a study is run for: tables and figures of each tuned version.

    Replicas have none of their own; a version that has replicas has those that compare them.
    """
    model = config["model"]["name"]
    for row in (*TABLES, *FIGURES):
        if row.place == OF_BASE:
            yield from (path.format(model=model) for path in row.paths)
            continue
        for name, version in config["tuned"].items():
            if "replica_of" not in version and row.when(config, version):
                yield from (path.format(model=model, tuned=name) for path in row.paths)
