"""A tiny model of every causal-LM architecture in transformers, for audits and tests."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

ARCHITECTURES: Mapping[str, str] = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
"""Model type -> class name, in transformers' own order."""

NAMES_BY_SIZE: Mapping[int, str] = {
    48: "hidden_size d_model n_embd dim model_dim embed_dim decoder_hidden_size word_embed_proj_dim "
    "embedding_size input_embedding_size output_embedding_size hidden_dim lru_width d_embed "
    "attention_hidden_size n_embed cross_attention_hidden_size emb_dim width backbone_hidden_size",
    6: "num_attention_heads n_head num_heads n_heads decoder_attention_heads encoder_attention_heads "
    "decoder_num_attention_heads num_decoder_attention_heads num_encoder_attention_heads "
    "num_swa_attention_heads swa_num_attention_heads attention_heads",
    3: "num_key_value_heads multi_query_group_num num_kv_heads swa_num_key_value_heads "
    "num_global_key_value_heads num_swa_key_value_heads kv_n_heads",
    2: "num_hidden_layers n_layer num_layers decoder_layers encoder_layers n_layers num_decoder_layers "
    "num_encoder_layers num_blocks num_experts_per_tok num_experts_per_token moe_top_k moe_topk top_k "
    "num_selected_experts experts_per_token linear_num_key_heads mamba_n_groups mamba_ngroups n_groups",
    80: "intermediate_size ffn_dim n_inner decoder_ffn_dim encoder_ffn_dim ffn_hidden_size d_inner "
    "dense_intermediate_size intermediate_size_mlp block_ff_dim mlp_hidden_size ffw_size "
    "moe_shared_intermediate_size dim_ff d_ff",
    40: "moe_intermediate_size expert_intermediate_size moe_ffn_hidden_size expert_ffn_hidden_size "
    "expert_ff_dim",
    56: "shared_expert_intermediate_size shared_intermediate_size moe_shared_expert_intermediate_size",
    96: "vocab_size decoder_vocab_size encoder_vocab_size vocab_size_per_layer_input",
    64: "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length seq_length "
    "max_target_positions max_source_positions original_max_position_embeddings",
    16: "head_dim attention_head_size kv_channels d_kv global_head_dim swa_head_dim v_head_dim "
    "attention_window sliding_window local_attention chunk_size",
    4: "num_experts num_local_experts n_routed_experts moe_num_experts num_routed_experts n_experts "
    "moe_num_primary_experts linear_num_value_heads",
    1: "n_group topk_group first_k_dense_replace n_shared_experts num_shared_experts "
    "moe_num_shared_experts num_kv_shared_layers",
    24: "q_lora_rank",
    20: "kv_lora_rank",
    8: "qk_rope_head_dim state_size mamba_d_state ssm_state_size d_state mamba_state_dim time_step_rank "
    "mamba_dt_rank linear_key_head_dim linear_value_head_dim mamba_n_heads n_mamba_heads mamba_num_heads",
    12: "qk_nope_head_dim mamba_headdim mamba_d_head mamba_head_dim hidden_size_per_layer_input",
}
TINY: Mapping[str, int] = {name: size for size, names in NAMES_BY_SIZE.items() for name in names.split()}

NONE_IS_A_CHOICE = frozenset(
    [
        "head_dim",
        "n_inner",
        "num_key_value_heads",
        "q_lora_rank",
        "sliding_window",
        "num_shared_experts",
        "n_shared_experts",
        "d_inner",
        "shared_intermediate_size",
        "embedding_size",
        "ffn_dim",
        "attention_head_size",
    ]
)
TOKENS: Mapping[str, int] = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    **dict.fromkeys(
        [
            "eos_token_id",
            "decoder_start_token_id",
            "image_token_id",
            "cls_token_id",
            "sep_token_id",
            "unk_token_id",
        ],
        2,
    ),
}
LAYER_LISTS = ("layer_types", "mlp_layer_types", "layers_block_type")

