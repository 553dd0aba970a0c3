"""Draw figure 1a of the paper: what each layer's MLP writes along the direction, for the base
model, the base model with the neurons most along it ablated, and the tuned model. Refuses a table
that lacks one of the three states."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import textwrap

import pandas as pd
from matplotlib.figure import Figure
from neurondynamics.figures import style
from neurondynamics.study.behaviour import Behaviour

COLUMNS = ["state", "layer", "projection", "projection_low", "projection_high"]
LOOKS = {
    "base": {"color": "C0", "linestyle": "-", "marker": "o", "markerfacecolor": "C0"},
    "base-ablated": {"color": "C1", "linestyle": "--", "marker": "s", "markerfacecolor": "white"},
    "tuned": {"color": "C3", "linestyle": "-.", "marker": "^", "markerfacecolor": "C3"},
}


def figure_layer_projection(
    layers: pd.DataFrame, ablated: int, behaviour: Behaviour, model: str, tuned: str
) -> Figure:
    """Return one line with its interval for each state, over the layers."""
    figure, (ax,) = style.new_figure(
        f"MLP output along the {behaviour.name} direction, by layer", model, tuned
    )
    style.mark_zero(ax)
    labels = {
        "base": "base model",
        "base-ablated": f"base model, top {ablated:,} {behaviour.adjective} neurons ablated",
        "tuned": "tuned model",
    }
    handles = []
    for state, look in LOOKS.items():
        rows = layers[layers["state"] == state].sort_values("layer")
        ax.fill_between(
            rows["layer"],
            rows["projection_low"],
            rows["projection_high"],
            color=look["color"],
            alpha=0.2,
            linewidth=0,
        )
        handles += ax.plot(
            rows["layer"],
            rows["projection"],
            label=labels[state],
            linewidth=1.4,
            markersize=4.5,
            **look,
        )
    style.count_along(ax, layers["layer"].min(), layers["layer"].max(), "layer")
    label = textwrap.fill(f"projection on the {behaviour.name} direction", 20)
    ax.set_ylabel(f"{label}\n({style.UNITS})")
    style.legend_below(figure, handles, columns=1)
    return figure


def draw_layer_projection(
    layers: str,
    svg: str,
    png: str,
    ablated: int,
    behaviour: Behaviour,
    model: str,
    tuned: str,
) -> None:
    """Read the table of layers and save the figure; ValueError if a state is missing."""
    table = style.read_table(layers, COLUMNS)
    missing = set(LOOKS) - set(table["state"])
    if missing:
        raise ValueError(f"{layers}: no rows of the state {', '.join(sorted(missing))}")
    figure = figure_layer_projection(table, ablated, behaviour, model, tuned)
    style.save_figure(figure, svg, png)


if __name__ == "__main__":
    draw_layer_projection(
        layers=snakemake.input.layers,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        ablated=snakemake.params.ablated,
        behaviour=Behaviour(**snakemake.params.behaviour),
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
