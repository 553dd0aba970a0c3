import json

import numpy as np
import pandas as pd
import pytest
import tiny
from neurondynamics.data.records import read_jsonl
from neurondynamics.data.tables import read_parquet
from neurondynamics.tuning.pairs import WRITTEN
from pair_preferences import TEXTS, find_pairs, pair_preferences


def continuations(rows):
    """Rows of (prompt_id, sample, score) with texts that name prompt and sample."""
    table = pd.DataFrame(rows, columns=["prompt_id", "sample", "score"])
    table["prompt"] = [f"prompt {one}" for one in table["prompt_id"]]
    table["text"] = [f" text {r.prompt_id}.{r.sample}" for r in table.itertuples()]
    table["tokens"] = [[r.prompt_id, r.sample] for r in table.itertuples()]
    return table


def run(tmp_path, table, **options):
    shards = [str(tmp_path / f"scored-{number}.parquet") for number in (1, 2)]
    for rows, shard in zip((table[::2], table[1::2]), shards, strict=True):
        rows.to_parquet(shard)
    return pair(tmp_path, shards, method="sampled", **{"margin": 0.3} | options)


def pair(tmp_path, sources, measured=(), **options):
    """Pair what the sources hold, and return the pairs that were written, but for their tokens."""
    options = {"maximum": 100, "seed": 0} | options
    output = tmp_path / ("unseen.parquet" if "unseen" in options else "preferences.jsonl")
    model = tmp_path / "model"
    tiny.build_tokenizer().save_pretrained(model)
    pair_preferences([str(path) for path in sources], measured, str(model), str(output), **options)
    if "unseen" in options:
        return read_parquet(output)
    pairs = read_jsonl(output)
    assert all(pair.pop(name) for pair in pairs for name in [*WRITTEN, "tokenizer"])
    return pairs


def write_jsonl(path, records):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_least_and_most_toxic_of_each_prompt(tmp_path):
    table = continuations([(4, 0, 0.5), (4, 1, 0.1), (4, 2, 0.9), (1, 0, 0.2), (1, 1, 0.6)])
    assert run(tmp_path, table) == [
        {
            "prompt": "prompt 1",
            "chosen": " text 1.0",
            "rejected": " text 1.1",
            "chosen_score": 0.2,
            "rejected_score": 0.6,
            "prompt_id": 1,
        },
        {
            "prompt": "prompt 4",
            "chosen": " text 4.1",
            "rejected": " text 4.2",
            "chosen_score": 0.1,
            "rejected_score": 0.9,
            "prompt_id": 4,
        },
    ]


def test_ties_go_to_the_earlier_sample_whatever_the_order_of_rows():
    table = continuations([(0, 0, 0.1), (0, 1, 0.9), (0, 2, 0.9), (0, 3, 0.1)])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        pair = find_pairs(table.iloc[order]).iloc[0]
        assert (pair["chosen"], pair["rejected"]) == (" text 0.0", " text 0.1")


def test_unscored_continuations_take_no_part(tmp_path):
    table = continuations([(0, 0, np.nan), (0, 1, 0.2), (0, 2, 0.8), (1, 0, np.nan), (2, 0, 0.9)])
    (pair,) = run(tmp_path, table)
    assert pair["chosen"] == " text 0.1"


def test_margin_is_reached_by_equality(tmp_path):
    table = continuations([(0, 0, 0.0), (0, 1, 0.25), (1, 0, 0.0), (1, 1, 0.125)])
    assert [pair["prompt_id"] for pair in run(tmp_path, table, margin=0.25)] == [0]


def test_a_text_is_never_paired_with_an_equal_score(tmp_path):
    table = continuations([(0, 0, 0.5), (1, 0, 0.5), (1, 1, 0.6)])
    assert [pair["prompt_id"] for pair in run(tmp_path, table, margin=0)] == [1]


def test_maximum_keeps_a_seeded_subset_in_prompt_order(tmp_path):
    table = continuations(
        [
            (prompt, sample, sample * (0.4 + prompt / 100))
            for prompt in range(50)
            for sample in (0, 1)
        ]
    )
    kept = [pair["prompt_id"] for pair in run(tmp_path, table, maximum=10)]
    assert len(kept) == 10
    assert kept == sorted(kept)
    assert kept != list(range(40, 50))  # not the ones with the largest margins
    assert kept == [pair["prompt_id"] for pair in run(tmp_path, table, maximum=10)]
    assert kept != [pair["prompt_id"] for pair in run(tmp_path, table, maximum=10, seed=1)]


