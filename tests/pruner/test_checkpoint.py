"""The law of a checkpoint: the saved model is the one in memory, wherever it is loaded."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from pruner.checkpoint import load_model, load_tokenizer, save_model
from pruner.discovery import discover
from pruner.surgery import remove, zero

FRESH = Path(__file__).with_name("fresh_process.py")
OLD = Path(".venv-457")

SMALL = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 3}
HALVABLE = {**SMALL, "num_key_value_heads": 6, "head_dim": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 50000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS = {
    "llama": transformers.LlamaConfig(**SMALL),
    "llama_grouped_tied": transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "llama3": transformers.LlamaConfig(**GROUPED, rope_parameters=LLAMA3_ROPE),
    "mistral": transformers.MistralConfig(
        **GROUPED, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
    ),
    "qwen2": transformers.Qwen2Config(**GROUPED),
    "qwen3": transformers.Qwen3Config(**GROUPED, head_dim=8),
    "gemma2": transformers.Gemma2Config(**GROUPED, head_dim=8, sliding_window=4),
    "phi3": transformers.Phi3Config(**GROUPED),
    "olmo": transformers.OlmoConfig(**GROUPED),
    "starcoder2": transformers.Starcoder2Config(**GROUPED),
    "mixtral": transformers.MixtralConfig(**GROUPED, **EXPERTS),
    "gpt2": transformers.GPT2Config(
        vocab_size=96, n_embd=48, n_layer=4, n_head=6, n_positions=64, eos_token_id=2
    ),
    "gpt_neox": transformers.GPTNeoXConfig(**SMALL),
    "opt": transformers.OPTConfig(**SMALL, ffn_dim=80, word_embed_proj_dim=48),
    "falcon": transformers.FalconConfig(**SMALL, new_decoder_architecture=True, num_kv_heads=3),
    "bloom": transformers.BloomConfig(vocab_size=96, hidden_size=48, n_layer=4, n_head=6),
}
STOCK = {
    "llama": "LlamaForCausalLM",
    "llama_grouped_tied": "LlamaForCausalLM",
    "llama3": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "olmo": "OlmoForCausalLM",
}
"""Architectures whose configuration has an entry for every width."""

REFUSED_BY_4_57 = {"gpt_neox-layers", "gpt_neox-equal", "mixtral-layers"}
"""Cases whose weights 4.57 knows by other names, and that no stock class translates."""

CASES = [f"{name}-{form}" for name in MODELS for form in ("layers", "equal")]


def tiny(name: str) -> transformers.PreTrainedModel:
    """A model with weights large enough for a wrong one to show."""
    torch.manual_seed(0)
    options = {"experts_implementation": "batched_mm"} if name == "mixtral" else {}
    model = transformers.AutoModelForCausalLM.from_config(
        MODELS[name], attn_implementation="eager", **options
    ).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.15)
    return model


def cut(model: transformers.PreTrainedModel, form: str) -> None:
    """Remove units: from all layers alike, or from each another number and from the first none."""
    groups = discover(model).groups
    kept = {}
    for group in groups:
        if group.kind in ("mlp", "attention"):
            gone = group.num_units // 3 if group.kind == "attention" else 8
            if form == "layers":
                gone = group.layer % 3 * (1 if group.kind == "attention" else 8)
            kept[group.name] = range(gone, group.num_units)
    remove(model, groups, kept)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pruned models, saved, each with what it computed in memory."""
    root = tmp_path_factory.mktemp("cases")
    for case in CASES:
        model = tiny(case.rpartition("-")[0])
        cut(model, case.rpartition("-")[2])
        save_model(model, word_tokenizer(), saved(root, case))
        input_ids = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            logits = model(input_ids).logits.contiguous()
            tokens = model.generate(
                input_ids, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None
            )
        expected = {"input_ids": input_ids, "logits": logits, "greedy": tokens}
        save_file(expected, root / case / "expected.safetensors")
    return root


def saved(cases: Path, case: str) -> Path:
    """Where a case's model lies: of its own name, which 4.57 caches the code by."""
    return cases / case / case


