"""What an intervention can name, neurons and attention heads, and what it has named of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from neurondynamics.data.tables import read_parquet
from neurondynamics.limits import OF_GRADIENTS
from neurondynamics.lm.anatomy import Anatomy

KEY_VALUES = "key_values"  # keys and values that one head or several share
COLUMNS = {"mlp": "neuron", "attention": "head", KEY_VALUES: "key_value"}  # of their tables
NAMES = {"mlp": "neuron", "attention": "head", KEY_VALUES: "key/value head"}


@dataclass(frozen=True)
class Units:
    """The neurons and heads of a study, or those of them that a selection chose.

    What needs no heads goes without their table. `inputs_base` and `inputs_tuned` are the means,
    over the new-token positions of the analysis prompts, of what the output projections read in
    the base and in the tuned model. `edited` is the model that is edited, `base` or `tuned`; a
    patch moves it toward the other one.
    """

    neurons: pd.DataFrame  # columns layer, neuron and others
    heads: pd.DataFrame | None = None  # columns layer, head and others
    head_width: int | None = None
    inputs_base: np.ndarray | None = None  # (layers, heads · head_width)
    inputs_tuned: np.ndarray | None = None
    edited: str = "base"
    sizes: tuple[int, int, int] | None = None  # layers, and neurons and heads of each
    key_values: pd.DataFrame | None = None  # columns layer, key_value; a transplant's alone

    @classmethod
    def of(
        cls,
        anatomy: Anatomy,
        neurons: pd.DataFrame,
        heads: pd.DataFrame,
        edited: str,
        measured: pd.DataFrame | None = None,
    ) -> Units:
        """Return all units of a model, from the tables that the attribution wrote of them, and that
        of what was `measured` of each, if there is one.

        Raises ValueError if the table of heads is of another number or width of heads.
        """
        layer = anatomy.layers[0]
        sizes = len(anatomy.layers), layer.n_neurons, layer.heads
        places = [*np.ndindex(sizes[0], layer.heads)]
        if list(heads[["layer", "head"]].itertuples(index=False, name=None)) != places:
            raise ValueError(
                f"the table of heads is not that of {sizes[0]} layers with {sizes[2]} heads each"
            )
        inputs = (np.stack(heads[f"inputs_{model}"]) for model in ("base", "tuned"))
        base, tuned = (means.reshape(sizes[0], layer.heads * layer.head_width) for means in inputs)
        shared = np.ndindex(sizes[0], layer.groups)
        key_values = pd.DataFrame(shared, columns=["layer", "key_value"])
        if measured is not None:
            tables = zip(COLUMNS, (neurons, heads, key_values), strict=True)
            neurons, heads, key_values = (_with_measured(*one, measured) for one in tables)
        return cls(neurons, heads, layer.head_width, base, tuned, edited, sizes, key_values)

    @classmethod
    def read(
        cls,
        anatomy: Anatomy,
        neurons: str | Path,
        heads: str | Path,
        weights: str,
        edited: str,
        measured: str | Path | None = None,
    ) -> Units:
        """Return the same from the files of the tables, which should be about a model with the
        digest `weights`. Raises ValueError, naming the file, if one is not."""
        tables = (read_parquet(path, weights=weights) for path in (neurons, heads))
        units = None if measured is None else read_parquet(measured, weights=weights)
        return cls.of(anatomy, *tables, edited, units)

    @property
    def other(self) -> str:
        """The model that a patch moves the edited one toward."""
        return "tuned" if self.edited == "base" else "base"

    def table(self, module: str) -> pd.DataFrame:
        """Return the table of a module's units. Raises ValueError if there is none."""
        tables = {"mlp": self.neurons, "attention": self.heads, KEY_VALUES: self.key_values}
        if tables[module] is None:
            raise ValueError("there is no table of attention heads; attribute heads first")
        return tables[module]

    def named(self) -> Iterator[Named]:
        """Yield the units of each module that has any.

        Raises ValueError if key/value heads are among them, which write nothing themselves.
        """
        if self.key_values is not None and len(self.key_values):
            raise ValueError(
                f"{KEY_VALUES}: keys and values are no inputs of the output projection; only a "
                "transplant moves their weights"
            )
        if len(self.neurons):
            layers, inputs = self.neurons.layer.to_numpy(), self.neurons.neuron.to_numpy()
            yield Named("mlp", layers, inputs, 1, self)
        if self.heads is not None and len(self.heads):
            width = self.head_width
            first = self.heads["head"].to_numpy() * width  # head is a method of tables
            inputs = (first[:, None] + np.arange(width)).ravel()
            layers = np.repeat(self.heads.layer.to_numpy(), width)
            yield Named("attention", layers, inputs, width, self)


@dataclass(frozen=True)
class Named:
    """Chosen units of one module, as inputs of the projection that they write by."""

    module: str
    layers: np.ndarray  # (n,)
    inputs: np.ndarray  # (n,)
    unit_width: int  # inputs of one unit
    units: Units

    def __len__(self) -> int:
        """Return how many units these are."""
        return len(self.inputs) // self.unit_width

    def mean(self, model: str) -> np.ndarray:
        """Return the inputs' means in the `base` or the `tuned` model, (n,).

        Raises ValueError if they have not been measured.
        """
        if self.module == "mlp":
            return self.units.neurons[f"activation_{model}"].to_numpy()
        means = {"base": self.units.inputs_base, "tuned": self.units.inputs_tuned}[model]
        if means is None:
            raise ValueError(f"what heads read in the {model} model has not been captured")
        return means[self.layers, self.inputs]


def _with_measured(module: str, table: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Return a table of a module's units with what was measured of each, in its order."""
    column = COLUMNS[module]
    here = measured[measured["module"] == module].rename(columns={"unit": column})
    kept = ["layer", column, "parameters", *OF_GRADIENTS]
    return table.merge(here[kept], "left", ["layer", column], validate="one_to_one")
