"""Two results are the same if every byte is, but for names that were changed on purpose."""

import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import same
from damage import flip
from neurondynamics.data.tables import write_parquet
from safetensors.numpy import save_file
from same import main

TABLE = pd.DataFrame({"prompt_id": range(3), "toxicity": [0.25, np.nan, 0.5]})


@pytest.fixture
def results(tmp_path):
    """Return the same small results twice."""
    before, after = tmp_path / "before", tmp_path / "after"
    folder = before / "results" / "model" / "dpo"
    folder.mkdir(parents=True)
    TABLE.to_csv(folder / "scores.csv", index=False)
    write_parquet(folder / "scores.parquet", TABLE)
    with h5py.File(folder / "store.h5", "w") as file:
        file["mean/00"] = np.arange(6.0).reshape(2, 3)
        file.attrs["state"] = "base"
    save_file({"first": np.zeros(2), "last": np.ones(3, "f4")}, folder / "model.safetensors")
    (folder / "description.json").write_text('{\n  "method": "probe",\n  "texts": 2\n}\n')
    (folder / "toxic_figure.svg").write_text("<svg>\n<!-- the most toxic -->\n</svg>\n")
    (folder / "toxic_figure.png").write_bytes(bytes(range(100)))
    (before / "resources").mkdir()
    (before / "resources" / "text.txt").write_text("a text")
    (before / "logs").mkdir()
    (before / "logs" / "job.log").write_text("at noon")
    shutil.copytree(before, after)
    return before, after


@pytest.fixture
def compare(results, capsys):
    """Return the comparison: its exit status and what it prints."""

    def run(*options):
        status = main([*map(str, results), *options])
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def now(results):
    return results[1] / "results" / "model" / "dpo"


def test_the_same_results_are_the_same(results, compare):
    assert compare() == (0, "all 8 files are equal\n")
    (results[1] / "logs" / "job.log").write_text("at night")
    (results[1] / "results" / ".snakemake_timestamp").touch()
    assert compare()[0] == 0


@pytest.mark.parametrize(
    "name",
    [
        *("scores.csv", "scores.parquet", "store.h5", "model.safetensors", "description.json"),
        *("toxic_figure.svg", "toxic_figure.png"),
    ],
)
def test_one_flipped_bit_anywhere_is_a_difference(compare, now, name):
    size = (now / name).stat().st_size
    for place in range(0, size, max(1, size // 20)):
        flip(now / name, place)
        status, told = compare()
        assert status == 1
        assert f"results/model/dpo/{name}: differs from byte {place} on" in told
        assert told.endswith("\ndifferences: 1\n")
        flip(now / name, place)
    assert compare()[0] == 0


def test_the_place_of_a_number_that_changed_is_told(compare, now):
    changed = TABLE.assign(toxicity=[0.25, np.nan, 0.75])
    changed.to_csv(now / "scores.csv", index=False)
    write_parquet(now / "scores.parquet", changed)
    with h5py.File(now / "store.h5", "r+") as file:
        file["mean/00"][1, 0] = 7
    flip(now / "model.safetensors", -1)
    (now / "description.json").write_text('{\n  "method": "svd",\n  "texts": 2\n}\n')
    _, told = compare()
    for place in (
        "scores.csv: differs from byte 33 on, row 3, column toxicity: '0.5', now '0.75'",
        "row 3, column toxicity: 0.5, now 0.75",
        ", dataset mean/00, element 3: 3.0, now 7.0; 1 elements in all",
        ", tensor last, byte 11 of 12",
        """, line 2, column 1: '  "method": "probe",', now '  "method": "svd",'""",
    ):
        assert place in told


def test_a_renamed_column_is_a_difference(compare, now):
    renamed = TABLE.rename(columns={"toxicity": "score"})
    renamed.to_csv(now / "scores.csv", index=False)
    write_parquet(now / "scores.parquet", renamed)
    status, told = compare()
    assert status == 1
    assert told.count(", column 2: named 'toxicity', now 'score'") == 2


def test_a_column_a_row_and_an_attribute_more_are_differences(compare, now):
    write_parquet(now / "scores.parquet", TABLE.assign(n=1))
    TABLE.head(2).to_csv(now / "scores.csv", index=False)
    with h5py.File(now / "store.h5", "r+") as file:
        file.attrs["of"] = "a path"
    status, told = compare()
    assert status == 1
    assert ", column 3: named none, now 'n'" in told
    assert ", rows: 3, now 2" in told
    assert ", attribute of: none, now 'a path'" in told


def test_a_missing_file_and_one_too_many_are_differences(compare, now):
    (now / "scores.csv").rename(now / "marks.csv")
    status, told = compare()
    assert status == 1
    assert "results/model/dpo/scores.csv: missing in " in told
    assert "results/model/dpo/marks.csv: only in " in told


def test_a_name_changed_on_purpose_is_none(compare, now):
    for kind in ("svg", "png"):
        (now / f"toxic_figure.{kind}").rename(now / f"top_figure.{kind}")
    (now / "top_figure.svg").write_text("<svg>\n<!-- the most top -->\n</svg>\n")
    assert compare()[0] == 1
    assert compare("--renamed", "toxic=top") == (0, "all 8 files are equal\n")
    (now / "top_figure.svg").write_text("<svg>\n<!-- the least top -->\n</svg>\n")
    status, told = compare("--renamed", "toxic=top")
    assert status == 1
    assert "line 2, column 1: '<!-- the most top -->', now '<!-- the least top -->'" in told


def test_pictures_of_another_name_have_to_be_equal_as_they_are(compare, now):
    (now / "toxic_figure.svg").rename(now / "top_figure.svg")
    (now / "toxic_figure.png").rename(now / "top_figure.png")
    assert compare("--renamed", "toxic=top")[0] == 0  # a text may keep the old word
    flip(now / "top_figure.png", 40)
    assert compare("--renamed", "toxic=top")[0] == 1


def test_only_whole_words_are_renamed(compare, now):
    (now / "toxic_figure.svg").rename(now / "topic_figure.svg")
    assert compare("--renamed", "tox=top")[0] == 1


def test_nothing_is_the_same_as_nothing(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), str(tmp_path / "other")])
    assert "holds no file in results or resources" in capsys.readouterr().err


