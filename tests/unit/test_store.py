"""The activation store refuses whatever is not exactly what was written."""

import fcntl
import subprocess
import sys
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
from damage import count_detected, flip
from neurondynamics.data import store as store_module
from neurondynamics.data.store import (
    ActivationStore,
    check_same_prompts,
    create_store,
    stored_bytes,
)

LAYERS, NEURONS, NEW = 2, 5, 3
INPUTS = 4  # of all heads together
WIDTHS = {"mlp": NEURONS, "attention": INPUTS}
ATTRIBUTES = {"state": "base", "decoding": {"method": "greedy", "new_tokens": NEW}}


def rows(number, start=0):
    """The rows of `number` prompts: every value tells where it belongs."""
    ids = np.arange(start, start + number)
    means = {
        module: np.stack(
            [100 * layer + ids[:, None] + np.arange(width) / 10 for layer in range(LAYERS)]
        )
        for module, width in WIDTHS.items()
    }
    means["attention"] += 1000
    tokens = np.full((number, NEW), -1)
    tokens[:, :2] = ids[:, None] + np.array([[1, 2]])
    return {
        "prompt_ids": ids.tolist(),
        "prompts": [f"prompt number {i}, é" for i in ids],
        "tokens": tokens,
        "lengths": np.full(number, 2),
        "means": means,
    }


def of_both(means):
    """Means of neurons, and of heads that read the same."""
    return {"mlp": means, "attention": means}


def alike(width):
    """So many neurons and inputs of heads."""
    return dict.fromkeys(("mlp", "attention"), width)


def write(path, prompts=6, start=0, blocks=()):
    sizes = {"new_tokens": NEW, "layers": LAYERS, "widths": WIDTHS}
    with create_store(path, prompts=prompts, attributes=ATTRIBUTES, **sizes) as store:
        for number in blocks or (prompts,):
            store.append(**rows(number, start))
            start += number
    return path


def test_reads_what_was_written(tmp_path):
    expected = rows(6)
    with ActivationStore([write(tmp_path / "a.h5", blocks=(4, 2))]) as store:
        assert (len(store), store.layers, store.widths) == (6, LAYERS, WIDTHS)
        assert store.prompts == expected["prompts"]
        assert store.prompt_ids.tolist() == expected["prompt_ids"]
        assert store.tokens.dtype == np.int32
        np.testing.assert_array_equal(store.tokens, expected["tokens"])
        assert store.continuations() == [[i + 1, i + 2] for i in range(6)]
        for module, layer in product(WIDTHS, range(LAYERS)):
            blocks = list(store.blocks(layer, rows=4, module=module))
            assert [len(block) for block in blocks] == [4, 2]
            means = expected["means"][module][layer]
            np.testing.assert_array_equal(np.concatenate(blocks), means.astype("f4"))
            found = store.mean(layer, module)
            np.testing.assert_allclose(found, means.mean(0), rtol=1e-6)
            assert found.dtype == np.float64
        np.testing.assert_array_equal(store.mean(1), store.mean(1, "mlp"))
        assert store.attributes["state"] == "base"


def test_shards_are_concatenated_in_the_order_given(tmp_path):
    paths = [write(tmp_path / f"{k}.h5", 3, 3 * k) for k in range(3)]
    with ActivationStore(paths) as store:
        assert store.prompt_ids.tolist() == list(range(9))
        np.testing.assert_allclose(store.mean(1), rows(9)["means"]["mlp"][1].mean(0), rtol=1e-6)
        read = np.concatenate(list(store.blocks(0)))
        np.testing.assert_array_equal(read, rows(9)["means"]["mlp"][0].astype("f4"))
    with ActivationStore(paths[::-1]) as store:
        assert store.prompt_ids.tolist() == [6, 7, 8, 3, 4, 5, 0, 1, 2]


def test_means_are_summed_in_float64(tmp_path):
    """In float32, 2**24 + 1 + 1 + ... stays 2**24."""
    path = tmp_path / "a.h5"
    means = np.ones((1, 65, 1))
    means[0, 0] = 2**24
    sizes = {"prompts": 65, "new_tokens": 1, "layers": 1, "widths": alike(1)}
    with create_store(path, attributes={}, **sizes) as store:
        store.append(range(65), ["x"] * 65, np.ones((65, 1)), np.ones(65), of_both(means))
    with ActivationStore([path]) as store:
        assert store.mean(0)[0] == (2**24 + 64) / 65


