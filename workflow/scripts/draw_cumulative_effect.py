"""Draw what an experiment's interventions do over the number of neurons that they edit: above, how
much of the tuning's effect they reproduce; below, the perplexity that it costs."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import pandas as pd
from matplotlib.figure import Figure
from neurondynamics import effect_plots, plotting


def figure_cumulative_effect(
    table: pd.DataFrame, experiment: str, model: str, tuned: str
) -> Figure:
    """Return effect share and perplexity of an experiment's interventions, by number of neurons.

    The draws that control them, if any, stand beside the line as small points.
    """
    figure, (upper, lower) = plotting.new_figure(
        "Effect and perplexity over the neurons edited", model, tuned, rows=2, height=5.2
    )
    here = table[(table["experiment"] == experiment) & (table["intervention"] != "none")]
    draws = here.dropna(subset="control_of")
    edited = here[here["control_of"].isna()].sort_values("neurons")
    models = effect_plots.mark_models(upper, lower, table, upright=False)
    limits = effect_plots.effect_limits(here)
    low, high = effect_plots.effect_interval(edited, limits)
    upper.fill_between(edited["neurons"], low, high, color="C0", alpha=0.2, linewidth=0)
    for ax, column in ((upper, "effect_share"), (lower, "perplexity")):
        for kind, rows in draws.groupby("control"):
            effect_plots.mark_controls(ax, kind, rows["neurons"], rows[column])
        look = {"color": "C0", "marker": "o", "markersize": 4.5, "linewidth": 1.4}
        handles = ax.plot(edited["neurons"], edited[column], label="edited base model", **look)
    upper.set_ylim(limits)
    effect_plots.explain_absence(upper, edited)
    perplexities = [*here["perplexity"], *effect_plots.unedited(table)]
    plotting.scale_logarithmically(lower.yaxis, perplexities)
    plotting.scale_logarithmically(lower.xaxis, edited["neurons"])
    upper.set_ylabel("share of the\ntuning's effect")
    lower.set_ylabel("perplexity\n(logarithmic scale)")
    lower.set_xlabel("neurons edited (logarithmic scale)")
    handles += [*models, *effect_plots.legend_of_controls(draws["control"])]
    plotting.legend_below(figure, handles, columns=3)
    return figure


def draw_cumulative_effect(
    interventions: str, svg: str, png: str, experiment: str, model: str, tuned: str
) -> None:
    """Read the table of interventions and save the figure.

    Raises ValueError where the experiment has no intervention in it but its baseline.
    """
    table = effect_plots.read_interventions(interventions)
    if table.query("experiment == @experiment and intervention != 'none'").empty:
        raise ValueError(f"{interventions}: no intervention of the experiment {experiment}")
    figure = figure_cumulative_effect(table, experiment, model, tuned)
    plotting.save_figure(figure, svg, png)


if __name__ == "__main__":
    draw_cumulative_effect(
        interventions=snakemake.input.interventions,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        experiment=snakemake.params.experiment,
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