def test_no_pair_names_the_key_and_the_largest_margin(tmp_path):
    table = continuations([(0, 0, 0.1), (0, 1, 0.35), (1, 0, 0.1)])
    with pytest.raises(ValueError, match=r"preferences\.margin = 0\.3; .* found is 0\.250"):
        run(tmp_path, table)
    assert not (tmp_path / "preferences.jsonl").exists()


def test_nothing_scored(tmp_path):
    with pytest.raises(ValueError, match="none of its continuations could be scored"):
        run(tmp_path, continuations([(0, 0, np.nan), (0, 1, np.nan)]))


STEERED = pd.DataFrame(
    {
        "prompt_id": [0, 1, 2, 3],
        "prompt": ["The hill", "A river", "An old dog", "It was"],
        "chosen": [" is high.", " is long.", " is old.", ""],
        "rejected": [" is damn high.", " is long.", " is mad.", " damn."],
        "chosen_score": [0.1, 0.2, 0.1, 0.4],
        "rejected_score": [0.9, 0.2, 0.8, 0.5],
    }
)


def test_steered_continuations_are_pairs_in_the_order_of_their_prompts(tmp_path, caplog):
    """But those of equal texts, without a text, and of a prompt that is measured on."""
    shards = [tmp_path / "steered-1.parquet", tmp_path / "steered-2.parquet"]
    written = STEERED.assign(**{name: [[5], [6], [7], [8]] for name in WRITTEN})
    written[1:].to_parquet(shards[0])
    written[:1].to_parquet(shards[1])
    first, third = STEERED.iloc[[0, 2]].to_dict("records")
    assert pair(tmp_path, shards, method="steered") == [first, third]
    assert "1 of 4 pairs have two equal texts" in caplog.text
    assert "1 of 4 pairs lack a continuation" in caplog.text
    measured = [write_jsonl(tmp_path / "evaluation.jsonl", [{"prompt_id": 0, "text": "the hill"}])]
    assert pair(tmp_path, shards, measured, method="steered") == [third]
    assert "1 of 4 pairs have a prompt that the study measures on" in caplog.text
    assert pair(tmp_path, shards, method="steered", maximum=1) in ([first], [third])


NAMES = ("prompt_text", "unpert_gen_text", "pert_gen_text")
READY = [("The hill", " is high.", " is mad."), ("A river", " is long.", " is damn long.")]
DATASET = {"files": [{"path": "somewhere/pairs.jsonl"}], "format": "jsonl"}


def ready(tmp_path, records, **options):
    path = write_jsonl(tmp_path / "lee" / "pairs.jsonl", records)
    return pair(tmp_path, [path.parent], method="ready", dataset=DATASET | options)


@pytest.mark.parametrize("names", [("prompt", "chosen", "rejected"), NAMES])
def test_ready_pairs_by_either_names(tmp_path, caplog, names):
    records = [dict(zip(names, texts, strict=True)) | {"more": 1} for texts in READY]
    expected = [dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)) for texts in READY]
    assert ready(tmp_path, [*records, records[0]]) == expected
    assert "1 of 3 pairs repeat an earlier one" in caplog.text
    assert ready(tmp_path, records, where={names[0]: "A river"}) == expected[1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pert_gen_text": 3}, "pairs.jsonl, line 2: the field 'pert_gen_text' should be a text"),
        ({"prompt_text": 3}, "pairs.jsonl, line 2: the field 'prompt_text' should be a text"),
    ],
)
def test_what_is_no_pair_names_its_line(tmp_path, change, message):
    record = dict(zip(NAMES, READY[0], strict=True))
    with pytest.raises(ValueError, match=message):
        ready(tmp_path, [record, record | change])


def test_pairs_whose_tokens_are_not_those_of_their_texts_are_left_out_and_named(tmp_path, caplog):
    """A token reaches over the border, or a text ends within a character."""
    over = {"prompt": "The hou", "chosen": "se is old", "rejected": " is old"}
    cut = {"prompt": "A hill", "chosen": " is \N{REPLACEMENT CHARACTER}", "rejected": " was"}
    whole = {"prompt": "A river", "chosen": " is long", "rejected": " was"}
    assert ready(tmp_path, [over, cut, whole]) == [whole]
    reaches = "1 of 3 pairs have a token that reaches from the prompt into the text"
    assert f"{reaches} and are left out, the first of them of the prompt 'The hou'" in caplog.text
    assert "1 of 3 pairs end within a character and are left out" in caplog.text


