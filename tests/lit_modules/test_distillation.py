"""A teacher's distributions are learned: exactly where all tokens count, bounded below where few do."""

import json

import pytest
import torch

from lit_modules.adapters import LoRA
from lit_modules.distillation import Distillation, likeliest, log_rest, summed_divergence
from lit_modules.recovery import Recovery


def logits_of(seed, num=5, vocabulary=20):
    return torch.randn(num, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def divergence(top_k, temperature=1.0):
    return summed_divergence(logits_of(1), likeliest(logits_of(2), temperature, top_k), temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_over_all_tokens_it_is_the_kl_divergence_at_a_temperature(temperature):
    teacher, student = (
        torch.distributions.Categorical(logits=logits_of(seed) / temperature) for seed in (2, 1)
    )
    expected = temperature**2 * torch.distributions.kl_divergence(teacher, student).sum()
    torch.testing.assert_close(divergence(None, temperature), expected)


def test_over_fewer_tokens_it_never_exceeds_that_and_reaches_it():
    values = [divergence(top_k).item() for top_k in (1, 4, 10, 19, 20)]
    assert values[:-1] == sorted(values[:-1])
    assert values[-2] == pytest.approx(values[-1], rel=1e-4)
    assert values[0] > 0


@pytest.mark.parametrize("top_k", [None, 3])
def test_a_student_like_its_teacher_has_nothing_to_learn(top_k):
    logits = logits_of(1).requires_grad_()
    loss = summed_divergence(logits, likeliest(logits.detach(), 2.0, top_k), 2.0)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-5, rtol=0)


def test_a_teacher_that_is_sure_leaves_finite_loss_and_gradients():
    teacher = torch.zeros(1, 20)
    teacher[0, 3] = 200.0
    logits = logits_of(1, num=1).requires_grad_()
    loss = summed_divergence(logits, likeliest(teacher, 1.0, 4), 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_what_is_left_is_the_sum_of_the_others():
    log_probabilities = logits_of(4).log_softmax(-1)
    rest = log_probabilities[:, 6:].logsumexp(-1, keepdim=True)
    torch.testing.assert_close(log_rest(log_probabilities[:, :6]), rest)


@pytest.mark.parametrize("schedule, end", [("constant", 0.6), ("linear", 0.0), ("cosine", 0.0)])
def test_the_weight_follows_its_schedule(schedule, end):
    weights = [Distillation(weight=0.6, schedule=schedule).weight_at(step, 10) for step in range(11)]
    assert weights[0] == 0.6
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] == pytest.approx(end)


def distilled(fit, stories, make_data, folder, **settings):
    module = Recovery(
        stories,
        lora=LoRA(dropout=0.0),
        learning_rate=1e-2,
        warmup_steps=1,
        distillation=Distillation(**settings),
    )
    return fit(folder, module=module, data=make_data(batching="packed"), max_steps=3, limit_val_batches=0)


def test_a_cached_teacher_teaches_what_a_live_one_does(fit, stories, make_data):
    live = distilled(fit, stories, make_data, "live", top_k=16, temperature=2.0)[1]
    _, cached = distilled(fit, stories, make_data, "cached", top_k=16, temperature=2.0, cached=True)
    assert [rows for _, rows, _ in live] == [rows for _, rows, _ in cached]
    assert [loss for *_, loss in cached] == pytest.approx([loss for *_, loss in live], rel=2e-3)
    (folder,) = (make_data().cache_dir).glob("teacher-*")
    written = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    _, again = distilled(fit, stories, make_data, "again", top_k=16, temperature=2.0, cached=True)
    assert again == cached
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == written


def test_the_unpruned_model_has_nothing_to_learn_from_itself(fit, stories, make_data):
    _, seen = distilled(fit, stories, make_data, "self", weight=1.0, top_k=None)
    assert abs(seen[0][2]) < 1e-5


def test_a_teacher_is_neither_trained_nor_saved(fit, stories, make_data, tmp_path):
    module, _ = distilled(fit, stories, make_data, "run")
    assert module.teacher is not None
    assert all(name.startswith("model.") for name, _ in module.named_parameters())
    assert not any(p.requires_grad for p in module.teacher.model.parameters())


def test_learning_from_the_dense_model_lowers_the_divergence(fit, stories, make_data, tmp_path):
    from pruner.checkpoint import load_model

    def damaged():
        module = Recovery(
            stories, lora=None, learning_rate=1e-3, distillation=Distillation(weight=1.0, top_k=None)
        )
        model = load_model(stories)
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.3 * parameter.std() * noise
        model.config.use_cache = False
        module.model = model
        return module

    _, seen = fit(module=damaged(), data=make_data(), max_epochs=4, limit_val_batches=0)
    losses = [loss for *_, loss in seen]
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"weight": 0.0}, "weight in"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"top_k": 0}, "top_k > 0"),
        ({"cached": True, "top_k": None}, "set top_k"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(stories, settings, message):
    with pytest.raises(ValueError, match=message):
        Recovery(stories, distillation=Distillation(**settings))


def test_a_teacher_with_another_vocabulary_is_refused_at_once(stories, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(stories, other)
    file = other / "tokenizer.json"
    words = json.loads(file.read_text())
    vocabulary = words["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(words))
    with pytest.raises(ValueError, match=r"another vocabulary than .* 4 entries differ"):
        Recovery(stories, distillation=Distillation(teacher=str(other)))
    Recovery(stories, distillation=Distillation(teacher=stories))