def outcomes(python: str | Path, cases: Path) -> dict[str, dict]:
    """What a process without this project finds in the cases."""
    found = cases.with_name("found.json")
    command = [str(Path(python).absolute()), "-I", str(FRESH), str(cases), str(found)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cases, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(found.read_text())


@pytest.fixture(scope="module")
def fresh(cases: Path) -> dict[str, dict]:
    return outcomes(sys.executable, cases)


@pytest.fixture(scope="module")
def fresh_in_4_57(cases: Path) -> dict[str, dict]:
    if not (OLD / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", OLD], check=True)
        for packages in ([f"torch=={torch.__version__.partition('+')[0]}"], ["transformers==4.57.*"]):
            subprocess.run([OLD / "bin/python", "-m", "pip", "install", "--quiet", *packages], check=True)
    return outcomes(OLD / "bin/python", cases)


def assert_equal_to_memory(found: dict) -> None:
    assert "failed" not in found, found["failed"]
    assert found["error"] <= 1e-5 * found["scale"]
    assert found["again"] <= 1e-5 * found["scale"]
    assert found["cached"]
    assert found["uncached"]
    assert found["tokens"] == {"input_ids": [3, 2], "attention_mask": [1, 1]}


@pytest.mark.parametrize("case", CASES)
def test_a_saved_model_computes_in_a_fresh_process_what_it_did_in_memory(case, fresh):
    assert_equal_to_memory(fresh[case])


@pytest.mark.network
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", CASES)
def test_transformers_4_57_computes_the_same_or_refuses(case, fresh_in_4_57):
    found = fresh_in_4_57[case]
    if case in REFUSED_BY_4_57:
        assert "names them otherwise" in found["failed"]
    else:
        assert_equal_to_memory(found)


@pytest.mark.parametrize("name", STOCK)
def test_equal_layers_are_saved_as_a_stock_class(name, cases, fresh):
    assert fresh[f"{name}-equal"]["class"] == STOCK[name]
    assert not list(saved(cases, f"{name}-equal").glob("*.py"))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "starcoder2"])
