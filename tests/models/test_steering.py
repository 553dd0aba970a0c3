"""Steered continuations against a plain loop over one text: PPLM as its authors wrote it down."""

import json
from dataclasses import asdict, replace

import numpy as np
import plain
import pytest
import tiny
import torch
from neurondynamics.analysis.directions import Direction, write_direction
from neurondynamics.data.tables import read_parquet
from neurondynamics.lm.generation import NonFiniteError, sampling_uniforms
from neurondynamics.lm.loading import load_model
from neurondynamics.tuning.steering import Guide, Strength, class_probabilities, steer
from steer_continuations import choose_sentences, cut_at_words, steer_continuations
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

NEW_TOKENS = 4
STRENGTH = Strength(
    step_size=0.4,
    iterations=3,
    gamma=1.0,
    horizon=1,
    kl_scale=0.1,
    gm_scale=0.95,
    temperature=1.0,
    top_k=10,
)
IGNORED = 270  # a token of two prompts, as if it began texts
SOME = (0, 1, 2, 6, 8)  # prompts, two of one token


def guide_of(layer: int, scale: float = 0.05) -> Guide:
    vector = np.random.default_rng(5).normal(size=tiny.HIDDEN) * scale
    return Guide(layer, vector, -0.4, ignored=(IGNORED,))


def uniforms_of(rows) -> np.ndarray:
    # none of these draws lies so near the border of two tokens that rounding would decide
    drawn = [sampling_uniforms(5, tiny.PROMPTS[row], 1, NEW_TOKENS) for row in rows]
    return np.concatenate(drawn)


def read(model, cache, position, layer, **token):
    """Read one more token; return the logits after it and its residual stream."""
    block = plain.blocks(model)[layer]
    with plain.listening([block], "output") as heard:
        logits = model(**token, position_ids=torch.tensor([[position]]), past_key_values=cache)
    return logits.logits[0, -1], heard[0][0, -1]


def cache_of(model, pasts):
    """Return a cache that holds keys and values, (2, 1, heads, positions, width), of each layer."""
    cache = DynamicCache(config=model.config)
    for index, past in enumerate(pasts):
        cache.update(past[0], past[1], index)
    return cache


def pasts_of(cache):
    return [torch.stack([layer.keys, layer.values]) for layer in cache.layers]


def pplm(model, prompt, uniforms, guide, strength, ends):
    """Write one text as Dathathri et al. do in run_pplm.py, with a classifier of two classes."""
    weights = torch.stack([torch.zeros(tiny.HIDDEN), torch.tensor(guide.vector)]).double()
    biases = torch.tensor([0.0, guide.intercept]).double()
    embeddings = model.get_input_embeddings()(torch.arange(tiny.VOCABULARY))
    ids, pasts = list(prompt), None
    if len(prompt) > 1:
        cache = DynamicCache(config=model.config)
        model(input_ids=torch.tensor([prompt[:-1]]), past_key_values=cache)
        pasts = pasts_of(cache)
    for uniform in uniforms:
        place, last = len(ids) - 1, torch.tensor([ids[-1:]])
        unmoved = DynamicCache(config=model.config)
        with plain.listening([plain.blocks(model)[guide.layer]], "output") as heard:
            output = model(input_ids=torch.tensor([ids]), past_key_values=unmoved)
        start = len(prompt) - 1
        counts = [n for n, token in enumerate(ids[:-1]) if token != IGNORED or n >= start]
        before = heard[0][0, counts].sum(0)
        expected = output.logits[0, -1].softmax(-1)
        if pasts is not None:
            steps = [torch.zeros_like(past) for past in pasts]
            for _ in range(strength.iterations):
                moves = [step.clone().requires_grad_() for step in steps]
                cache = cache_of(model, [p + m for p, m in zip(pasts, moves, strict=True)])
                logits, residual = read(model, cache, place, guide.layer, input_ids=last)
                found = logits.softmax(-1)
                total, mixture = before + residual.detach(), found
                ahead = cache_of(model, pasts_of(unmoved))
                for further in range(strength.horizon):
                    embedded = (mixture @ embeddings)[None, None]
                    where = place + 1 + further
                    logits, residual = read(
                        model, ahead, where, guide.layer, inputs_embeds=embedded
                    )
                    total, mixture = total + residual, logits.softmax(-1)
                mean = total / (len(counts) + 1 + strength.horizon)
                loss = cross_entropy((weights @ mean + biases)[None], torch.tensor([1]))
                loss = loss + strength.kl_scale * (found * (found / expected).log()).sum()
                loss.backward()
                for step, move in zip(steps, moves, strict=True):
                    norm = move.grad.norm() + 1e-15
                    step -= strength.step_size * move.grad / norm**strength.gamma
            pasts = [past + step for past, step in zip(pasts, steps, strict=True)]
        cache = cache_of(model, pasts or [])
        logits, _ = read(model, cache, place, guide.layer, input_ids=last)
        pasts = pasts_of(cache)
        moved = (logits / strength.temperature).softmax(-1)
        fused = moved**strength.gm_scale * expected ** (1 - strength.gm_scale)
        fused[fused < fused.topk(strength.top_k)[0][-1]] = 0
        cumulative = np.cumsum((fused / fused.sum()).detach().numpy())
        ids.append(int(np.argmax(cumulative > uniform)))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def write_plainly(case, guide, strength):
    """Return what the plain loop writes after some prompts."""
    rows = zip(SOME, uniforms_of(SOME), strict=True)
    return [
        pplm(case.plain, case.prompts[row], drawn, guide, strength, case.ends)
        for row, drawn in rows
    ]


