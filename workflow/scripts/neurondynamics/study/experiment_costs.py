"""What experiments cost: the memory of a job, and the work of all."""

from __future__ import annotations

from collections.abc import Iterator

from neurondynamics.limits import FOLLOWED_TEXTS, TOKENS_PER_PASS
from neurondynamics.study.costs import PROCESS, Model, Work, lengths, model_of
from neurondynamics.study.interventions import (
    BEHAVIOUR,
    DAMAGE,
    FIDELITY,
    all_steps,
    followed_state,
    follows,
    is_search,
    measures_of,
    moves,
    split_of,
    with_controls,
)
from neurondynamics.study.margins import margins_of
from neurondynamics.study.tuning import pair_tokens

MIXTURES = 13  # models put together of both in all of their blocks


def _experimenting(config: dict, experiment: str, **_) -> float:
    model, corpus, (prompt, new) = model_of(config), config["corpus"], lengths(config)
    chosen = config["experiments"][experiment]
    texts = config["prompts"][split_of(chosen)]["number"] + corpus["continuations"]
    rows = min(texts, config["generation"]["batch_size"])
    width = corpus["window_tokens"]
    tokens = width * min(corpus["windows"], max(1, TOKENS_PER_PASS // width))
    steps = list(all_steps(config["experiments"], chosen))
    models = 1 + any(map(follows, steps)) + any(map(moves, steps))  # a copy of its own
    caches = models * model.caches(rows, max(prompt, corpus["passage_tokens"]), new)
    # of the unedited model on all windows, and of every intervention on those that are read at once
    states = corpus["windows"] * width + len(with_controls(chosen)) * tokens
    neutral = states * model.width * model.itemsize + model.reading(tokens)
    work = max(caches + model.logits(rows), neutral)
    return PROCESS + models * model.weights + work


def _exporting(config: dict, **_) -> float:
    """The model, a copy with moved weights and its edited copy, in whatever precision it is stored:
    float32 at most."""
    return PROCESS + 3 * model_of(config, "float32").weights


def _continuing(config: dict, **_) -> float:
    model, rows = model_of(config), min(_read(config), config["generation"]["batch_size"])
    return PROCESS + model.weights + model.caches(rows, *lengths(config)) + model.logits(rows)


def _measuring(config: dict, tuned: str, experiment: str, **_) -> float:
    """Both models with the caches of a batch, the activations that are followed, and the last
    hidden states that interventions leave. Of pairs both texts are followed."""
    model = model_of(config)
    batches = [_followed(model, _read(config), *lengths(config), texts=1)]
    if margins_of(config["experiments"][experiment]):
        sizes = config["fidelity"]["pairs"], *pair_tokens(config, config["tuned"][tuned])
        batches.append(_followed(model, *sizes, texts=2))
    experiments = config["experiments"].values()
    steps = (step for one in experiments for step in all_steps(config["experiments"], one))
    models = 2 + any(map(moves, steps))  # a copy of its own
    readings = 3 + max((len(with_controls(one)) for one in experiments), default=0)
    rows = min(_read(config), FOLLOWED_TEXTS)
    kept = readings * rows * lengths(config)[1] * model.width * model.itemsize
    return PROCESS + models * model.weights + max(batches) + kept


def _followed(model: Model, prompts: int, prompt: int, new: int, texts: int) -> float:
    """Return the memory of a batch of prompts that is followed, each with some texts."""
    rows = min(prompts, FOLLOWED_TEXTS)
    heard = rows * (prompt + texts * new) * model.layers * model.inputs
    return 3 * model.caches(rows, prompt, new) + heard * model.itemsize


def _accounting(config: dict, **_) -> float:
    """Both models in float32 and one with all weights moved, the residual stream before each block
    of both and of mixtures, what the units of a layer do, and what a layer works out."""
    model, rows = model_of(config, "float32"), min(_accounted(config), FOLLOWED_TEXTS)
    streams = (2 * (model.layers + 1) + MIXTURES) * model.width
    kept = rows * sum(lengths(config)) * (streams + model.inputs) * model.itemsize
    work = model.reading(rows * sum(lengths(config)))
    return PROCESS + 3 * model.weights + kept + work


def _accounted(config: dict) -> int:
    return min(config["account"]["prompts"], _read(config))


def _read(config: dict) -> int:
    return config["fidelity"]["prompts"]


MEMORY = {
    "run_experiment": _experimenting,
    "continue_prompts": _continuing,
    "measure_fidelity": _measuring,
    "measure_account": _accounting,
    "export_model": _exporting,
}


def work_of_experiments(config: dict, tuned: str) -> Iterator[Work]:
    """Yield the work of a version's experiments, of scoring them and of measuring fidelity."""
    followed, number = set(), _read(config)
    prompt, new = lengths(config)
    for name, experiment in config["experiments"].items():
        job, measures = {"tuned": tuned, "experiment": name}, measures_of(experiment)
        if {BEHAVIOUR, DAMAGE} & set(measures):
            yield _work(config, tuned, name)
        scorers = config["scorers"] if BEHAVIOUR in measures else ()
        for scorer in [config["sampling"]["scorer"]] if is_search(experiment) else scorers:
            scored = {**job, "scorer": scorer}
            yield Work("score_generations", scored, config["shards"], models=0)
        if FIDELITY in measures:
            followed.add(followed_state(experiment))
            plans = with_controls(experiment)
            # beside the unedited model and the other one
            read = number * ((2 + _anew(plans)) * prompt + (2 + len(plans)) * new)
            read += _work_of_margins(config, tuned, experiment)
            yield Work("measure_fidelity", job, config["shards"], read, models=2)
    # from each layer on, six readings of half of the layers; and mixtures of both models
    readings = 3 * config["model"]["layers"] + MIXTURES + 5
    tokens = _accounted(config) * (prompt + new) * readings
    yield Work("measure_account", {"tuned": tuned}, read=tokens, models=2)
    followed.add("tuned")
    for state in sorted(followed):
        job = {"tuned": tuned, "followed": state}
        # and reads its texts twice more, in two batch sizes
        read = number * (3 * prompt + 2 * new)
        yield Work("continue_prompts", job, read=read, decoded=number * new)


def _work_of_margins(config: dict, tuned: str, experiment: dict) -> int:
    """Return the tokens of pairs that are read, both texts of each, under the interventions that
    are named, and by the unedited model and the other one."""
    named = {name: experiment["interventions"][name] for name in margins_of(experiment)}
    prompt, new = pair_tokens(config, config["tuned"][tuned])
    per_pair = (2 + _anew(named)) * prompt + 2 * (2 + len(named)) * new
    return config["fidelity"]["pairs"] * per_pair if named else 0


def _anew(plans: dict[str, list[dict] | dict]) -> int:
    """Return under how many interventions prompts are read anew."""
    steps = [plan for plan in plans.values() if isinstance(plan, list)]
    return sum(any(map(_reads_anew, plan)) for plan in steps)


def _reads_anew(step: dict) -> bool:
    """Return whether a step acts on the prompt too, so that no prefill is shared."""
    return step.get("positions") == "all" or moves(step)


def _work(config: dict, tuned: str, name: str) -> Work:
    """Return an experiment's work; a model that is followed reads what the edited one reads."""
    corpus, experiment = config["corpus"], config["experiments"][name]
    measures, (prompt, new) = measures_of(experiment), lengths(config)
    texts = config["prompts"][split_of(experiment)]["number"] if BEHAVIOUR in measures else 0
    texts += corpus["continuations"] if DAMAGE in measures else 0
    windows = corpus["windows"] * corpus["window_tokens"] if DAMAGE in measures else 0
    read, decoded, most = windows, 0, 1  # the unedited model reads the windows too
    for steps in with_controls(experiment).values():
        chosen = steps if isinstance(steps, list) else []
        models = 2 if any(map(follows, chosen)) else 1
        everywhere = any(map(_reads_anew, chosen))
        read += models * windows + (models * texts * prompt if everywhere else 0)
        decoded += models * texts * new
        most = max(most, models)
    read += most * texts * prompt
    wildcards = {"tuned": tuned, "experiment": name}
    return Work("run_experiment", wildcards, config["shards"], read, decoded, models=most)
