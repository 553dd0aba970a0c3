"""What is attributed where there is nothing to find, and claims that are held against it."""

import numpy as np
import pandas as pd
import pytest
from neurondynamics.analysis.attribution import GROUPS, classify
from neurondynamics.analysis.group_claims import against, claims_on_groups, claims_on_neurons
from neurondynamics.analysis.nulls import KINDS, Draws, balanced_flips, read_nulls, write_nulls
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.study.behaviour import Behaviour

PROMPTS, LAYERS, NEURONS, WIDTH, DRAWS = 24, 3, 150, 40, 6
STATISTICS = Statistics(samples=200, confidence=0.95, seed=0)
RUDE = Behaviour("rudeness", "rude")


class Pair:
    """A base and a tuned model made up: activations on prompts, value vectors, a direction.

    Without `planted` the change of every neuron has nothing to do with the direction; with it, that
    of neurons in some layers is so much, so that they write less of it.
    """

    def __init__(self, seed, planted=0.0, layers=slice(None)):
        draw = np.random.default_rng(seed)
        shape = PROMPTS, LAYERS, NEURONS
        mean = draw.normal(size=shape[1:])
        self.before = mean + 0.3 * draw.normal(size=shape)
        moved = 0.1 * draw.normal(size=shape[1:])  # the same on all prompts
        self.vectors = draw.normal(size=(LAYERS, NEURONS, WIDTH))
        self.direction = draw.normal(size=WIDTH)
        cosines = self.cosines(self.direction)
        moved[layers] -= planted * np.sign(cosines[layers])
        self.after = self.before + moved + 0.1 * draw.normal(size=shape)
        self.flips = balanced_flips(draw, DRAWS, PROMPTS)
        self.random = draw.normal(size=(DRAWS, WIDTH))

    def along(self, direction):
        return self.vectors @ (direction / np.linalg.norm(direction))

    def cosines(self, direction):
        return self.along(direction) / np.linalg.norm(self.vectors, axis=2)

    def nulls(self):
        draws = Draws(self.flips, LAYERS, NEURONS)
        cosines, along = (
            (np.stack([of(w) for w in self.random]), of(self.direction))
            for of in (self.cosines, self.along)
        )
        for layer in range(LAYERS):
            parts = ((random[:, layer], own[layer]) for random, own in (cosines, along, along))
            draws.add(layer, self.before[:, layer], self.after[:, layer], *parts)
        return draws.finish(cosines)

    def attributed(self, before, after, direction, sign=1.0):
        """By prompt, layer and group what is written less, and each neuron's reduction."""
        written = (self.before - self.after) * self.along(direction) * sign
        groups = classify(self.cosines(direction), before.mean(0), after.mean(0))
        sums = np.stack([np.where(groups == g, written, 0).sum(2) for g in range(len(GROUPS))], 2)
        return sums, written.mean(0)

    def claims(self):
        sums, reduction = self.attributed(self.before, self.after, self.direction)
        table = pd.DataFrame(
            {
                "cosine": self.cosines(self.direction).ravel(),
                "reduction": reduction.ravel(),
                "activation_base": self.before.mean(0).ravel(),
                "activation_tuned": self.after.mean(0).ravel(),
            }
        )
        nulls = self.nulls()
        tested = [
            *claims_on_groups(sums, nulls, RUDE, STATISTICS),
            *claims_on_neurons(table, nulls, RUDE, 0.95),
        ]
        return {one["claim"]: (one, about) for one, about in tested}


def test_random_directions_are_attributed_like_the_study_s():
    pair = Pair(0)
    null = pair.nulls()["random_direction"]
    for draw, direction in enumerate(pair.random):
        sums, reduction = pair.attributed(pair.before, pair.after, direction)
        np.testing.assert_allclose(null.reductions[draw], sums, atol=1e-12)
        top = np.argsort(-pair.cosines(direction).ravel())[:100]
        expected = [
            (reduction < 0).mean(),
            *((means.mean(0).ravel()[top] < 0).mean() for means in (pair.before, pair.after)),
        ]
        np.testing.assert_allclose(null.fractions[draw], expected)


def test_half_of_the_prompts_are_swapped():
    flips = balanced_flips(np.random.default_rng(0), 40, 5)
    assert (flips.sum(1) == 2).all()
    assert len({tuple(flip) for flip in flips}) > 5


def test_a_swapped_prompt_has_the_models_swapped():
    """Its reduction is the other way round, and groups follow the means over swapped prompts."""
    pair = Pair(1)
    null = pair.nulls()["swapped"]
    for draw, flip in enumerate(pair.flips):
        swap = flip[:, None, None]
        before = np.where(swap, pair.after, pair.before)
        after = np.where(swap, pair.before, pair.after)
        sign = np.where(swap, -1.0, 1.0)
        sums, reduction = pair.attributed(before, after, pair.direction, sign)
        np.testing.assert_allclose(null.reductions[draw], sums, atol=1e-12)
        assert null.fractions[draw, 0] == pytest.approx((reduction < 0).mean())


def test_a_difference_is_that_from_the_mean_over_draws():
    draws = np.array([[[1.0], [3.0]], [[2.0], [4.0]]])  # of two prompts; means 2 and 3
    found = against(
        "random_direction",
        draws,
        np.array([[4.0], [6.0]]),
        lambda means: means[..., 0],
        "> 1",
        STATISTICS,
    )
    assert (found["null_value"], found["null_low"], found["null_high"]) == (2.5, 2, 3)
    assert found["difference"] == 2.5
    assert found["difference_low"] == pytest.approx(2)  # prompts move together: draws alone differ
    assert found["difference_high"] == pytest.approx(3)
    assert found["beyond"] == "yes"


def test_nulls_survive_their_file(tmp_path):
    nulls = Pair(2).nulls()
    write_nulls(tmp_path / "nulls.h5", nulls, {"base_weights": "a"})
    again = read_nulls(tmp_path / "nulls.h5", {"base_weights": "a"})
    for kind in KINDS:
        for one, other in zip(nulls[kind], again[kind], strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"nulls\.h5"):
        read_nulls(tmp_path / "nulls.h5", {"base_weights": "b"})


def test_a_claim_holds_no_better_than_beyond_its_nulls():
    claims = Pair(3).claims()
    assert len(claims) == 6
    order = ["no", "undecided", "yes"]
    for one, about in claims.values():
        assert [null["null"] for null in about] == list(KINDS)
        assert one["beyond_null"] == min((null["beyond"] for null in about), key=order.index)
        assert order.index(one["holds"]) <= order.index(one["beyond_null"])
    shares = claims["four-groups-contribute"][0]
    assert shares["statistic"] > 0.05  # by its bound alone it would hold
    assert shares["holds"] != "yes"


def test_of_changes_that_ignore_the_direction_few_claims_hold():
    held = pd.DataFrame(
        [
            {claim: one["holds"] == "yes" for claim, (one, _) in Pair(seed).claims().items()}
            for seed in range(200)
        ]
    )
    assert (held.mean() <= 0.05).all(), held.mean()


@pytest.mark.parametrize(
    ("claim", "planted", "layers"),
    [
        ("late-layers", 0.2, slice(LAYERS - 1, None)),  # twice what they move otherwise
        ("many-increase-behaviour", -0.1, slice(None)),  # as much
    ],
)
def test_a_planted_effect_is_found(claim, planted, layers):
    held = [Pair(seed, planted, layers).claims()[claim][0]["holds"] == "yes" for seed in range(50)]
    assert np.mean(held) >= 0.8
