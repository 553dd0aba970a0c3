"""Draw every controlled intervention beside its controls: draws of random neurons, and draws in
which the direction of the move is shuffled. A panel for each scorer shows how much of the tuning's
effect each reproduces; the last one shows the perplexity that it costs."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from neurondynamics.figures import effect_plots, style
from neurondynamics.study.behaviour import Behaviour

POINT = {"color": "C0", "marker": "D", "markersize": 5, "markeredgecolor": style.DARK}
OFFSETS = {"random": 0.22, "signs": -0.22}  # of the draws from the row of their intervention
PANEL = 1.6  # inches that every scorer after the first adds to the width


def figure_patch_modes(table: pd.DataFrame, behaviour: Behaviour, model: str, tuned: str) -> Figure:
    """Return a row for each controlled intervention, in the order of the table, first on top."""
    scorers = dict(effect_plots.by_scorer(table))
    places = places_of_controlled(table)
    figure, (*effects, perplexity) = style.new_figure(
        "Interventions and their controls",
        model,
        tuned,
        height=2.4 + 0.3 * len(places),
        columns=len(scorers) + 1,
        width=5.5 + PANEL * (len(scorers) - 1),
    )
    models = effect_plots.mark_models(effects, [perplexity], table, upright=True)
    for ax, (scorer, judged) in zip(effects, scorers.items(), strict=True):
        rows, draws = placed(judged, places)
        drawn = pd.concat([rows, draws])
        limits = effect_plots.effect_limits(drawn)
        interval = effect_plots.effect_interval(rows)
        ax.hlines(rows["place"], *interval, color="C0", linewidth=1.4)
        draw_points(ax, "effect_share", rows, draws)
        ax.set_xlim(limits)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
        ax.set_xlabel("share of the\ntuning's effect")
        effect_plots.explain_absence(ax, rows, behaviour)
        effect_plots.name_scorer(ax, scorer, first=ax is effects[0])
    # the perplexity is the same by every scorer
    draw_points(perplexity, "perplexity", rows, draws)
    perplexities = [*drawn["perplexity"], *effect_plots.unedited(table)]
    style.scale_logarithmically(perplexity.xaxis, perplexities)
    perplexity.set_xlabel("perplexity\n(logarithmic scale)")
    effects[0].set_yticks(places["place"], names_of(places))
    effects[0].set_ylim(-len(places) + 0.4, 0.6)
    handles = [Line2D([], [], label="intervention", linewidth=1.4, **POINT)]
    handles += [*effect_plots.legend_of_controls(draws["control"]), *models]
    style.legend_below(figure, handles, columns=3)
    return figure


def places_of_controlled(table: pd.DataFrame) -> pd.DataFrame:
    """Return the controlled interventions, `experiment intervention place`, from 0 downward."""
    draws = table[table["control_of"] != ""]
    controlled = draws[["experiment", "control_of"]].drop_duplicates()
    controlled = controlled.set_axis(["experiment", "intervention"], axis=1)
    places = table[["experiment", "intervention"]].drop_duplicates().merge(controlled)
    return places.assign(place=-np.arange(len(places)))


def placed(judged: pd.DataFrame, places: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the controlled interventions and their draws as one scorer judges them, with places.

    `judged`: that scorer's rows of the table.
    """
    of_draws = places.rename(columns={"intervention": "control_of"})
    return judged.merge(places), judged[judged["control_of"] != ""].merge(of_draws)


def names_of(places: pd.DataFrame) -> list[str]:
    """Return the names of the rows; where two experiments share one, the experiment's before it."""
    repeated = places["intervention"].duplicated(keep=False)
    long = places["experiment"] + ": " + places["intervention"]
    names = places["intervention"].where(~repeated, long)
    return [style.name_of_intervention(name) for name in names]


def draw_points(ax: Axes, column: str, rows: pd.DataFrame, draws: pd.DataFrame) -> None:
    """Draw the interventions, and below and above them the draws of their controls."""
    for kind, some in draws.groupby("control"):
        effect_plots.mark_controls(ax, kind, some[column], some["place"] + OFFSETS[kind])
    ax.plot(rows[column], rows["place"], linestyle="none", zorder=3, **POINT)


def draw_patch_modes(
    interventions: str, svg: str, png: str, behaviour: Behaviour, model: str, tuned: str
) -> None:
    """Read the table of interventions and save the figure; ValueError if none is controlled."""
    table = effect_plots.read_interventions(interventions)
    table = table[table["perplexity"].notna()]  # what is read alone stands in another figure
    if (table["control_of"] == "").all():
        raise ValueError(f"{interventions}: no intervention has controls")
    style.save_figure(figure_patch_modes(table, behaviour, model, tuned), svg, png)


if __name__ == "__main__":
    draw_patch_modes(
        interventions=snakemake.input.interventions,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        behaviour=Behaviour(**snakemake.params.behaviour),
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