@pytest.mark.parametrize("names", [("prompt", "chosen", "rejected"), NAMES])
def test_pairs_that_repeat_their_prompt_are_refused(tmp_path, names):
    whole = [(prompt, *(prompt + text for text in texts)) for prompt, *texts in READY]
    records = [dict(zip(names, texts, strict=True)) for texts in whole]
    with pytest.raises(
        ValueError, match=rf"pairs\.jsonl, line 1: '{names[1]}' or '{names[2]}' begins with its"
    ):
        ready(tmp_path, records)


def test_pairs_without_a_text_are_left_out(tmp_path, caplog):
    records = [dict(zip(TEXTS, texts, strict=True)) for texts in READY]
    lacking = [records[0] | {"chosen": None}, records[0] | {"prompt": " "}]
    assert ready(tmp_path, [*lacking, *records]) == records
    assert "2 of 4 rows have no text in the field" in caplog.text


SOUND = {"prompt": "You are a", "chosen": " man", "rejected": " dog"}


@pytest.mark.parametrize(
    "claimed",
    [
        {"chosen_tokens": [5, 6], "rejected_tokens": [7]},  # of other texts
        {"chosen_tokens": [9999], "rejected_tokens": [-5]},
        {"chosen_tokens": None, "rejected_tokens": None},
        {"chosen_tokens": "[5, 6]", "rejected_tokens": "[7]"},
        {"chosen_tokens": [], "rejected_tokens": [1.5]},
        {"chosen_tokens": [True], "rejected_tokens": {"a": 1}},
        {},
    ],
)
def test_tokens_that_a_file_claims_are_held_against_its_texts(tmp_path, claimed):
    (plain,) = with_tokens_of(tmp_path, SOUND)
    (found,) = with_tokens_of(tmp_path, SOUND | claimed | {"tokenizer": plain["tokenizer"]})
    assert found == plain


def test_other_tokens_of_the_same_text_are_kept(tmp_path):
    """A model may write a word letter by letter, which its text does not give back."""
    (plain,) = with_tokens_of(tmp_path, SOUND)
    letters = [tiny.build_tokenizer().convert_tokens_to_ids(letter) for letter in "Ġman"]
    assert letters != plain["chosen_tokens"]
    (found,) = with_tokens_of(tmp_path, plain | {"chosen_tokens": letters})
    assert found["chosen_tokens"] == letters


def with_tokens_of(tmp_path, *records):
    path = write_jsonl(tmp_path / "lee" / "pairs.jsonl", records)
    tiny.build_tokenizer().save_pretrained(tmp_path / "model")
    output = tmp_path / "out.jsonl"
    options = {"method": "ready", "maximum": 9, "seed": 0, "dataset": DATASET}
    pair_preferences([str(path.parent)], [], str(tmp_path / "model"), str(output), **options)
    return [
        {key: value for key, value in record.items() if key != "of"}
        for record in map(json.loads, output.read_text().splitlines())
    ]


def test_blanks_that_end_a_prompt_begin_its_continuations(tmp_path):
    given = {"prompt": "You are a ", "chosen": "man", "rejected": "dog"}
    assert ready(tmp_path, [given]) == [SOUND]


@pytest.mark.parametrize(
    "again",
    [
        ("You are a man", "You are a man indeed", "You are a man no"),
        ("You are a man", "you are A man indeed", " no"),
        ("You  are a\nman", "You are a man indeed", " no"),
        ("You are a man", '"You are a man" indeed', " no"),
        ("You are", "You are", " no"),
    ],
)
def test_a_row_that_repeats_its_prompt_is_left_out_and_most_are_refused(tmp_path, caplog, again):
    repeating = dict(zip(("prompt", "chosen", "rejected"), again, strict=True))
    assert ready(tmp_path, [SOUND, repeating, SOUND | {"prompt": "I am a"}])[0] == SOUND
    assert "1 of 3 rows repeat their prompt and are left out, the first of them" in caplog.text
    with pytest.raises(ValueError, match=r"pairs\.jsonl, line 1: .* as in 2 of 3 rows"):
        ready(tmp_path, [repeating, repeating, SOUND])