@pytest.mark.parametrize(
    ("family", "changes", "layer"),
    [
        ("gpt2", {}, tiny.LAYERS - 1),
        (
            "llama",
            {"step_size": 0.1, "gamma": 0.8, "horizon": 2, "temperature": 0.7, "kl_scale": 0.5},
            1,
        ),
        # scaled embeddings, and caches of which only some forget
        ("gemma2", {"gm_scale": 0.8, "top_k": 300}, 1),
    ],
)
def test_batched_equals_the_plain_loop(case_of, family, changes, layer):
    case, guide = case_of(family), guide_of(layer)
    strength = replace(STRENGTH, **changes)
    prompts, uniforms = [case.prompts[row] for row in SOME], uniforms_of(SOME)
    expected = write_plainly(case, guide, strength)
    assert steer(case.model, prompts, uniforms, guide, strength).lists() == expected
    for row in (0, 2):
        alone = steer(case.model, prompts[row : row + 1], uniforms[row : row + 1], guide, strength)
        assert alone.lists() == expected[row : row + 1]
    unmoved = replace(strength, step_size=1e-9)
    assert steer(case.model, prompts, uniforms, guide, unmoved).lists() != expected


def test_steering_makes_its_class_more_probable(case_of):
    case, guide = case_of("gpt2"), guide_of(tiny.LAYERS - 1)
    away = replace(guide, vector=-guide.vector, intercept=-guide.intercept)
    uniforms = uniforms_of(range(len(case.prompts)))

    def probability(guide, **changes) -> float:
        strength = replace(STRENGTH, kl_scale=0.01, **changes)
        new = steer(case.model, case.prompts, uniforms, guide, strength).lists()
        texts = [p + n for p, n in zip(case.prompts, new, strict=True)]
        return class_probabilities(case.model, texts, guide).mean()

    unmoved = probability(guide, step_size=1e-9)
    assert probability(guide, iterations=10) > 1.5 * unmoved
    assert probability(away, iterations=10) > 1 - 0.9 * unmoved


def test_class_probabilities_are_those_of_the_mean_residual(case_of):
    case, guide = case_of("gpt2"), guide_of(1)
    expected = []
    for prompt in case.prompts:
        with plain.listening([plain.blocks(case.plain)[1]], "output") as heard:
            plain.logits(case.plain, prompt)
        counts = [n for n, token in enumerate(prompt) if token != IGNORED]
        score = heard[0][0, counts].mean(0).numpy() @ guide.vector + guide.intercept
        expected.append(1 / (1 + np.exp(-score)))
    found = class_probabilities(case.model, case.prompts, guide)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_logits_that_are_not_finite_name_their_rows(case_of):
    case = case_of("gpt2")
    model = load_model(case.folder, "float32", "cpu")
    model.transformer.wpe.weight[15] = torch.nan  # a position that the longer text reaches
    with pytest.raises(NonFiniteError) as caught:
        steer(model, case.prompts[:2], uniforms_of((0, 1)), guide_of(1), STRENGTH)
    assert caught.value.rows == [1]


TEXT = "\n\n".join([" ".join(tiny.SENTENCES[-4:-2]), *tiny.SENTENCES[-2:], "Too short."])


def test_shards_and_batches_do_not_matter(case_of, tmp_path):
    case, guide = case_of("gpt2"), guide_of(1)
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"title": "", "text": TEXT}) + "\n")
    write_direction(tmp_path / "w.safetensors", Direction(guide.vector, guide.intercept))
    settings = {"number": 4, "new_tokens": 3, "layer": 1, "seed": 2}

    def steered(shard: str, batch_size: int) -> list[dict]:
        output = tmp_path / f"{shard}.parquet"
        steer_continuations(
            *(str(path) for path in (case.folder, tmp_path / "corpus.jsonl")),
            *(str(path) for path in (tmp_path / "w.safetensors", output)),
            shard=shard,
            strength=asdict(STRENGTH),
            reading=tiny.reading(max_tokens=9, batch_size=batch_size),
            **settings,
        )
        return read_parquet(output).to_dict("records")

    whole = steered("1-of-1", 4)
    parts = [*steered("1-of-2", 2), *steered("2-of-2", 2)]
    assert [row["prompt_id"] for row in whole] == [0, 1, 2, 3]
    for row, same in zip(whole, sorted(parts, key=lambda part: part["prompt_id"]), strict=True):
        for name, value in row.items():
            assert value == (same[name] if isinstance(value, str) else pytest.approx(same[name]))
    for row in whole:
        ids = case.tokenizer(row["prompt"]).input_ids
        assert len(ids) <= 9
        assert any(sentence.startswith(row["prompt"]) for sentence in tiny.SENTENCES)
        new = plain.generate(case.plain, ids, 3, case.ends)
        assert row["chosen"] == case.tokenizer.decode(new, skip_special_tokens=True)
    assert any(row["chosen"] != row["rejected"] for row in whole)


def test_prompts_are_sentences_cut_at_words():
    sentences = choose_sentences([TEXT, TEXT], 4, seed=0)
    assert sorted(sentences) == sorted(tiny.SENTENCES[-4:])
    assert choose_sentences([TEXT], 4, seed=1) != sentences
    tokenizer = tiny.build_tokenizer()
    for text in sentences:
        for number in range(1, 12):
            (cut,) = cut_at_words(tokenizer, [text], number)
            kept = tokenizer(cut).input_ids
            assert len(kept) <= number
            assert cut == text or text[len(cut)].isspace() or " " not in cut
    with pytest.raises(ValueError, match=r"preferences\.number: 5 .* hold 4 distinct sentences"):
        choose_sentences([TEXT], 5, seed=0)
