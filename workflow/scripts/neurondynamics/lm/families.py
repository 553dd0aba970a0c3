"""Where each model family keeps its parts. The only module that knows a family.

To add one, add a row to `FAMILIES`; `dissect` in anatomy.py checks a model against its row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MODULES = ("mlp", "attention")  # what writes into the residual stream, by a projection each


@dataclass(frozen=True)
class Family:
    """Module paths of one family: `blocks` and `final_norm` from the model, the rest from a block.

    `keys` are the projections whose outputs the neuron's nonlinearity reads: one in a plain MLP,
    gate and up in a gated one; a projection of several times as many outputs as there are neurons
    holds them one after the other. `attention` and `mlp` are the modules whose outputs are added
    to the residual stream: in a family that normalises an output before adding it, that norm.

    `out` is attention's output projection; the module that it lies in has all of attention's
    parameters. `qkv` are the projections to queries, keys and values: three, or one that holds
    them all, as `fused` says: in "sections", the queries of all heads before all keys and those
    before all values, or by "groups", of each key/value group its heads' queries, its key and its
    value, which where every head has its own is head by head. How many groups there are follows
    from the widths.

    `mlp_bias` and `attention_bias` are the switches of the configuration that give the projections
    of either biases, if the family has one; it may be the same. `refused` holds settings of the
    configuration, each with a value under which the parts are not what the row says, and the
    reason.
    """

    blocks: str
    final_norm: str
    keys: tuple[str, ...]
    down: str
    attention: str
    mlp: str
    out: str
    qkv: tuple[str, ...]
    fused: str | None = None
    mlp_bias: str | None = None
    attention_bias: str | None = None
    refused: tuple[tuple[str, object, str], ...] = ()


_NO_SUM = (
    "its blocks normalise the residual stream itself, which then is not the sum of what attention "
    "and MLPs add to it"
)
_GPT2 = Family(
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    keys=("mlp.c_fc",),
    down="mlp.c_proj",
    attention="attn",
    mlp="mlp",
    out="attn.c_proj",
    qkv=("attn.c_attn",),
    fused="sections",
)
_SEPARATE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LLAMA = Family(
    blocks="model.layers",
    final_norm="model.norm",
    keys=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    attention="self_attn",
    mlp="mlp",
    out="self_attn.o_proj",
    qkv=_SEPARATE,
)

# The norms behind attention and MLP are what the residual stream gets. Value vectors are those of
# the down projection, before that norm, as in the paper.
_GEMMA = replace(
    _LLAMA,
    attention="post_attention_layernorm",
    mlp="post_feedforward_layernorm",
    attention_bias="attention_bias",
)
_FALCON = Family(
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    keys=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    attention="self_attention",
    mlp="mlp",
    out="self_attention.dense",
    qkv=("self_attention.query_key_value",),
    fused="groups",  # of which there are one, some or as many as heads
    mlp_bias="bias",
    attention_bias="bias",
)

# `model_type` of the Hugging Face configuration -> where its parts are
FAMILIES: dict[str, Family] = {
    # both modules of Bloom add the residual stream to what they return, so their last
    # projections are what is added to it
    "bloom": replace(
        _FALCON,
        attention="self_attention.dense",
        mlp="mlp.dense_4h_to_h",
        mlp_bias=None,  # there always are
        attention_bias=None,
        refused=(
            ("apply_residual_connection_post_layernorm", True, _NO_SUM),
            (
                "slow_but_exact",
                True,
                "its blocks then multiply with slices of the output and down projections' weights "
                "and not through the modules, where interventions act; set it to false in "
                "config.json",
            ),
        ),
    ),
    "falcon": _FALCON,
    "gemma2": _GEMMA,
    "gemma3_text": replace(
        _GEMMA,
        refused=(
            (
                "use_bidirectional_attention",
                True,
                "its attention reads what comes later too, so it does not write text",
            ),
        ),
    ),
    "gpt2": _GPT2,
    "gpt_neox": Family(
        blocks="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        keys=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        attention="attention",
        mlp="mlp",
        out="attention.dense",
        qkv=("attention.query_key_value",),
        fused="groups",
        attention_bias="attention_bias",
    ),
    "gptj": replace(
        _GPT2,
        keys=("mlp.fc_in",),
        down="mlp.fc_out",
        out="attn.out_proj",
        qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        fused=None,
    ),
    "llama": replace(_LLAMA, mlp_bias="mlp_bias", attention_bias="attention_bias"),
    "mistral": _LLAMA,
    "opt": Family(
        blocks="model.decoder.layers",
        final_norm="model.decoder.final_layer_norm",
        keys=("fc1",),
        down="fc2",
        attention="self_attn",
        mlp="fc2",
        out="self_attn.out_proj",
        qkv=_SEPARATE,
        mlp_bias="enable_bias",
        attention_bias="enable_bias",
        refused=(("do_layer_norm_before", False, _NO_SUM),),
    ),
    "phi3": replace(
        _LLAMA, keys=("mlp.gate_up_proj",), qkv=("self_attn.qkv_proj",), fused="sections"
    ),
    "qwen2": _LLAMA,  # queries, keys and values have biases, the output projection never has
    "qwen3": replace(_LLAMA, attention_bias="attention_bias"),
}

# `model_type` -> why its models cannot be studied, where there is something to be done about it
REFUSED = {
    "gemma3": """they read images too. Save the language model alone, beside the tokenizer, with
    whole = AutoModelForCausalLM.from_pretrained(folder)
    text = Gemma3ForCausalLM(whole.config.text_config)
    text.model, text.lm_head = whole.model.language_model, whole.lm_head
    text.generation_config = whole.generation_config
    text.save_pretrained(another_folder)""",
}