LATENT = {"head_dim": 8, "qk_head_dim": 20, "num_key_value_heads": 6}
GEMMA_3N = {
    "num_kv_shared_layers": 0,
    "intermediate_size": [80, 80],
    "activation_sparsity_pattern": [0.95, 0.0],
}
GEMMA_4 = {"num_kv_shared_layers": 0, "per_layer_config": {1: {"head_dim": 32}}}
ASSISTANT = {
    "num_kv_shared_layers": 2,
    **dict.fromkeys(("hidden_size_per_layer_input", "vocab_size_per_layer_input"), 0),
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4}
INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}
NOTE = {
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "hidden_size": 48,
    "q_lora_rank": 24,
    "kv_lora_rank": 20,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 16,
    "head_dim": 20,
    "index_head_dim": 16,
    "index_n_heads": 4,
    "index_topk": 4,
    "sliding_window": 16,
    "swa_num_attention_heads": 6,
    "swa_num_key_value_heads": 6,
    "swa_q_lora_rank": 24,
    "swa_kv_lora_rank": 20,
    "swa_head_dim": 20,
    "swa_qk_nope_head_dim": 12,
    "swa_v_head_dim": 16,
    "num_hidden_layers": 3,
    "layer_types": ["indexed_attention", "indexed_attention", "sliding_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
}
NOTE_SETTLED = dict.fromkeys([*NOTE, "rope_parameters"], ...)

EXCEPTIONS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(
        [
            "axk1",
            "axk2",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "glm4_moe_lite",
            "glm_moe_dsa",
            "kimi_linear",
            "youtu",
            "minicpm3",
            "longcat_flash",
        ],
        LATENT,
    ),
    "gemma3n": {f"text_config.{name}": value for name, value in GEMMA_3N.items()},
    "gemma3n_text": GEMMA_3N,
    **{
        f"gemma4{middle}": {f"text_config.{name}": value for name, value in GEMMA_4.items()}
        for middle in ("", "_unified")
    },
    **dict.fromkeys(["gemma4_text", "gemma4_unified_text"], GEMMA_4),
    "gemma4_assistant": ASSISTANT,
    "gemma4_unified_assistant": ASSISTANT,
    "bailing_hybrid": {
        **LATENT,
        "num_expert_group": 1,
        "topk_group": 1,
        "linear_num_heads": 6,
        "linear_head_dim": 8,
    },
    "bamba": {"attn_layer_indices": [1]},
    "big_bird": {"attention_type": "original_full"},  # short inputs turn the other into it
    "blt": {
        "encoder_hash_byte_group_vocab": 50,
        "head_dim": 8,
        "global_config.hidden_size": 96,
        "global_config.head_dim": 16,
        "encoder_config.hidden_size_global": 96,
        "decoder_config.hidden_size_global": 96,
    },
    "codegen": {"n_head": 8, "rotary_dim": 4},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": PLAIN_ROPE, "sliding_attention": PLAIN_ROPE}
    },
    "dbrx": {"attn_config.rope_theta": 1e4, "attn_config.clip_qkv": 8.0},
    "diffllama": {"num_attention_heads": 8, "num_key_value_heads": 4},
    "dots1": {"n_shared_experts": 1},
    "dots3_note": NOTE_SETTLED,
    "dots3_note_text": NOTE_SETTLED,
    "ernie4_5_moe": {"moe_k": 2},
    "falcon_h1": {"mamba_d_ssm": 96},
    "gptj": {"rotary_dim": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "helium": {"head_dim": 8},
    "hrm_text": {"num_layers_per_stack": 2},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hy_v4": {"head_dim": 8, "num_key_value_heads": 6},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "laguna": {"num_attention_heads_per_layer": [6, 6]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 3, "head_dim": 16},
    "qwen4_exp": INDEXER,
    "qwen4_exp_text": INDEXER,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds": False},
    "xlnet": {"d_head": 8},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "num_heads": 4},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "num_hidden_layers": 3,
        "attention_hidden_size": 96,
        "attention_head_dim": 16,
        "n_mamba_heads": 2,
        "num_key_value_heads": 6,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "hybrid_layer_ids": [1, 2],
        "num_hidden_layers": 3,
        "attention_hidden_size": 96,
        "attention_head_dim": 16,
        "num_key_value_heads": 6,
    },
}
WITHOUT_LAYER_INPUTS = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}

