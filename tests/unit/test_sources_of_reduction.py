"""The table of where the reduction comes from, by hand, and the file that it is read from."""

import h5py
import numpy as np
import pandas as pd
import pytest
from damage import count_detected
from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.analysis.reductions import create_reductions, read_reductions
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.data.tables import read_csv
from tabulate_sources import tabulate_sources

STATISTICS = Statistics(samples=200, confidence=0.9, seed=0)


@pytest.fixture
def reductions(tmp_path):
    """Two layers and four prompts: TP- 8, half of it in each layer, and AP- -2; else nothing.

    Of TP- 6 are left on the same text, 1 of them by value vectors; of AP- -3 and 1.
    """
    weights = np.array([0.5, 1.0, 1.0, 1.5])
    own, same, value = np.zeros((3, 4, 2, len(GROUPS)))
    for array, toxic, other in ((own, 8, -2), (same, 6, -3), (value, 1, 1)):
        array[:, :, GROUPS.index("TP-")] = weights[:, None] * toxic / 2
        array[:, 1, GROUPS.index("AP-")] = weights * other
    path = tmp_path / "reductions.h5"
    with create_reductions(path, 4, 2) as datasets:
        for dataset, array in zip(datasets, (own, same, value), strict=True):
            dataset[:] = array
    return path


def tabulate(path) -> pd.DataFrame:
    table = path.with_name("sources.csv")
    tabulate_sources(str(path), str(table), STATISTICS)
    return read_csv(table)


def test_parts_and_shares_by_hand(reductions):
    table = tabulate(reductions)
    assert list(table["group"].unique()) == [*GROUPS, "all"]
    assert list(table["part"].unique()) == ["activation", "value", "context", "total"]
    assert not table.duplicated(["group", "part"]).any()
    rows = table.set_index("group")
    np.testing.assert_allclose(rows.loc["TP-", "reduction"], [5, 1, 2, 8])
    np.testing.assert_allclose(rows.loc["AP-", "reduction"], [-4, 1, 1, -2])
    np.testing.assert_allclose(rows.loc["all", "reduction"], [1, 2, 3, 6])
    np.testing.assert_allclose(rows.loc["TP-", "share_group"], [5 / 8, 1 / 8, 2 / 8, 1])
    np.testing.assert_allclose(rows.loc["AP-", "share_group"], [2, -0.5, -0.5, 1])
    np.testing.assert_allclose(rows.loc["all", "share_group"], [1 / 6, 2 / 6, 3 / 6, 1])
    np.testing.assert_allclose(rows.loc["AP-", "share_net"], [-4 / 6, 1 / 6, 1 / 6, -2 / 6])
    np.testing.assert_allclose(rows.loc["unchanged", "reduction"], 0)
    assert rows.loc["unchanged", "share_group"].isna().all()  # a share of nothing


def test_the_parts_add_up_in_every_group(reductions):
    table = tabulate(reductions).pivot_table("reduction", index="group", columns="part")
    parts = table[["activation", "value", "context"]].sum(axis=1)
    np.testing.assert_allclose(parts, table["total"])
    np.testing.assert_allclose(table.drop(index="all").sum(), table.loc["all"])


def test_shares_are_recomputed_within_each_resample(reductions):
    """Prompts differ by a factor: sums scatter, shares do not."""
    table = tabulate(reductions).query("group in ['TP-', 'AP-', 'all']")
    assert (table["reduction_low"] < table["reduction"]).all()
    assert (table["reduction"] < table["reduction_high"]).all()
    for share in ("share_group", "share_net"):
        np.testing.assert_allclose(table[f"{share}_low"], table[share])
        np.testing.assert_allclose(table[f"{share}_high"], table[share])


def test_a_total_against_the_sign_of_its_group_is_shared_by_no_part(reductions):
    with h5py.File(reductions, "r+") as file:
        file["reduction"][...] *= -1
    rows = tabulate(reductions).set_index("group")
    assert rows.loc[["TP-", "AP-", "all"], "share_group"].isna().all()
    assert rows["share_net"].isna().all()


def test_no_flipped_bit_and_no_truncation_gives_other_reductions(reductions):
    def read():
        return [part.tolist() for part in read_reductions(reductions)]

    remedy = f"snakemake --cores all --force {reductions}"
    assert count_detected(reductions, read, 150, remedy) > 100


def test_a_file_of_an_older_version_says_what_is_missing(reductions):
    with h5py.File(reductions, "r+") as file:
        del file["reduction_value"]
    with pytest.raises(ValueError, match=r"reductions\.h5 .*reduction_value.*rebuild it"):
        read_reductions(str(reductions))


def test_other_groups_are_refused(reductions):
    with h5py.File(reductions, "r+") as file:
        file.attrs["groups"] = " ".join(GROUPS[::-1])
    with pytest.raises(ValueError, match=r"reductions\.h5 has the groups unchanged, .*rebuild it"):
        read_reductions(str(reductions))
