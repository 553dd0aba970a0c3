"""Draw what an experiment's interventions do over the number of neurons that they edit: how near
they come to the other model; in a panel for each scorer, how much of the tuning's effect they
reproduce; and the perplexity that it costs. What is not measured has no panel."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from neurondynamics.figures import effect_plots, style
from neurondynamics.study.behaviour import Behaviour

PANEL = 1.9  # inches of height that every panel adds
LABELS = {
    "kl_share": "share of the\ndivergence removed",
    "effect_share": "share of the\ntuning's effect",
}


def figure_cumulative_effect(
    table: pd.DataFrame, experiment: str, behaviour: Behaviour, model: str, tuned: str
) -> Figure:
    """Return an experiment's interventions by number of neurons: how near they come to the other
    model, and their effect shares and perplexity, whichever is measured.

    The draws that control them, if any, stand beside the line as small points.
    """
    here = table[(table["experiment"] == experiment) & (table["intervention"] != "none")]
    scorers = dict(effect_plots.by_scorer(here))
    panels = [("kl_share", None)] if here["n_read"].notna().any() else []
    written = here["perplexity"].notna().any()
    panels += [("effect_share", scorer) for scorer in scorers if written]
    panels += [("perplexity", None)] if written else []
    figure, axes = style.new_figure(
        "Effect over the neurons edited",
        model,
        tuned,
        rows=len(panels),
        height=1.6 + PANEL * len(panels),
    )
    shares = axes[:-1] if written else axes
    models = effect_plots.mark_models(shares, axes[-1:] if written else (), table, upright=False)
    for ax, (column, scorer) in zip(axes, panels, strict=True):
        rows = scorers[scorer or next(iter(scorers))]
        drawn = rows["control_of"] != ""
        draws, edited = rows[drawn], rows[~drawn].sort_values("neurons")
        curve = draw_curve(ax, column, edited, draws)
        if column == "perplexity":
            perplexities = [*here["perplexity"], *effect_plots.unedited(table)]
            style.scale_logarithmically(ax.yaxis, perplexities)
            ax.set_ylabel("perplexity\n(logarithmic scale)")
        else:
            draw_shares(ax, column, edited, rows)
        if column == "effect_share":
            effect_plots.explain_absence(ax, edited, behaviour)
            effect_plots.name_scorer(ax, scorer, first=scorer == next(iter(scorers)))
    style.scale_logarithmically(axes[-1].xaxis, edited["neurons"])
    axes[-1].set_xlabel("neurons edited (logarithmic scale)")
    handles = [*curve, *models, *effect_plots.legend_of_controls(draws["control"])]
    style.legend_below(figure, handles, columns=3)
    return figure


def draw_shares(ax: Axes, column: str, edited: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Draw the intervals of a share, and let its axis hold both unedited models."""
    low, high = edited[f"{column}_low"], edited[f"{column}_high"]
    ax.fill_between(edited["neurons"], low, high, color="C0", alpha=0.2, linewidth=0)
    ax.set_ylim(effect_plots.effect_limits(rows, column))
    ax.set_ylabel(LABELS[column])


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
