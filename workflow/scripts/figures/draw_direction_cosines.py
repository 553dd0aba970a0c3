"""Draw how far directions point the same way: the cosine of each with each other one."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from neurondynamics.figures import style
from neurondynamics.study.behaviour import Behaviour

CELL = 0.55  # inches


def figure_direction_cosines(cosines: pd.DataFrame, behaviour: Behaviour, model: str) -> Figure:
    """Return the lower triangle of a matrix of cosines, whose rows and columns are directions."""
    title = f"Cosines of the directions of {behaviour.name}"
    side = CELL * len(cosines)
    size = {"height": max(3.0, 1.6 + side), "width": max(5.5, 2.7 + side)}
    rounded = cosines.round(2) + 0.0  # no minus before zero
    figure, (ax,) = style.new_figure(title, model, None, **size)
    sns.heatmap(
        cosines,
        ax=ax,
        mask=np.triu(np.ones(cosines.shape, dtype=bool), k=1),
        vmin=-1,
        vmax=1,
        cmap="vlag",
        annot=rounded.map(lambda cosine: style.with_minus(f"{cosine:.2f}")),
        fmt="",
        annot_kws={"fontsize": 9},
        linewidths=0.5,
        cbar_kws={"label": "cosine"},
    )
    ax.grid(visible=False)
    ax.set(xlabel="", ylabel="")
    ax.set_xticklabels(cosines.columns, rotation=45, horizontalalignment="right")
    ax.set_yticklabels(cosines.index, rotation=0)
    return figure


def draw_direction_cosines(
    table: str, svg: str, png: str, model: str, behaviour: dict[str, str]
) -> None:
    """Read the table of directions and save the figure."""
    names = style.read_table(table, ["direction"]).direction.tolist()
    rows = style.read_table(table, [f"cosine_{name}" for name in names])
    cosines = pd.DataFrame(rows.to_numpy(), index=names, columns=names)
    style.save_figure(figure_direction_cosines(cosines, Behaviour(**behaviour), model), svg, png)


if __name__ == "__main__":
    draw_direction_cosines(
        table=snakemake.input.table,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        model=snakemake.params.model,
        behaviour=snakemake.params.behaviour,
    )
