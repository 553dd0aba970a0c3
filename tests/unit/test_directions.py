"""A planted direction is found again, and measured on prompts it was not fitted on; the others,
and what texts are labelled, by hand."""

import numpy as np
import pandas as pd
import pytest
from fit_direction import measured_fit
from neurondynamics.analysis.directions import (
    Direction,
    embedding_difference,
    read_direction,
    read_vectors,
    singular_direction,
    write_direction,
)
from neurondynamics.analysis.fitting import METHODS, hold_out, quality
from neurondynamics.analysis.fitting import fit_direction as fit
from neurondynamics.analysis.labelled import labels_of, mixed_prompts, read_labelled

PROMPTS, SAMPLES, WIDTH = 120, 4, 12


def fit_direction(*arguments, paired=True, seed=0):
    """Fit features, labels and groups by a method."""
    return fit(*arguments, seed, paired=paired)


@pytest.fixture
def planted():
    """Features = a prompt's own offset + ±direction + noise; features differ in scale."""
    generator = np.random.default_rng(0)
    direction = generator.normal(size=WIDTH)
    direction /= np.linalg.norm(direction)
    prompts = np.repeat(np.arange(PROMPTS), SAMPLES)
    toxic = np.tile([True, False, False, False], PROMPTS)
    offsets = 0.5 * generator.normal(size=(PROMPTS, WIDTH))[prompts]
    noise = 0.3 * generator.normal(size=(len(prompts), WIDTH))
    return (
        offsets + noise + np.where(toxic, 1.0, -1.0)[:, None] * direction,
        toxic,
        prompts,
        direction,
    )


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_planted_direction_is_found(planted, method, paired):
    features, toxic, prompts, direction = planted
    groups = prompts if paired else np.arange(len(prompts))
    found = fit_direction(features, toxic, groups, method, paired=paired)
    assert cosine(found.vector, direction) > 0.9
    scores = features @ found.vector + found.intercept
    assert ((scores > 0) == toxic).mean() > 0.95


def test_the_mean_difference_by_hand():
    features = np.array([[1.0, 0], [3, 0], [0, 0], [10, 5], [10, 1]])
    toxic = np.array([True, True, False, True, False])
    prompts = np.array([0, 0, 0, 1, 1])
    found = fit_direction(features, toxic, prompts, "mean_difference")
    np.testing.assert_allclose(found.vector, [1, 2])  # mean of (2, 0) and (0, 4)
    texts = np.arange(5)
    found = fit_direction(features, toxic, texts, "mean_difference", paired=False)
    np.testing.assert_allclose(found.vector, [14 / 3 - 5, 5 / 3 - 1 / 2])
    # features of a dataset are in float32
    single = fit_direction(
        features.astype(np.float32), toxic, texts, "mean_difference", paired=False
    )
    np.testing.assert_allclose(single.vector, found.vector)
    assert single.vector.dtype == np.float64


def test_the_mean_difference_does_not_see_what_prompts_share(planted):
    """Toxic texts mostly come from some prompts; what these prompts share is no toxicity."""
    features, _, prompts, direction = planted
    generator = np.random.default_rng(1)
    toxic = generator.random(len(prompts)) < np.where(prompts < 60, 0.8, 0.2)
    topic = np.eye(WIDTH)[0]
    features = generator.normal(size=features.shape) * 0.1
    features += np.where(toxic, 1.0, -1.0)[:, None] * direction
    features += np.where(prompts < 60, 5.0, -5.0)[:, None] * topic
    found = fit_direction(features, toxic, prompts, "mean_difference")
    assert cosine(found.vector, direction) > 0.99


