import copy

import pytest
import torch
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from pruner.budget import Budget
from pruner.bypass import bypasses
from pruner.calibration import Calibration
from pruner.compensation import Compensation
from pruner.compensation.distilling import (
    descend,
    distil,
    hidden_states,
    log_probabilities,
    loss_of,
    matrices_of,
)
from pruner.compensation.factored import Factored, rounded
from pruner.discovery import discover
from pruner.gradients import streamed_gradients
from pruner.pipeline import PruningSettings, prune
from pruner.progress import silent
from pruner.ranks import ALONE

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 64}
LLAMA = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
ARCHITECTURES = {
    "llama": LLAMA,
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 1},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": 64},
    "opt": {**SMALL, "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 16},
    "gemma2": {**LLAMA, "head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 5.0},
    "cohere": {**LLAMA, "logit_scale": 0.25},
    "granite": {**LLAMA, "logits_scaling": 3.0},
    "mixtral": {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
}


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[request.param](**ARCHITECTURES[request.param])
    config.pad_token_id = 0
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@pytest.fixture
def tokens():
    return torch.randint(1, 64, (6, 200), generator=torch.Generator().manual_seed(2))[:, :48]


@torch.no_grad()
def test_the_model_makes_its_own_predictions_of_what_leaves_its_last_layer(model, tokens):
    layers = discover(model).layers
    expected = model(tokens, use_cache=False).logits.log_softmax(-1)
    hidden = hidden_states(model, layers[-1], tokens)
    given = log_probabilities(model, bypasses(model, layers, tokens[:1]), torch.ones_like(tokens), hidden)
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("share", [1.0, 0.25, 0.0])
def test_the_backward_pass_is_that_of_divergence_and_cross_entropy_of_all_predictions(model, tokens, share):
    layers = discover(model).layers
    expected_of, matrices = model(tokens, use_cache=False).logits, dict(matrices_of(model, layers))
    teacher = torch.randn_like(hidden_states(model, layers[-1], tokens))
    ending, found = bypasses(model, layers, tokens[:1]), {}
    with torch.no_grad():
        wanted = log_probabilities(model, ending, tokens, teacher)
    given = expected_of.log_softmax(-1)
    divergence = (wanted.exp() * (wanted - given)).sum(-1).mean(-1)
    surprise = F.cross_entropy(given[:, :-1].mT, tokens[:, 1:], reduction="none").mean(-1)
    loss = (share * divergence + (1 - share) * surprise).sum() * 0.5
    expected = torch.autograd.grad(loss, list(matrices.values()), materialize_grads=True)
    with streamed_gradients(model, matrices, lambda name, gradient: found.update({name: gradient.clone()})):
        descend(model, ending, tokens, teacher, share, 0.5)
    for name, gradient in zip(matrices, expected):
        torch.testing.assert_close(found.get(name, torch.zeros_like(gradient)), gradient)


@torch.no_grad()
def distance(model, layers, tokens, teacher):
    """Mean divergence of the model from the dense one."""
    hidden = hidden_states(model, layers[-1], tokens)
    return loss_of(model, bypasses(model, layers, tokens[:1]), tokens, teacher, hidden).item()


def test_all_matrices_of_the_layers_come_nearer_to_the_dense_model_and_all_else_stays(model, tokens):
    layers = discover(model).layers
    teacher = hidden_states(model, layers[-1], tokens).detach()
    matrices = dict(matrices_of(model, layers))
    with torch.no_grad():
        for matrix in matrices.values():
            matrix.add_(torch.randn_like(matrix) * 0.05)
    before = copy.deepcopy(model.state_dict())
    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    far = distance(model, layers, tokens, teacher)
    settings = Compensation(epochs=8, divergence=1.0, learning_rate=0.01)
    distil(model, layers, [], teacher, tokens, settings, silent, ALONE)
    assert 0 < distance(model, layers, tokens, teacher) < 0.9 * far
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != (name in matrices), name
    assert asked == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_predictions_that_are_not_finite_are_refused(tokens):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**LLAMA)).eval()
    layers = discover(model).layers
    teacher = hidden_states(model, layers[-1], tokens).detach()
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"not finite .*compensation.epochs to 0"):
        distil(model, layers, [], teacher, tokens, Compensation(), silent, ALONE)


@pytest.mark.parametrize(
    "wrong",
    [{"divergence": 1.5}, {"divergence": -0.1}, {"epochs": -1}, {"learning_rate": 0.0}, {"damping": 0.0}],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_with_what_came(wrong):
    with pytest.raises(ValueError, match=f"compensation needs .*{next(iter(wrong.values()))}"):
        Compensation(**wrong)


def test_a_pass_over_the_text_helps_on_text_it_has_not_seen(stories, tmp_path):
    model, tokenizer = stories
    torch.manual_seed(0)
    told = model.generate(torch.full((64, 1), 1), do_sample=True, max_new_tokens=128, pad_token_id=0)
    file = tmp_path / "own.txt"
    file.write_text("\n".join(tokenizer.decode(row, skip_special_tokens=True) for row in told[:48]))
    layers, held_out = discover(model).layers, told[48:, 1:]
    teacher, found = hidden_states(model, layers[-1], held_out).detach(), {}
    for epochs in (0, 1):
        pruned = copy.deepcopy(model)
        settings = PruningSettings(
            Budget(0.3, 1),
            protect_first=1,
            protect_last=0,
            calibration=Calibration(str(file), num_samples=64, seq_len=64),
            compensation=Compensation(epochs=epochs, divergence=1.0),
        )
        prune(pruned, tokenizer, settings)
        found[epochs] = distance(pruned, layers, held_out, teacher)
    assert found[1] < 0.9 * found[0]


@pytest.mark.parametrize("shape", [(5, 3), (4, 9)])
def test_steps_are_those_of_adafactor_without_momentum(shape):
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(shape))
    theirs = torch.nn.Parameter(ours.detach().clone())
    optimizer = torch.optim.Adafactor([theirs], lr=0.02)
    factored = Factored()
    factored.rate = 0.02
    for _ in range(8):
        theirs.grad = torch.randn(shape) * torch.rand(shape[0], 1)
        factored.step("weight", ours, theirs.grad.clone())
        optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_stack_of_matrices_is_stepped_like_each_of_them():
    torch.manual_seed(0)
    stack, gradient = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    together, alone = Factored(), Factored()
    together.rate = alone.rate = 0.1
    expected = stack.clone()
    for number in range(3):
        alone.step(str(number), expected[number], gradient[number].clone())
    together.step("stack", stack, gradient)
    torch.testing.assert_close(stack, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_below_the_weights_precision_count_on_average(dtype):
    step = torch.finfo(dtype).eps / 20
    weight = torch.ones(200, 200, dtype=dtype)
    for seed in range(50):
        weight = rounded(weight.float() + step, dtype, seed)
    assert weight.float().mean().item() - 1 == pytest.approx(50 * step, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_the_weights_precision_can_hold_stays_as_it_is(dtype):
    values = torch.randn(1000).to(dtype)
    assert torch.equal(rounded(values.float(), dtype, 0), values)
