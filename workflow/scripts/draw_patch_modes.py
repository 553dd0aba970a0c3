"""Draw every controlled intervention beside its controls: draws of random neurons, and draws in
which the direction of the move is shuffled. Left, how much of the tuning's effect each reproduces;
right, the perplexity that it costs."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from neurondynamics import effect_plots, plotting

POINT = {"color": "C0", "marker": "D", "markersize": 5, "markeredgecolor": plotting.DARK}
OFFSETS = {"random": 0.22, "signs": -0.22}  # of the draws from the row of their intervention


def figure_patch_modes(table: pd.DataFrame, model: str, tuned: str) -> Figure:
    """Return a row for each controlled intervention, in the order of the table, first on top."""
    draws = table.dropna(subset="control_of")
    controlled = ["experiment", "control_of"]
    rows = draws[controlled].drop_duplicates().set_axis(["experiment", "intervention"], axis=1)
    rows = table.merge(rows)
    rows["place"] = -np.arange(len(rows))
    places = rows[["experiment", "intervention", "place"]]
    draws = draws.merge(places.set_axis([*controlled, "place"], axis=1))
    figure, (effect, perplexity) = plotting.new_figure(
        "Interventions and their controls",
        model,
        tuned,
        height=2.2 + 0.3 * len(rows),
        columns=2,
    )
    models = effect_plots.mark_models(effect, perplexity, table, upright=True)
    drawn = pd.concat([rows, draws])
    limits = effect_plots.effect_limits(drawn)
    interval = effect_plots.effect_interval(rows, limits)
    effect.hlines(rows["place"], *interval, color="C0", linewidth=1.4)
    for ax, column in ((effect, "effect_share"), (perplexity, "perplexity")):
        for kind, some in draws.groupby("control"):
            effect_plots.mark_controls(ax, kind, some[column], some["place"] + OFFSETS[kind])
        ax.plot(rows[column], rows["place"], linestyle="none", zorder=3, **POINT)
    effect.set_xlim(limits)
    effect_plots.explain_absence(effect, rows)
    perplexities = [*drawn["perplexity"], *effect_plots.unedited(table)]
    plotting.scale_logarithmically(perplexity.xaxis, perplexities)
    repeated = rows["intervention"].duplicated(keep=False)
    names = rows["intervention"].where(~repeated, rows["experiment"] + ": " + rows["intervention"])
    effect.set_yticks(rows["place"], [plotting.name_of_intervention(name) for name in names])
    effect.set_ylim(-len(rows) + 0.4, 0.6)
    effect.set_xlabel("share of the\ntuning's effect")
    perplexity.set_xlabel("perplexity\n(logarithmic scale)")
    handles = [Line2D([], [], label="intervention", linewidth=1.4, **POINT)]
    handles += [*effect_plots.legend_of_controls(draws["control"]), *models]
    plotting.legend_below(figure, handles, columns=3)
    return figure


def draw_patch_modes(interventions: str, svg: str, png: str, model: str, tuned: str) -> None:
    """Read the table of interventions and save the figure; ValueError if none is controlled."""
    table = effect_plots.read_interventions(interventions)
    if table["control_of"].isna().all():
        raise ValueError(f"{interventions}: no intervention has controls")
    plotting.save_figure(figure_patch_modes(table, model, tuned), svg, png)


if __name__ == "__main__":
    draw_patch_modes(
        interventions=snakemake.input.interventions,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