def test_a_short_prompt_may_stand_in_its_continuation(tmp_path):
    pairs = [{"prompt": "I", "chosen": "'m angry", "rejected": " I said"}]
    assert ready(tmp_path, pairs) == pairs


def test_pairs_need_their_fields_and_something_to_learn_from(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: no field 'prompt'; there are text, chosen"):
        ready(tmp_path, [{"text": "a", "chosen": " b"}])
    with pytest.raises(
        ValueError, match="none of its 1 pairs can be tuned on: 1 have two equal texts"
    ):
        ready(tmp_path, [{"prompt": "a", "chosen": " b", "rejected": " b"}])


def many(prompts, each=1):
    """Ready pairs of so many prompts, each of which has several."""
    return [
        {"prompt": f"The hill {number}", "chosen": f" is {text}", "rejected": f" was {text}"}
        for text in range(each)
        for number in range(prompts)
    ]


def sides(tmp_path, pairs, **options):
    """Prompts of the pairs to tune on, and of those that nothing sees."""
    kept = ready_of(tmp_path, pairs, **options)
    held = ready_of(tmp_path, pairs, **options, unseen=True)
    assert held["pair_id"].tolist() == list(range(len(held)))
    return [pair["prompt"] for pair in kept], held["prompt"].tolist()


def ready_of(tmp_path, pairs, **options):
    path = write_jsonl(tmp_path / "lee" / "pairs.jsonl", pairs)
    return pair(tmp_path, [path.parent], method="ready", dataset=DATASET, **options)


def test_pairs_that_nothing_sees_are_held_out_by_a_seed(tmp_path):
    kept, held = sides(tmp_path, many(60), held_out=4)
    assert len(held) == 4
    assert sorted([*kept, *held]) == sorted(one["prompt"] for one in many(60))
    assert (kept, held) == sides(tmp_path, many(60), held_out=4)
    assert held != sides(tmp_path, many(60), held_out=4, seed=1)[1]
    assert len(sides(tmp_path, many(60), held_out=99)[1]) == 6  # a tenth at most
    # what tuning has no room for is taken after it
    kept, same = sides(tmp_path, many(60), held_out=4, maximum=50)
    assert len(kept) == 50
    assert same == held


def test_pairs_of_a_prompt_are_held_out_together_and_one_is_read(tmp_path, caplog):
    """Prompts count as the same if they are after levelling; pairs are then independent."""
    pairs = many(20, each=3)
    pairs[25]["prompt"] = "the Hill 5!"
    caplog.set_level("INFO")
    kept, held = sides(tmp_path, pairs, held_out=9)
    assert len(held) == len(set(held)) == 2  # of which 6 of 60 pairs are
    assert len(kept) == 54
    assert "6 of 60 pairs are held out of those to tune on, all those of 2 prompts" in caplog.text
    for seed in range(20):
        kept, held = sides(tmp_path, pairs, held_out=9, seed=seed)
        assert not {one.lower().strip("!") for one in kept} & {one.lower() for one in held}


def test_too_few_pairs_to_hold_out_are_told_and_all_are_tuned_on(tmp_path, caplog):
    held = ready_of(tmp_path, many(9), held_out=4, unseen=True)
    assert held.empty
    assert "a tenth of 9 pairs at most is held out" in held.attrs["none"]
    assert held.attrs["none"] in caplog.text
    assert len(ready_of(tmp_path, many(9), held_out=4)) == 9


def test_samples_that_nothing_has_seen_are_those_of_other_prompts(tmp_path):
    rows = [(prompt, sample, 0.1 + 0.8 * sample) for prompt in range(9) for sample in (0, 1)]
    unseen = run(tmp_path, continuations(rows), unseen=True, maximum=4)
    assert len(unseen) == 4
    assert (unseen["rejected_score"] > unseen["chosen_score"]).all()
    assert unseen["chosen_tokens"].map(list).tolist() == [[n, 0] for n in unseen["prompt_id"]]
    assert "none" not in unseen.attrs


@pytest.mark.parametrize(
    ("scores", "why"),
    [((0.1, 0.35), "found is 0.250"), ((np.nan, np.nan), "none of its continuations could be")],
)
def test_samples_without_a_pair_leave_an_empty_table_that_says_why(tmp_path, scores, why):
    table = continuations([(0, sample, score) for sample, score in enumerate(scores)])
    unseen = run(tmp_path, table, unseen=True)
    assert unseen.empty
    assert set(TEXTS) <= set(unseen)
    assert why in unseen.attrs["none"]