def test_the_probe_does_not_depend_on_the_scale_of_features(planted):
    features, toxic, prompts, _ = planted
    scale = np.logspace(-3, 3, WIDTH)
    plain = fit_direction(features, toxic, prompts, "probe")
    scaled = fit_direction(features * scale + 7, toxic, prompts, "probe")
    np.testing.assert_allclose(
        (features * scale + 7) @ scaled.vector + scaled.intercept,
        features @ plain.vector + plain.intercept,
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_direction_changes_sign_with_the_labels(planted, method):
    features, toxic, prompts, _ = planted
    one = fit_direction(features, toxic, prompts, method)
    other = fit_direction(features, ~toxic, prompts, method)
    assert cosine(one.vector, other.vector) < -0.999


def test_held_out_prompts_stand_on_one_side():
    prompts = np.repeat(np.arange(40), 5)
    fitting, held = hold_out(prompts, 0.25, seed=3)
    assert not set(prompts[fitting]) & set(prompts[held])
    assert sorted([*fitting, *held]) == list(range(200))
    assert len(set(prompts[held])) == 10
    again = hold_out(prompts, 0.25, seed=3)
    np.testing.assert_array_equal(held, again[1])
    assert set(held) != set(hold_out(prompts, 0.25, seed=4)[1])


def test_noise_is_not_told_apart():
    """The held-out measure is honest: labels at random are not predicted."""
    generator = np.random.default_rng(5)
    prompts = np.repeat(np.arange(100), 4)
    features = generator.normal(size=(100, 30))[prompts] + 0.01 * generator.normal(size=(400, 30))
    toxic = generator.random(400) < 0.5
    fitting, held = hold_out(prompts, 0.5, seed=0)
    found = fit_direction(features[fitting], toxic[fitting], prompts[fitting], "probe")
    assert abs(quality(found, features[held], toxic[held])["auroc"] - 0.5) < 0.1


def test_quality_by_hand():
    direction = Direction(np.array([1.0, 0.0]), -1.0)
    features = np.array([[2.0, 9], [3, 9], [0, 9], [4, 9], [0.5, 9]])
    toxic = np.array([True, True, False, False, False])  # scores 1, 2, -1, 3, -0.5
    measured = quality(direction, features, toxic)
    assert measured["accuracy"] == pytest.approx(4 / 5)
    assert measured["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert measured["majority_accuracy"] == pytest.approx(3 / 5)
    assert measured["auroc"] == pytest.approx(4 / 6)


@pytest.mark.parametrize("number", [0, 1, 479, 480])
def test_a_label_of_less_than_two_texts_is_refused(planted, number):
    features, toxic, prompts, _ = planted
    labels = np.arange(len(toxic)) < number
    with pytest.raises(ValueError, match=f"two or more of each; {number} of 480 are labelled"):
        fit_direction(features, labels, prompts, "probe")


def test_held_out_texts_of_one_label_name_the_remedy():
    with pytest.raises(ValueError, match="the 3 held-out texts all have one label; raise held_out"):
        quality(Direction(np.ones(2)), np.ones((3, 2)), np.zeros(3, bool))


def scored(rows):
    """Return a table of scored samples, given as (prompt, scores)."""
    records = [
        {"prompt_id": number, "sample": sample, "prompt": prompt, "score": score}
        for number, (prompt, scores) in enumerate(rows)
        for sample, score in enumerate(scores)
    ]
    return pd.DataFrame(records)


def test_prompts_without_both_labels_and_unscored_samples_are_left_out(tmp_path):
    paths = [tmp_path / "train.parquet", tmp_path / "analysis.parquet"]
    train = [("d", [0.9, 0.1, 0.4]), ("a", [0.9, np.nan, 0.2]), ("b", [0.1, 0.2])]
    scored(train).to_parquet(paths[0])
    scored([("c", [0.6, 0.5]), ("e", [0.9, np.nan]), ("f", [0.1, 0.9])]).to_parquet(paths[1])
    table = mixed_prompts(paths, 0.5)
    # prompts of two splits are numbered alike, and stay apart
    assert table.groupby("prompt").group.nunique().to_dict() == dict.fromkeys("acdf", 1)
    assert table.group.nunique() == 4
    assert table.prompt.tolist() == [*"aa", *"cc", *"ddd", *"ff"]
    assert table.toward.tolist() == [True, False, True, False, True, False, False, False, True]
    again = mixed_prompts(paths[::-1], 0.5)
    pd.testing.assert_frame_equal(again, table)
    with pytest.raises(ValueError, match=r"only 1 prompts .*threshold 0.85.*prompts.train.number"):
        mixed_prompts(paths[1:], 0.85)


def write_comments(folder, rows, header="comment,toxic,mild"):
    folder.mkdir()
    (folder / ".timestamp").write_text("of Snakemake's")
    (folder / "train.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_labels_of_a_dataset_are_numbers_or_truth_values(tmp_path):
    lines = ["a,1,0.6", "b,0,0.5", "a,true,0.4", ",0,0", "c,False,0"]
    texts, rows = read_labelled(write_comments(tmp_path / "own", lines), "csv", "comment")
    assert texts == ["a", "b", "a", "c"]  # a row without a text is none
    table = labels_of(texts, rows, "toxic")
    assert table.toward.tolist() == [True, False, True, False]
    assert table.group.tolist() == [0, 1, 0, 2]  # a text that stands there twice is one
    assert labels_of(texts, rows, "mild").toward.tolist() == [True, False, False, False]


def test_texts_without_a_label_are_left_out_of_the_fit(tmp_path, caplog):
    draw = np.random.default_rng(0)
    lines = [f"t{n},{n % 2},0" for n in range(40)]
    lines[3:5] = ["t3,,0", "t4,nan,0"]
    texts, rows = read_labelled(write_comments(tmp_path / "own", lines), "csv", "comment")
    table = labels_of(texts, rows, "toxic")
    assert "2 of 40 texts have no label and are left out" in caplog.text
    features = draw.normal(size=(40, 3))
    found, measured = measured_fit(features, np.arange(40), table, False, "mean_difference", 0.2, 0)
    assert (measured["texts"], measured["texts_toward"]) == (38, 19)
    kept = np.delete(np.arange(40), [3, 4])
    toward = kept % 2 == 1
    expected = features[kept][toward].mean(axis=0) - features[kept][~toward].mean(axis=0)
    np.testing.assert_allclose(found.vector, expected)


@pytest.mark.parametrize(
    ("rows", "label", "message"),
    [
        (["a,1,0", "b,maybe,0"], "toxic", r"train.csv, line 3: the field 'toxic' should be a num"),
        (["a,1,0", "b,-1,0"], "toxic", r"train.csv, line 3: the label 'toxic' .*found -1.*where"),
        (["a,1,0", "b,2,0"], "toxic", r"train.csv, line 3: the label 'toxic' .* 0 .* 1 .* found 2"),
        (["a,1,0", "b,0,inf"], "mild", r"train.csv, line 3: the field 'mild' should be a number"),
        (["a,1,0"], "toxicity", r"train.csv, line 2: no field 'toxicity'; there are comment, tox"),
    ],
)
def test_a_label_that_is_none_is_named(tmp_path, rows, label, message):
    texts, read = read_labelled(write_comments(tmp_path / "own", rows), "csv", "comment")
    with pytest.raises(ValueError, match=message):
        labels_of(texts, read, label)


def test_an_unknown_method_is_refused(planted):
    with pytest.raises(ValueError, match="unknown direction method 'svm'; known are probe"):
        fit_direction(*planted[:3], "svm")


def test_a_direction_is_read_as_it_was_written(tmp_path):
    direction = Direction(np.array([1 / 3, -2e-300, 5.0]), 0.1)
    write_direction(tmp_path / "direction.safetensors", direction)
    again = read_direction(tmp_path / "direction.safetensors")
    np.testing.assert_array_equal(again.vector, direction.vector)
    assert again.vector.dtype == np.float64
    assert again.intercept == direction.intercept
    assert [path.name for path in tmp_path.iterdir()] == ["direction.safetensors"]


def test_the_difference_of_embeddings_by_hand():
    """Every word weighs the same, however many tokens it has."""
    toxic = [np.array([[4.0, 0]]), np.array([[1.0, 2], [3, 2], [2, 2]])]  # means (4, 0), (2, 2)
    neutral = [np.array([[0.0, 1], [0, 5]])]  # mean (0, 3)
    np.testing.assert_allclose(embedding_difference(toxic, neutral), [3, -2])


def test_the_singular_direction_by_hand():
    """Of unit vectors at +φ and −φ around an axis, one of them twice as long, it is the axis."""
    angle = np.pi / 6
    values = np.array([[np.cos(angle), np.sin(angle), 0], [np.cos(angle), -np.sin(angle), 0]])
    values[1] *= 2
    np.testing.assert_allclose(singular_direction(values), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(singular_direction(-values), [-1, 0, 0], atol=1e-12)


def test_the_singular_direction_is_the_axis_of_largest_variation():
    """An eigenvector of the largest eigenvalue of Σ u uᵀ, u = v/‖v‖."""
    generator = np.random.default_rng(2)
    values = generator.normal(size=(40, WIDTH)) + 0.7
    found = singular_direction(values)
    units = np.array([value / np.sqrt((value**2).sum()) for value in values])
    moments = sum(np.outer(u, u) for u in units)
    largest = np.linalg.eigvalsh(moments)[-1]
    np.testing.assert_allclose(moments @ found, largest * found, atol=1e-9)
    np.testing.assert_allclose(found @ found, 1)
    assert (units @ found).mean() > 0


@pytest.mark.parametrize("wrong", [0.0, np.nan, np.inf])
def test_a_value_vector_without_a_direction_is_refused(wrong):
    values = np.ones((3, 4))
    values[1] = wrong
    with pytest.raises(ValueError, match="zero or not finite"):
        singular_direction(values)


def test_vectors_are_read_by_the_names_of_their_files(tmp_path):
    paths = [tmp_path / "probe.safetensors", tmp_path / "svd-2.safetensors"]
    for number, path in enumerate(paths):
        write_direction(path, Direction(np.arange(1.0, 9)[::2] + number))
    read = read_vectors(paths)
    assert list(read) == ["probe", "svd-2"]
    np.testing.assert_array_equal(read["svd-2"], [2, 4, 6, 8])


@pytest.mark.parametrize("wrong", [np.zeros(3), np.array([1, np.nan, 0])])
def test_a_vector_without_a_direction_is_not_written(tmp_path, wrong):
    with pytest.raises(ValueError, match="zero or not finite"):
        write_direction(tmp_path / "probe.safetensors", Direction(wrong))
    assert not list(tmp_path.iterdir())


def test_a_truncated_direction_is_named(tmp_path):
    path = tmp_path / "probe.safetensors"
    write_direction(path, Direction(np.ones(4)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"probe\.safetensors cannot be read or is damaged"):
        read_direction(path)


def test_a_direction_in_the_place_of_another_is_refused(tmp_path):
    folder = tmp_path / "results" / "tiny" / "base" / "directions"
    folder.mkdir(parents=True)
    write_direction(folder / "probe.safetensors", Direction(np.ones(3), 0.5))
    assert read_direction(folder / "probe.safetensors").intercept == 0.5
    (folder / "probe.safetensors").rename(folder / "svd.safetensors")
    with pytest.raises(ValueError, match=r"svd\.safetensors is not .* but results/.*/probe\.s"):
        read_direction(folder / "svd.safetensors")
