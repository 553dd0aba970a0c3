"""Draw what an experiment's interventions do over the number of neurons that they edit: above, in a
panel for each scorer, how much of the tuning's effect they reproduce; below, the perplexity that it
costs."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from neurondynamics.figures import effect_plots, style
from neurondynamics.study.behaviour import Behaviour

PANEL = 1.9  # inches that every scorer after the first adds to the height


def figure_cumulative_effect(
    table: pd.DataFrame, experiment: str, behaviour: Behaviour, model: str, tuned: str
) -> Figure:
    """Return effect share and perplexity of an experiment's interventions, by number of neurons.

    The draws that control them, if any, stand beside the line as small points.
    """
    here = table[(table["experiment"] == experiment) & (table["intervention"] != "none")]
    scorers = dict(effect_plots.by_scorer(here))
    figure, (*effects, perplexity) = style.new_figure(
        "Effect and perplexity over the neurons edited",
        model,
        tuned,
        rows=len(scorers) + 1,
        height=5.4 + PANEL * (len(scorers) - 1),
    )
    models = effect_plots.mark_models(effects, perplexity, table, upright=False)
    for ax, (scorer, judged) in zip(effects, scorers.items(), strict=True):
        drawn = judged["control_of"] != ""
        draws, edited = judged[drawn], judged[~drawn].sort_values("neurons")
        limits = effect_plots.effect_limits(judged)
        low, high = effect_plots.effect_interval(edited)
        ax.fill_between(edited["neurons"], low, high, color="C0", alpha=0.2, linewidth=0)
        draw_curve(ax, "effect_share", edited, draws)
        ax.set_ylim(limits)
        ax.set_ylabel("share of the\ntuning's effect")
        effect_plots.explain_absence(ax, edited, behaviour)
        effect_plots.name_scorer(ax, scorer, first=ax is effects[0])
    # the perplexity is the same by every scorer
    handles = draw_curve(perplexity, "perplexity", edited, draws)
    perplexities = [*here["perplexity"], *effect_plots.unedited(table)]
    style.scale_logarithmically(perplexity.yaxis, perplexities)
    style.scale_logarithmically(perplexity.xaxis, edited["neurons"])
    perplexity.set_ylabel("perplexity\n(logarithmic scale)")
    perplexity.set_xlabel("neurons edited (logarithmic scale)")
    handles += [*models, *effect_plots.legend_of_controls(draws["control"])]
    style.legend_below(figure, handles, columns=3)
    return figure


def draw_curve(ax: Axes, column: str, edited: pd.DataFrame, draws: pd.DataFrame) -> list[Line2D]:
    """Draw the interventions as one line and their draws as points; return the line."""
    for kind, rows in draws.groupby("control"):
        effect_plots.mark_controls(ax, kind, rows["neurons"], rows[column])
    look = {"color": "C0", "marker": "o", "markersize": 4.5, "linewidth": 1.4}
    return ax.plot(edited["neurons"], edited[column], label="edited base model", **look)


def draw_cumulative_effect(
    interventions: str,
    svg: str,
    png: str,
    experiment: str,
    behaviour: Behaviour,
    model: str,
    tuned: str,
) -> None:
    """Read the table of interventions and save the figure.

    Raises ValueError where the experiment has no intervention in it but its baseline.
    """
    table = effect_plots.read_interventions(interventions)
    if table.query("experiment == @experiment and intervention != 'none'").empty:
        raise ValueError(f"{interventions}: no intervention of the experiment {experiment}")
    figure = figure_cumulative_effect(table, experiment, behaviour, model, tuned)
    style.save_figure(figure, svg, png)


if __name__ == "__main__":
    draw_cumulative_effect(
        interventions=snakemake.input.interventions,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        experiment=snakemake.params.experiment,
        behaviour=Behaviour(**snakemake.params.behaviour),
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