def test_half_of_the_heads_are_fewer_heads_and_not_narrower_ones(name, tmp_path):
    model = transformers.AutoModelForCausalLM.from_config(type(MODELS[name])(**HALVABLE))
    groups = [group for group in discover(model).groups if group.kind in ("mlp", "attention")]
    remove(model, groups, {group.name: range(group.num_units // 2) for group in groups})
    save_model(model, None, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["architectures"] == [STOCK[name]]
    assert (config["num_attention_heads"], config["intermediate_size"]) == (3, 40)


def test_a_head_count_that_llama_refuses_is_saved_as_mistral(tmp_path):
    model = tiny("llama")
    groups = discover(model).groups
    remove(model, groups, {group.name: range(5) for group in groups if group.kind == "attention"})
    save_model(model, None, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["architectures"] == ["MistralForCausalLM"]
    assert (config["num_attention_heads"], config["head_dim"], config["sliding_window"]) == (5, 8, None)
    assert_same_logits(load_model(tmp_path / "model"), model)


def assert_same_logits(model, other) -> None:
    input_ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids).logits, other(input_ids).logits)


def test_tied_weights_come_back_tied_and_are_saved_once(cases, fresh):
    assert fresh["llama_grouped_tied-layers"]["tied"]
    assert fresh["llama_grouped_tied-equal"]["tied"]
    assert not fresh["llama-layers"]["tied"]


@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_zero_3_shards_every_weight_while_loading(cases, tmp_path):
    case = cases / "llama_grouped_tied-layers"
    files = [case / case.name, case / "expected.safetensors", tmp_path / "found.json"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).with_name("sharded_process.py")
    done = subprocess.run([*launcher, script, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(files[-1].read_text()) == {"sharded": True, "tied": True, "error": 0.0}


def test_the_trunk_alone_loads_as_automodel(fresh):
    assert fresh["llama-layers"]["trunk"] == "PrunedLlamaModel"
    assert fresh["llama-layers"]["trunk_equal"]


def test_the_configuration_tells_each_layers_widths(cases):
    config = json.loads((saved(cases, "llama_grouped_tied-layers") / "config.json").read_text())
    assert config["per_layer_config"] == {
        "1": {"intermediate_size": 72, "num_attention_heads": 4, "num_key_value_heads": 2},
        "2": {"intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1},
    }
    assert config["pruned_modules"]["model.layers.1.mlp.up_proj"] == {"out_features": 72, "weight": [72, 48]}


def test_a_static_cache_has_each_layers_own_size(cases):
    model = load_model(saved(cases, "llama_grouped_tied-layers"))
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    input_ids = torch.arange(3, 12)[None]
    static = model.generate(input_ids, cache_implementation="static", disable_compile=True, **options)
    assert torch.equal(static, model.generate(input_ids, **options))


@pytest.mark.parametrize("name", ["qwen2", "bloom", "phi3", "mixtral"])
def test_a_pruned_model_can_be_pruned_and_saved_again(name, cases, tmp_path):
    model = load_model(saved(cases, f"{name}-layers"))
    groups = [group for group in discover(model).groups if group.kind in ("mlp", "attention")]
    assert {(group.kind, group.layer) for group in groups} >= {("mlp", 2), ("attention", 1)}
    kept = {group.name: range(0, group.num_units, 2) for group in groups}
    zeroed = copy.deepcopy(model)
    zero(zeroed, groups, kept)
    remove(model, groups, kept)
    assert_same_logits(model, zeroed)
    save_model(model, None, tmp_path / "model")
    assert_same_logits(load_model(tmp_path / "model"), model)


def test_the_code_of_this_release_runs_unasked_and_any_other_does_not(cases, tmp_path):
    model = load_model(saved(cases, "llama-layers"))
    save_model(model, None, tmp_path / "model")
    assert_same_logits(load_model(tmp_path / "model"), model)
    code = tmp_path / "model" / "modeling_pruned.py"
    for other in ("# of an earlier release\n" + code.read_text(), "raise SystemExit\n"):
        code.write_text(other)
        with pytest.raises(ValueError, match=r"modeling_pruned\.py is not the file that this release"):
            load_model(tmp_path / "model")


def test_the_code_of_another_release_runs_where_it_is_trusted(cases, tmp_path):
    shutil.copytree(saved(cases, "llama-layers"), tmp_path / "model")
    code = tmp_path / "model" / "modeling_pruned.py"
    code.write_text(code.read_text() + "\n# of another release\n")
    model = load_model(tmp_path / "model", trust_remote_code=True)
    assert_same_logits(model, load_model(saved(cases, "llama-layers")))


def test_the_weights_keep_their_dtype(tmp_path):
    model = tiny("llama").to(torch.bfloat16)
    cut(model, "layers")
    save_model(model, None, tmp_path / "model")
    assert load_model(tmp_path / "model").dtype == torch.bfloat16
    assert load_model(tmp_path / "model", dtype="float32").dtype == torch.float32


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = tiny("llama_grouped_tied")
    cut(model, "equal")
    before = model.config.to_dict()
    save_model(model, None, tmp_path / "model")
    assert model.config.to_dict() == before


def test_a_folder_that_holds_no_model_is_never_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files but no model"):
        save_model(tiny("llama"), None, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_save_that_fails_leaves_what_was_there(tmp_path):
    folder = tmp_path / "model"
    save_model(tiny("llama"), None, folder)
    before = sorted((file.name, file.stat().st_size) for file in folder.iterdir())
    broken = tiny("llama")
    del broken.model.layers[1].mlp
    with pytest.raises(ValueError, match="only the dense model has a module"):
        save_model(broken, None, folder)
    assert sorted((file.name, file.stat().st_size) for file in folder.iterdir()) == before
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_tokenizer_comes_back_equal(cases, tmp_path):
    tokenizer = word_tokenizer()
    save_model(tiny("llama"), tokenizer, tmp_path / "model")
    again = load_tokenizer(tmp_path / "model")
    assert again("b a").input_ids == tokenizer("b a").input_ids
    assert again.pad_token == tokenizer.eos_token


def word_tokenizer() -> transformers.PreTrainedTokenizerBase:
    """Words by spaces; an end of text, no padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