AT_CONSTRUCTION: Mapping[str, Mapping[str, Any]] = {
    "dots3_note": {
        "text_config": NOTE,
        "vision_config": {"adapter_out_dim": 48},
        "audio_config": {"adapter_out_dim": 48},
    },
    "dots3_note_text": NOTE,
    "gemma4_assistant": {"text_config": WITHOUT_LAYER_INPUTS},
    "gemma4_unified_assistant": {"text_config": WITHOUT_LAYER_INPUTS},
}
"""What has to be known when a configuration is made, because others of its entries follow from it."""

ONLY_SINGLE = frozenset({"xglm"})
"""Architectures whose own code overflows in float64: it masks with the lowest number in a float32 tensor."""

SINGLE_PRECISION = ONLY_SINGLE | frozenset({"xlnet", "inkling2_text", "inkling_text"})
"""Architectures whose own code creates float32 tensors and does not run in float64."""


def tiny_config(model_type: str, **overrides: Any) -> PreTrainedConfig:
    """The architecture's default configuration with every width made small."""
    config = config_class(model_type)(**AT_CONSTRUCTION.get(model_type, {}))
    if model_type == "gemma3n":  # its own vision tower needs another package
        vision = CONFIG_MAPPING["siglip_vision_model"](vocab_size=8, vocab_offset=88, rms_norm_eps=1e-6)
        object.__setattr__(config, "vision_config", vision)
    shrink(config, {**EXCEPTIONS.get(model_type, {}), **overrides})
    if hasattr(config, "is_decoder"):
        config.is_decoder = True
    return config


def config_class(model_type: str) -> type[PreTrainedConfig]:
    """The configuration that the architecture's causal-LM class takes."""
    cls = CONFIG_MAPPING[model_type]
    if model_type in ("musicgen", "musicgen_melody"):  # the composite configuration builds no decoder
        return MODEL_FOR_CAUSAL_LM_MAPPING[cls].config_class
    return cls


def shrink(config: Any, exceptions: Mapping[str, Any]) -> None:
    """Make a configuration and those within it small; "inner.name" is an exception for one of those."""
    for name in dict.fromkeys([*config.to_dict(), *vars(config)]):
        value = value_of(config, name)
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            inner = {key: kept for key, kept in exceptions.items() if hasattr(value, key)}
            inner |= {k.partition(".")[2]: kept for k, kept in exceptions.items() if k.startswith(name + ".")}
            shrink(value, inner)
        elif name not in exceptions:
            set_if_allowed(config, name, small(name, value))
            if name in LAYER_LISTS and isinstance(value, list) and len(value) > 2:
                shorten(config, name, value)
    for name, value in exceptions.items():
        if "." not in name and value is not ...:
            setattr(config, name, value)


def small(name: str, value: Any) -> Any:
    """The small value of one entry, its own where the entry is no size."""
    if name in TOKENS and isinstance(value, (int, list)):
        return TOKENS[name]
    if name not in TINY or isinstance(value, bool) or not isinstance(value, (int, type(None))):
        return value
    unused = value is None and name in NONE_IS_A_CHOICE
    return value if unused or (name == "num_key_value_heads" and value == 0) else TINY[name]


def shorten(config: Any, name: str, kinds: list[str]) -> None:
    """Keep one layer of every kind, two layers at least."""
    distinct = list(dict.fromkeys(kinds))
    distinct = (distinct * 2)[:2] if len(distinct) < 2 else distinct
    setattr(config, name, distinct)
    for count in ("num_hidden_layers", "n_layer", "num_layers"):
        if hasattr(config, count):
            setattr(config, count, len(distinct))