@pytest.mark.parametrize(
    ("layers", "changed"), [(3, {}), (LAYERS, {"mlp": 4}), (LAYERS, {"attention": 8})]
)
def test_shards_of_other_models_are_refused(tmp_path, layers, changed):
    write(tmp_path / "a.h5")
    widths = WIDTHS | changed
    sizes = {"prompts": 1, "new_tokens": NEW, "layers": layers, "widths": widths}
    means = {module: np.zeros((layers, 1, width)) for module, width in widths.items()}
    with create_store(tmp_path / "b.h5", attributes={}, **sizes) as store:
        store.append([0], ["x"], np.zeros((1, NEW)), [1], means)
    with pytest.raises(ValueError, match=r"b\.h5 has another number of layers, neurons or"):
        ActivationStore([tmp_path / "a.h5", tmp_path / "b.h5"])


def test_texts_of_any_length_take_their_own_room(tmp_path, caplog):
    """One prompt of 1 MB among 200 short ones; HDF5's texts of one length took 200 MB."""
    caplog.set_level("INFO")
    texts = ["é" * 500_000, *(f"prompt {n}" for n in range(198)), ""]
    sizes = {"prompts": 200, "new_tokens": 1, "layers": 1, "widths": alike(1)}
    sizes["text_bytes"] = sum(len(text.encode()) for text in texts)
    with create_store(tmp_path / "a.h5", attributes={}, **sizes) as store:
        means = of_both(np.ones((1, 200, 1)))
        store.append(range(200), texts, np.ones((200, 1)), np.ones(200), means)
    with ActivationStore([tmp_path / "a.h5"]) as store:
        assert store.prompts == texts
    size = (tmp_path / "a.h5").stat().st_size
    assert size < 1.3 * sizes["text_bytes"]  # the last chunk is stored whole
    assert "inputs of heads, 982.5 KiB" in caplog.text


