"""Bringing models: a folder is copied whole or not at all, a GGUF file keeps its weights."""

import hashlib
import json
import shutil

import gguf
import numpy as np
import pytest
import tiny
import torch
from fetch_model import fetch_model
from neurondynamics.lm.loading import load_model, load_tokenizer, save_model
from neurondynamics.lm.shape import described_shape, read_shape
from neurondynamics.lm.special import RECORD
from transformers import AutoModelForCausalLM

SHAPE = {"shape": {"layers": tiny.LAYERS, "neurons": tiny.NEURONS}, "base": None}


def digests(folder):
    """Return the checksums of a model's own files."""
    files = (path for path in folder.iterdir() if path.name != RECORD)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_folder_is_copied_as_it_is(case_of, tmp_path):
    case = case_of("gpt2")
    folder = tmp_path / "resources" / "models" / "mine"
    fetch_model(str(folder), source={"path": str(case.folder)}, **SHAPE)
    assert digests(folder) == digests(case.folder)
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_an_older_copy_is_replaced(case_of, tmp_path):
    folder = tmp_path / "mine"
    for family in ("gpt2", "llama"):
        fetch_model(str(folder), source={"path": str(case_of(family).folder)}, **SHAPE)
    assert digests(folder) == digests(case_of("llama").folder)