def set_if_allowed(config: Any, name: str, value: Any) -> None:
    """Set an entry, unless the configuration computes it from others."""
    try:
        if value_of(config, name) != value:
            setattr(config, name, value)
    except Exception:  # a property, a validator or a per-layer entry says no, each in its own way
        return


def value_of(config: Any, name: str) -> Any:
    """An entry's value; None where there is no single one."""
    try:
        return getattr(config, name, None)
    except Exception:  # it varies from layer to layer
        return None


def tiny_model(
    model_type: str, device: str = "cpu", dtype: torch.dtype = torch.float64, **overrides: Any
) -> PreTrainedModel:
    """A tiny random model in evaluation mode, with eager attention and, on CPU, random weights everywhere."""
    config = tiny_config(model_type, **overrides)
    dtype = torch.float32 if model_type in SINGLE_PRECISION else dtype
    cls = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]]
    build = cls._from_config if cls.config_class is type(config) else AutoModelForCausalLM.from_config
    attempts: tuple[dict[str, str], ...] = (
        {"attn_implementation": "eager", "experts_implementation": "batched_mm"},
        {"attn_implementation": "eager"},
        {},
    )
    failure: Exception | None = None
    for options in attempts:
        try:
            with torch.device(device):
                model: PreTrainedModel = build(copy.deepcopy(config), dtype=dtype, **options)
            break
        except Exception as error:  # classes refuse these options in their own ways
            failure = error
    else:
        assert failure is not None
        raise failure
    if device != "meta":
        randomise(model)
    return model.eval()


def randomise(model: PreTrainedModel, seed: int = 0) -> None:
    """Draw all parameters anew, biases and norms too, at scales that keep activations of order one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            last = name.split(".")[-1]
            if parameter.dim() >= 2:
                parameter.copy_(noise / math.sqrt(parameter.shape[-1]))
            elif "A_log" in name or "dt" in last:
                parameter.add_((0.1 * noise).to(parameter.dtype))
            else:
                centre = float("bias" not in name and any(key in name.lower() for key in ("norm", "ln")))
                parameter.copy_(centre + 0.3 * noise)


class InDouble(TorchDispatchMode):
    """Computes in float64 what a model's code would do in float32."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Ask every operator for float64 where it is asked for float32."""
        single, double = torch.float32, torch.float64
        args, kwargs = tree_map(lambda leaf: double if leaf is single else leaf, (args, kwargs or {}))
        return function(*args, **kwargs)


def tiny_inputs(model: PreTrainedModel, length: int = 7) -> dict[str, Any]:
    """What the model's forward pass takes."""
    config = model.config
    device = next(model.parameters()).device
    ids = torch.arange(length, device=device)[None] + 3
    if "musicgen" in config.model_type:
        return {"input_ids": ids.repeat(config.num_codebooks, 1)}
    if config.model_type.endswith("assistant"):
        return assistant_inputs(model, length)
    return {"input_ids": ids}


def assistant_inputs(model: PreTrainedModel, length: int) -> dict[str, Any]:
    """Embeddings and another model's keys and values, which an assistant model attends to."""
    text = model.config.get_text_config()
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        noise = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return noise.to(parameter.device, parameter.dtype)

    states = {}
    for kind in set(text.layer_types):
        full = kind == "full_attention"
        heads = getattr(text, "num_global_key_value_heads", None) if full else None
        width = getattr(text, "global_head_dim", None) if full else None
        shape = (1, heads or text.num_key_value_heads, length, width or text.head_dim)
        states[kind] = (draw(*shape), draw(*shape))
    return {
        "inputs_embeds": draw(1, length, 2 * model.config.backbone_hidden_size),
        "shared_kv_states": states,
    }
