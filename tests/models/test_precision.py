"""A change of weights that the study's precision rounds away is not studied in it."""

import json
import math

import pytest
import tiny
import torch
from fetch_model import fetch_model
from neurondynamics.lm.loading import load_model
from neurondynamics.lm.precision import RECORD, record_change


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("base") / "model", "gpt2")


def tuned_by(folder, size, dtype=torch.float32):
    return tiny.save(tiny.nudge(tiny.build_model("gpt2"), size).to(dtype), folder)


def fetch(folder, source, base, dtype):
    fetch_model(str(folder), source={"path": str(source)}, shape={}, base=str(base), dtype=dtype)
    return folder


@pytest.mark.parametrize("size", [1e-4, 0.05])
def test_what_is_lost_equals_a_plain_computation(base, tmp_path, size):
    tuned = tuned_by(tmp_path / "tuned", size)
    record_change(base, tuned)
    change, lost = 0.0, 0.0
    before, after = (
        dict(load_model(f, "float32", "cpu").named_parameters()) for f in (base, tuned)
    )
    for name, old in before.items():
        moved = after[name].double() - old.double()
        read = after[name].bfloat16().double() - old.bfloat16().double()
        change, lost = change + (moved**2).sum(), lost + ((read - moved) ** 2).sum()
    found = json.loads((tuned / RECORD).read_text())["bfloat16"]
    assert found == pytest.approx(math.sqrt(lost / change), rel=1e-9)
    assert (found > 0.1) == (size < 0.01)


def test_a_change_that_is_rounded_away_is_refused(base, tmp_path):
    source = tuned_by(tmp_path / "source", 1e-4)
    with pytest.raises(ValueError, match=r"source: model\.dtype: bfloat16 .* \d+% in norm is lost"):
        fetch(tmp_path / "tuned", source, base, "bfloat16")
    folder = fetch(tmp_path / "tuned", source, base, "float32")
    load_model(folder, "float32", "cpu")
    with pytest.raises(ValueError, match=r"Set model\.dtype to float32"):  # also if tuned here
        load_model(folder, "bfloat16", "cpu")


def test_a_change_that_stays_is_read_as_asked(base, tmp_path):
    large = tuned_by(tmp_path / "large", 0.3)
    assert load_model(fetch(tmp_path / "a", large, base, "bfloat16"), "bfloat16", "cpu")
    narrow = tiny.save(tiny.build_model("gpt2").bfloat16(), tmp_path / "narrow")
    small = tuned_by(tmp_path / "small", 0.001, torch.bfloat16)  # rounded by those who tuned it
    assert fetch(tmp_path / "b", small, narrow, "bfloat16")


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_a_tuned_version_that_is_the_base_model_is_refused(base, tmp_path, prefix):
    """Weights may go by other names, as the hub's GPT-2 has them."""
    from safetensors.torch import load_file, save_file

    source = tiny.save(tiny.build_model("gpt2"), tmp_path / "source")
    stored = load_file(source / "model.safetensors")
    named = {prefix + name.removeprefix("transformer."): value for name, value in stored.items()}
    save_file(named, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match="source: the tuned version's weights are those of the base"
    ):
        fetch(tmp_path / "tuned", source, base, "float32")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("whose", ["base model", "tuned version"])
def test_weights_that_are_no_numbers_are_named(base, tmp_path, value, whose):
    model = tiny.nudge(tiny.build_model("gpt2"), 0.05)
    model.transformer.h[1].ln_2.bias[3] = value
    folders = [base, tiny.save(model, tmp_path / "spoilt")]
    if whose == "base model":
        folders.reverse()
    with pytest.raises(ValueError, match=rf"1 of the 32 weights .*h\.1\.ln_2\.bias of the {whose}"):
        record_change(*folders)