def test_one_folder_twice_is_refused(results, capsys):
    before, _ = results
    for other in (before, before / ".." / before.name):
        with pytest.raises(SystemExit) as caught:
            main([str(before), str(other)])
        assert caught.value.code == 2
        assert "are one folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["scores.csv", "toxic_figure.svg", "description.json"])
def test_line_ends_are_a_difference(compare, now, name):
    (now / name).write_bytes((now / name).read_bytes().replace(b"\n", b"\r\n"))
    for options in ((), ("--renamed", "no=thing")):
        status, told = compare(*options)
        assert status == 1
        assert f"{name}: differs" in told


@pytest.mark.parametrize("spoiled", [0, 1])
def test_a_text_in_no_utf8_is_a_named_difference(results, compare, spoiled):
    path = "results/model/dpo/toxic_figure.svg"
    (results[spoiled] / path).write_bytes(b"<svg>\n<!-- \xff -->\n</svg>\n")
    status, told = compare("--renamed", "no=thing")
    assert status == 1
    assert f"{path}: differs from byte 11 on, cannot be read ('utf-8'" in told


def test_a_file_that_cannot_be_read_is_a_named_difference(compare, monkeypatch):
    def refuse(path):
        if path.name == "store.h5":
            raise PermissionError(13, "Permission denied", str(path))
        return [path.read_bytes()]

    monkeypatch.setattr(same, "blocks", refuse)
    status, told = compare()
    assert status == 1
    assert "store.h5: cannot be read ([Errno 13] Permission denied" in told
    assert told.endswith("\ndifferences: 1\n")


def test_links_to_folders_are_followed(results, compare, tmp_path):
    for folder in results:
        elsewhere = tmp_path / f"elsewhere-{folder.name}"
        elsewhere.mkdir()
        (elsewhere / "table.csv").write_text("a\n1\n")
        (folder / "results" / "linked").symlink_to(elsewhere)
        (folder / "results" / "up").symlink_to("..")
        (folder / "results" / "itself").symlink_to("itself")
    up = results[1] / "results" / "up"
    assert compare()[0] == 0
    (elsewhere / "table.csv").write_text("a\n2\n")
    assert "results/linked/table.csv: differs from byte 2 on, row 1" in compare()[1]
    (results[1] / "results" / "linked").unlink()
    status, told = compare()
    assert status == 1
    assert "results/linked/table.csv: missing in" in told
    up.unlink()
    assert "results/up" in compare()[1]


def test_links_that_lead_nowhere_are_compared(results, compare):
    links = [folder / "resources" / "gone.csv" for folder in results]
    links[0].symlink_to("old/nowhere")
    assert "resources/gone.csv: missing in" in compare()[1]
    links[1].symlink_to("old/nowhere")
    assert compare() == (0, "all 9 files are equal\n")
    links[1].unlink()
    links[1].symlink_to("new/nowhere")
    status, told = compare()
    assert status == 1
    assert "gone.csv: differs, a link to 'old/nowhere', now 'new/nowhere'" in told
    assert compare("--renamed", "old=new")[0] == 0
    links[1].unlink()
    links[1].write_text("a file")
    assert "gone.csv: is no file, or no longer the same kind of thing" in compare()[1]