def made(path, **attributes):
    """Write a store of one prompt, numbered as its shard, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = {"prompts": 1, "new_tokens": 1, "layers": 1, "widths": alike(1)}
    with create_store(path, attributes=attributes, **sizes) as store:
        number = int(attributes.get("shard", "1-of-1")[0])
        store.append([number], ["x"], np.ones((1, 1)), np.ones(1), of_both(np.ones((1, 1, 1))))
    return path


def test_a_store_in_the_place_of_another_is_refused(tmp_path):
    base = made(tmp_path / "results" / "tiny" / "base" / "1-of-1.h5", state="base")
    with ActivationStore([base]) as store:
        assert store.attributes["place"] == "results/tiny/base/1-of-1.h5"
    moved = base.parent.rename(tmp_path / "results" / "tiny" / "tuned") / base.name
    with pytest.raises(
        ValueError,
        match=r"tuned/1-of-1\.h5 is not .* but results/tiny/base/1-of-1\.h5; rebuild .*--force",
    ):
        ActivationStore([moved])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results").rename(tmp_path / "elsewhere" / "results")
    (tmp_path / "elsewhere/results/tiny/tuned").rename(tmp_path / "elsewhere/results/tiny/base")
    with ActivationStore([tmp_path / "elsewhere/results/tiny/base/1-of-1.h5"]) as store:
        assert store.attributes["state"] == "base"  # where the study lies does not matter


def test_what_a_store_was_made_from_is_held_against_what_is_expected(tmp_path):
    decoding = {"method": "greedy", "new_tokens": 3}
    path = made(tmp_path / "a.h5", state="base", weight_digest="ab", decoding=decoding)
    with ActivationStore([path], {"state": "base", "decoding": decoding, "unknown": 1}) as store:
        assert len(store) == 1
    for expected, said in (
        ({"state": "tuned"}, "its state is base, not tuned"),
        ({"weight_digest": "cd"}, "its weight digest is ab, not cd"),
        ({"decoding": decoding | {"new_tokens": 4}}, "its decoding is "),
    ):
        with pytest.raises(ValueError, match=rf"a\.h5 was made from other things: {said}"):
            ActivationStore([path], expected)
    other = made(tmp_path / "b.h5", state="tuned", prompt_set_digest="2")
    path = made(tmp_path / "a.h5", state="base", prompt_set_digest="1")
    with ActivationStore([path]) as one, ActivationStore([other]) as two:  # noqa: SIM117
        with pytest.raises(ValueError, match=r"b\.h5 .* its prompt set digest is 2, not 1"):
            check_same_prompts(one, two)


def test_shards_are_all_there_once_and_made_alike(tmp_path):
    one, two = (made(tmp_path / f"{n}.h5", shard=f"{n}-of-2", state="base") for n in (1, 2))
    with ActivationStore([one, two]) as store:
        assert store.prompt_ids.tolist() == [1, 2]
    with ActivationStore([two], whole=False) as store:
        assert store.prompt_ids.tolist() == [2]
    with pytest.raises(ValueError, match=r"1\.h5 is of the shards 1-of-2: others lack"):
        ActivationStore([one])
    with pytest.raises(ValueError, match=r"1\.h5 holds the shard 1-of-2, which another file"):
        ActivationStore([one, one])
    other = made(tmp_path / "2.h5", shard="2-of-2", state="tuned")
    with pytest.raises(ValueError, match=r"2\.h5 was made .* its state is tuned, not base"):
        ActivationStore([one, other])
    unnumbered = made(tmp_path / "2.h5")
    with pytest.raises(ValueError, match=r"2\.h5 holds a prompt that stands in another"):
        ActivationStore([made(tmp_path / "1.h5"), unnumbered])


@pytest.mark.parametrize(("dataset", "module"), [("mean/01", "mlp"), ("heads/01", "attention")])
def test_a_mean_that_is_not_finite_is_refused_when_it_is_read(tmp_path, dataset, module):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file[dataset][2, 3] = np.nan
    with ActivationStore([path]) as store, pytest.raises(ValueError, match=r"a\.h5 holds NaN"):
        store.mean(1, module)


def test_an_incomplete_store_is_refused(tmp_path):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = False
    with pytest.raises(
        ValueError,
        match=r"a\.h5 is not complete; rebuild.*snakemake .*--force .*a\.h5",
    ):
        ActivationStore([path])
    with h5py.File(path, "r+") as file:
        del file.attrs["complete"]
    with pytest.raises(ValueError, match=r"a\.h5 is not complete"):
        ActivationStore([path])


def test_another_schema_is_refused(tmp_path):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(ValueError, match=r"a\.h5 has schema version 99, this code reads"):
        ActivationStore([path])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.h5"):
        ActivationStore([tmp_path / "absent.h5"])


def test_a_store_that_is_open_elsewhere_is_not_called_damaged(tmp_path):
    path = write(tmp_path / "a.h5")
    with open(path) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"a\.h5 is open in another program; close it") as told:
            ActivationStore([path])
    assert "--force" not in str(told.value)
    assert len(ActivationStore([path])) == 6


def test_a_truncated_store_is_refused(tmp_path):
    path = write(tmp_path / "a.h5")
    content = path.read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a\.h5 cannot be read.*--force .*a\.h5"):
            ActivationStore([path])


def read_all(path):
    """Read everything that a store holds."""
    with ActivationStore([path]) as store:
        layers = [
            np.concatenate(list(store.blocks(layer, module=module)))
            for module, layer in product(store.widths, range(store.layers))
        ]
        arrays = [store.prompt_ids, store.tokens, store.lengths, *layers]
        return store.prompts, store.attributes, [array.tolist() for array in arrays]


@pytest.mark.parametrize("dataset", ["mean/00", "heads/01", "tokens", "lengths", "prompt_ids"])
def test_a_flipped_bit_is_detected_and_its_file_named(tmp_path, dataset):
    path = write(tmp_path / "a.h5")
    with h5py.File(path) as file:
        place = file[dataset].id.get_chunk_info(0).byte_offset
    flip(path, place + 3)
    with pytest.raises(ValueError, match=r"a\.h5 cannot be read or is damaged.*--force .*a\.h5"):
        read_all(path)


@pytest.mark.parametrize("text", [b"prompt number 3", b"greedy", b"transformers"])
def test_a_flipped_bit_of_a_text_is_detected(tmp_path, text):
    path = write(tmp_path / "a.h5")
    flip(path, path.read_bytes().index(text))
    with pytest.raises(ValueError, match=r"a\.h5 cannot be read"):
        read_all(path)


def test_no_flipped_bit_and_no_truncation_gives_other_data(tmp_path):
    path = write(tmp_path / "a.h5", prompts=70)  # two chunks of each dataset
    found = count_detected(path, lambda: read_all(path), 300, f"--force {path}")
    assert found > 250  # what is not detected is space that the format leaves unused


@pytest.mark.parametrize("module", WIDTHS)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_mean_that_is_not_finite_names_prompt_and_layer(tmp_path, module, value):
    bad = rows(4)
    bad["means"][module][1, 2, 3] = value
    sizes = {"prompts": 4, "new_tokens": NEW, "layers": LAYERS, "widths": WIDTHS}
    with (
        pytest.raises(ValueError, match=r"layer 1 .*prompt 2: 'prompt number 2, é'"),
        create_store(tmp_path / "a.h5", attributes=ATTRIBUTES, **sizes) as store,
    ):
        store.append(**bad)
    assert list(tmp_path.iterdir()) == []


def test_missing_rows_are_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match="4 of 6 rows were written"):
        write(tmp_path / "a.h5", blocks=(2, 2))
    assert list(tmp_path.iterdir()) == []


def test_rows_too_many_are_refused(tmp_path):
    with pytest.raises((ValueError, TypeError)):
        write(tmp_path / "a.h5", prompts=3, blocks=(2, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_store_that_was_there(tmp_path):
    path = write(tmp_path / "a.h5")
    before = path.read_bytes()
    sizes = {"prompts": 1, "new_tokens": NEW, "layers": 1, "widths": alike(1)}
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with create_store(path, attributes={}, **sizes):
            raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


LARGE = {"layers": 30, "new_tokens": 20, "widths": {"mlp": 1536, "attention": 576}}


def test_the_size_is_logged_before_anything_is_written(tmp_path, caplog):
    caplog.set_level("INFO")
    with (
        pytest.raises(RuntimeError),
        create_store(tmp_path / "a.h5", prompts=1000, attributes={}, **LARGE),
    ):
        raise RuntimeError
    said = "1000 prompts x 30 layers x 1536 neurons and 576 inputs of heads, 243.7 MiB"
    assert said in caplog.text


def test_sums_and_blocks_do_not_depend_on_the_shards(tmp_path):
    draw = np.random.default_rng(0)
    means = draw.normal(size=(1, 11, NEURONS))

    def store(name, rows):
        path = tmp_path / f"{name}-{rows.start}.h5"
        number = rows.stop - rows.start
        sizes = {"prompts": number, "new_tokens": 1, "layers": 1, "widths": alike(NEURONS)}
        with create_store(path, attributes={}, **sizes) as writer:
            some = of_both(means[:, rows])
            ids = range(rows.start, rows.stop)
            writer.append(ids, ["x"] * number, np.ones((number, 1)), [1] * number, some)
        return path

    whole = [store("whole", slice(0, 11))]
    parts = [store("parts", rows) for rows in (slice(0, 3), slice(3, 4), slice(4, 11))]
    with ActivationStore(whole) as one, ActivationStore(parts) as three:
        for rows in (1, 2, 4, 5, 256):
            pairs = zip(one.blocks(0, rows), three.blocks(0, rows), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs)
        assert one.mean(0).tolist() == three.mean(0).tolist()


def test_a_disk_without_room_is_refused_before_anything_is_written(small_disk):
    with (
        pytest.raises(OSError, match=r"a\.h5 needs 154\.7 MiB and .* free") as error,
        create_store(small_disk / "a.h5", prompts=640, attributes={}, **LARGE),
    ):
        pytest.fail("the block was entered")
    assert error.value.errno == 28
    assert list(small_disk.iterdir()) == []


FILL_UP = """
import sys
import numpy as np
from pathlib import Path
from neurondynamics.data.store import create_store

