"""A planted direction is found again, and measured on prompts it was not fitted on; the others
that steer, by hand."""

import numpy as np
import pytest
from neurondynamics.analysis.directions import (
    METHODS,
    Direction,
    embedding_difference,
    fit_direction,
    hold_out,
    quality,
    read_direction,
    read_directions,
    singular_direction,
    write_direction,
    write_directions,
)

PROMPTS, SAMPLES, WIDTH = 120, 4, 12


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


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_direction_is_found(planted, method):
    features, toxic, prompts, direction = planted
    found = fit_direction(features, toxic, prompts, method, seed=0)
    assert cosine(found.vector, direction) > 0.9
    scores = features @ found.vector + found.intercept
    assert ((scores > 0) == toxic).mean() > 0.95


def test_the_mean_difference_by_hand():
    features = np.array([[1.0, 0], [3, 0], [0, 0], [10, 5], [10, 1]])
    toxic = np.array([True, True, False, True, False])
    prompts = np.array([0, 0, 0, 1, 1])
    found = fit_direction(features, toxic, prompts, "mean_difference", seed=0)
    np.testing.assert_allclose(found.vector, [1, 2])  # mean of (2, 0) and (0, 4)


def test_the_mean_difference_does_not_see_what_prompts_share(planted):
    """Toxic texts mostly come from some prompts; what these prompts share is no toxicity."""
    features, _, prompts, direction = planted
    generator = np.random.default_rng(1)
    toxic = generator.random(len(prompts)) < np.where(prompts < 60, 0.8, 0.2)
    topic = np.eye(WIDTH)[0]
    features = generator.normal(size=features.shape) * 0.1
    features += np.where(toxic, 1.0, -1.0)[:, None] * direction
    features += np.where(prompts < 60, 5.0, -5.0)[:, None] * topic
    found = fit_direction(features, toxic, prompts, "mean_difference", seed=0)
    assert cosine(found.vector, direction) > 0.99


def test_the_probe_does_not_depend_on_the_scale_of_features(planted):
    features, toxic, prompts, _ = planted
    scale = np.logspace(-3, 3, WIDTH)
    plain = fit_direction(features, toxic, prompts, "probe", seed=0)
    scaled = fit_direction(features * scale + 7, toxic, prompts, "probe", seed=0)
    np.testing.assert_allclose(
        (features * scale + 7) @ scaled.vector + scaled.intercept,
        features @ plain.vector + plain.intercept,
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_direction_changes_sign_with_the_labels(planted, method):
    features, toxic, prompts, _ = planted
    one = fit_direction(features, toxic, prompts, method, seed=0)
    other = fit_direction(features, ~toxic, prompts, method, seed=0)
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
    found = fit_direction(features[fitting], toxic[fitting], prompts[fitting], "probe", 0)
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


@pytest.mark.parametrize("label", [True, False])
def test_one_label_alone_is_refused(planted, label):
    features, toxic, prompts, _ = planted
    with pytest.raises(ValueError, match="one label"):
        fit_direction(features, np.full_like(toxic, label), prompts, "probe", 0)


def test_an_unknown_method_is_refused(planted):
    with pytest.raises(ValueError, match="unknown direction method 'svm'; known are probe"):
        fit_direction(*planted[:3], "svm", 0)


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


@pytest.mark.parametrize("empty", [0, 1])
def test_no_words_of_a_kind_are_refused(empty):
    words = [[np.ones((1, 2))], [np.ones((1, 2))]]
    words[empty] = []
    with pytest.raises(ValueError, match="needs toxic and neutral words"):
        embedding_difference(*words)


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


def test_named_directions_are_read_as_they_were_written(tmp_path):
    vectors = {"probe": np.arange(8.0)[::2] / 3, "svd": np.array([1e-300, 0, -1, 2])}
    write_directions(tmp_path / "directions.safetensors", vectors)
    again = read_directions(tmp_path / "directions.safetensors")
    assert set(again) == {"probe", "svd"}
    for name, vector in vectors.items():
        np.testing.assert_array_equal(again[name], vector)
        assert again[name].dtype == np.float64


def test_a_truncated_file_of_directions_is_named(tmp_path):
    path = tmp_path / "directions.safetensors"
    write_directions(path, {"probe": np.ones(4)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"directions\.safetensors cannot be read or is damaged"):
        read_directions(path)