def test_another_shape_leaves_nothing(case_of, tmp_path):
    source = {"path": str(case_of("llama").folder)}
    with pytest.raises(ValueError, match=r"model\.neurons is 44, not 128"):
        fetch_model(
            str(tmp_path / "mine"), source=source, shape={"neurons": 4 * tiny.HIDDEN}, base=None
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "is no Hugging Face model folder: it holds no config.json"),
        ("tokenizer.json", "holds no tokenizer, such as tokenizer.json"),
        ("model.safetensors", "is no Hugging Face model folder: it holds no model"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(case_of, tmp_path, missing, said):
    source = tmp_path / "source"
    shutil.copytree(case_of("llama").folder, source)
    (source / missing).unlink()
    with pytest.raises(ValueError, match=f"{source} {said}"):
        fetch_model(str(tmp_path / "mine"), source={"path": str(source)}, **SHAPE)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_damaged_weight_file_is_refused(case_of, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(case_of("llama").folder, source)
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{weights} is shorter than its header says"):
        fetch_model(str(tmp_path / "mine"), source={"path": str(source)}, **SHAPE)
    assert not (tmp_path / "mine").exists()


def test_only_files_of_a_model_are_taken(case_of, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(case_of("llama").folder, source)
    (source / "LICENSE").write_text("terms")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    taken = digests(source)
    for name in ("modeling_x.py", "pytorch_model.bin", "training_args.bin", "a.pkl", "rng.pth"):
        (source / name).write_bytes(b"anything")
    (source / "onnx").mkdir()
    fetch_model(str(tmp_path / "mine"), source={"path": str(source)}, **SHAPE)
    assert digests(tmp_path / "mine") == taken


def test_a_gguf_file_in_parts_is_refused(tmp_path):
    paths = [tmp_path / f"tiny-0000{number}-of-00002.gguf" for number in (1, 2)]
    for path in paths:
        path.write_bytes(b"GGUF")
    source = {"files": [{"path": str(path)} for path in paths]}
    with pytest.raises(
        ValueError, match=r"name one GGUF file alone, not tiny-00001-of-00002\.gguf"
    ):
        fetch_model(str(tmp_path / "mine"), source=source, **SHAPE)


def with_code(source, folder, bait, **changes):
    """Copy a model folder and let its configuration name classes of a file beside it."""
    shutil.copytree(source, folder)
    (folder / "own.py").write_text(
        f"open({str(bait)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class OwnConfig(LlamaConfig): model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM): config_class = OwnConfig\n"
        "class OwnTokenizer(PreTrainedTokenizerFast): pass\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config | changes))
    path = folder / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    path.write_text(json.dumps(tokenizer))
    return folder


def test_the_code_of_a_model_is_never_run(case_of, tmp_path):
    """A folder with code is read by the library's own classes."""
    bait = tmp_path / "bait"
    folder = with_code(case_of("llama").folder, tmp_path / "source", bait)
    model = load_model(folder, "float32", "cpu")
    assert type(model).__module__.startswith("transformers.models.llama")
    assert load_tokenizer(folder)("You").input_ids
    fetch_model(str(tmp_path / "mine"), source={"path": str(folder)}, **SHAPE)
    assert not (tmp_path / "mine" / "own.py").exists()
    assert not bait.exists()
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert bait.exists()  # the bait works


def test_a_model_that_is_nothing_without_its_code_is_refused(case_of, tmp_path):
    bait = tmp_path / "bait"
    source = case_of("llama").folder
    folder = with_code(source, tmp_path / "source", bait, model_type="own")
    with pytest.raises(ValueError, match=r"trust_remote_code|own"):
        load_model(folder, "float32", "cpu")
    with pytest.raises(ValueError, match=r"it is made by code of its own repository|own"):
        fetch_model(str(tmp_path / "mine"), source={"path": str(folder)}, **SHAPE)
    assert not bait.exists()
    assert not (tmp_path / "mine").exists()


def test_pickled_weights_are_not_loaded(case_of, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(case_of("llama").folder, source)
    weights = load_model(source, "float32", "cpu").state_dict()
    (source / "model.safetensors").unlink()
    torch.save(weights, source / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_model(source, "float32", "cpu")


def test_a_disk_without_room_for_the_model_is_named(case_of, small_disk):
    with open(small_disk / "other", "wb") as other:
        other.write(bytes(2**21 - 2**16))
    source = {"path": str(case_of("llama").folder)}
    with pytest.raises(OSError, match=r"No space left .*/models/mine needs 2\d\d\.\d KiB"):
        fetch_model(str(small_disk / "models" / "mine"), source=source, **SHAPE)
    assert list((small_disk / "models").iterdir()) == []


def test_a_disk_without_room_for_a_saved_model_is_named(case_of, small_disk):
    case = case_of("llama")
    model, tokenizer = load_model(case.folder, "float32", "cpu"), load_tokenizer(case.folder)
    with open(small_disk / "other", "wb") as other:
        other.write(bytes(2**21 - 2**16))
    with pytest.raises(OSError, match=r"/models/mine needs 1\d\d\.\d KiB and 6\d\.\d KiB"):
        save_model(model, tokenizer, small_disk / "models" / "mine")
    assert list((small_disk / "models").iterdir()) == []


def write_gguf(path, model, tokenizer, added=(), left_out=(), scaling=None):
    """Write a llama model as GGUF: big matrices as Q8_0, the rest in float32.

    `added` maps names of further tensors to their values.
    GGUF keeps the rows of the query and key projections in another order of rotary pairs.
    """
    config = model.config
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    if scaling:
        writer.add_rope_scaling_type(scaling)
    writer.add_vocab_size(config.vocab_size)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    merges = [" ".join(pair) for pair in tokenizer_merges(tokenizer)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)

    def permuted(weight, number):
        halves = weight.reshape(number, 2, weight.shape[0] // number // 2, *weight.shape[1:])
        return halves.swapaxes(1, 2).reshape(weight.shape)

    names = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    stored = {}
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if name.startswith("model.layers."):
            number, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            target = f"blk.{number}.{names[part]}.weight"
            if part.endswith("q_proj"):
                values = permuted(values, heads)
            if part.endswith("k_proj"):
                values = permuted(values, groups)
        else:
            outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
            target = outer.get(name.removesuffix(".weight"), "output") + ".weight"
        if target in left_out:
            continue
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            packed = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(target, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            stored[name] = np.abs(values).max() / 127
        else:
            writer.add_tensor(target, np.ascontiguousarray(values, np.float32))
            stored[name] = 0
    for name, values in dict(added).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def tokenizer_merges(tokenizer):
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]


def build_without_biases():
    """Return a llama model as GGUF's have it."""
    config = tiny.build_model("llama").config
    config.mlp_bias = config.attention_bias = False
    torch.manual_seed(0)
    return type(tiny.build_model("llama"))(config).requires_grad_(False)


BIAS = {"blk.0.attn_q.bias": np.ones(32, np.float32)}
FACTORS = {"rope_freqs.weight": np.array([1, 8], np.float32)}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"added": BIAS}, r"no place is known for blk\.0\.attn_q\.bias"),
        ({"left_out": ["blk.1.ffn_up.weight"]}, "lacks 1 of the model's weights, such as model"),
        ({"added": FACTORS}, r"rotary positions are scaled by rope_freqs\.weight"),
        ({"scaling": gguf.RopeScalingType.LINEAR}, r"scaled by llama\.rope\.scaling\.type"),
    ],
)
def test_a_gguf_file_that_is_not_read_whole_is_refused(tmp_path, changes, named):
    file = tmp_path / "tiny.gguf"
    write_gguf(str(file), build_without_biases(), tiny.build_tokenizer(), **changes)
    with pytest.raises(ValueError, match=f"tiny.gguf: transformers reads another.*{named}"):
        fetch_model(str(tmp_path / "model"), source={"path": str(file)}, **SHAPE)
    assert not (tmp_path / "model").exists()


def test_rotary_factors_that_change_nothing_are_passed_over(tmp_path):
    file, factors = tmp_path / "tiny.gguf", {"rope_freqs.weight": np.ones(2, np.float32)}
    model = build_without_biases()
    write_gguf(str(file), model, tiny.build_tokenizer(), factors, scaling=gguf.RopeScalingType.NONE)
    fetch_model(str(tmp_path / "model"), source={"path": str(file)}, **SHAPE)


def test_a_gguf_file_becomes_a_plain_folder(tmp_path):
    model = build_without_biases()
    tokenizer = tiny.build_tokenizer()
    steps = write_gguf(str(tmp_path / "tiny.gguf"), model, tokenizer)
    fetch_model(str(tmp_path / "model"), source={"path": str(tmp_path / "tiny.gguf")}, **SHAPE)
    assert described_shape(tmp_path, "tiny.gguf") == read_shape(tmp_path / "model")
    loaded = load_model(tmp_path / "model", "float32", "cpu")
    assert not hasattr(loaded.config, "quantization_config")
    assert loaded.generation_config.eos_token_id in (0, [0])
    weights = loaded.state_dict()
    assert set(weights) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        # a quantised weight is off by half a step of its block at most, the others by nothing
        assert float((weights[name] - tensor).abs().max()) <= 0.51 * steps[name], name
    texts = list(tiny.PROMPTS)
    read = load_tokenizer(tmp_path / "model")
    assert read(texts).input_ids == tokenizer(texts).input_ids
    assert read.decode(read(texts[1]).input_ids) == texts[1]


def test_lengths_beyond_the_positions_are_refused(case_of, tmp_path):
    source = {"path": str(case_of("gpt2").folder)}
    fetch_model(
        str(tmp_path / "mine"), source=source, lengths={"corpus.window_tokens": 128}, **SHAPE
    )
    with pytest.raises(ValueError, match=r"reads at most 128 tokens.*corpus\.window_tokens: 129"):
        fetch_model(
            str(tmp_path / "long"), source=source, lengths={"corpus.window_tokens": 129}, **SHAPE
        )


def test_a_tokenizer_in_older_files_is_written_anew(case_of, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(case_of("opt").folder, source)
    model = json.loads((source / "tokenizer.json").read_text())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (source / "vocab.json").write_text(json.dumps(model["vocab"]))
    (source / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (source / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"source has no tokenizer\.json.*Correct tokenizer_class"):
        fetch_model(str(tmp_path / "mine"), source={"path": str(source)}, **SHAPE)
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    fetch_model(str(tmp_path / "mine"), source={"path": str(source)}, **SHAPE)
    assert (tmp_path / "mine" / "tokenizer.json").exists()
    texts = list(tiny.PROMPTS)
    found = load_tokenizer(tmp_path / "mine")(texts).input_ids
    assert found == tiny.build_tokenizer()(texts).input_ids


def test_a_leftover_of_a_merge_is_ignored_and_said(case_of, tmp_path, caplog):
    caplog.set_level("INFO")
    source = tmp_path / "source"
    shutil.copytree(case_of("llama").folder, source)
    (source / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    fetch_model(str(tmp_path / "mine"), source={"path": str(source)}, **SHAPE)
    assert "adapter_config.json is left over from a merge" in caplog.text
    assert not (tmp_path / "mine" / "adapter_config.json").exists()