folder, layers, widths = Path(sys.argv[1]), 3, {"mlp": 300, "attention": 200}
with create_store(
    folder / "a.h5", prompts=256, new_tokens=5, layers=layers, widths=widths, attributes={}
) as store:
    for number in range(256 // 32):
        # another program fills the disk at some point
        if number == int(sys.argv[2]):
            with open(folder / "other", "wb") as other:
                try:
                    while True:
                        other.write(bytes(4096))
                        other.flush()
                except OSError:
                    pass
        draw = np.random.default_rng(0)
        means = {module: draw.normal(size=(layers, 32, width)) for module, width in widths.items()}
        store.append(range(32), ["x"] * 32, np.ones((32, 5)), np.ones(32), means)
"""


@pytest.mark.parametrize("full_after", [0, 1, 5, 7])
def test_a_disk_that_fills_up_stops_with_what_was_needed_and_leaves_nothing(small_disk, full_after):
    """In a process of its own, for HDF5 itself would crash it at its end."""
    done = subprocess.run(
        [sys.executable, "-c", FILL_UP, str(small_disk), str(full_after)],
        env={"PYTHONPATH": str(Path(store_module.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "No space left on device: writing" in last
    assert "a.h5 needs 1.5 MiB" in last
    assert "Exception ignored" not in done.stderr
    assert [path.name for path in small_disk.iterdir()] == ["other"]


def test_the_bytes_of_a_store_are_known_before(tmp_path):
    for prompts in (3, 64, 65, 200):
        sizes = {"prompts": prompts, "new_tokens": 5, "layers": 3, "widths": alike(350)}
        with create_store(tmp_path / "a.h5", attributes={}, **sizes) as store:
            means = of_both(np.random.default_rng(0).normal(size=(3, prompts, 350)))
            tokens = np.ones((prompts, 5))
            store.append(range(prompts), ["x"] * prompts, tokens, np.ones(prompts), means)
        size = (tmp_path / "a.h5").stat().st_size
        assert 0 < size - stored_bytes(prompts, 5, 3, 700) < 16_000
