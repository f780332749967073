import json

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from pruner.budget import Budget
from pruner.calibration import Calibration
from pruner.discovery import discover
from pruner.importance import CRITERIA, NEED_NO_TEXT, estimate_importance
from pruner.importance.activations import project
from pruner.importance.kronecker import gradient_covariances
from pruner.pipeline import PruningSettings, prune
from pruner.pipeline.dense import Dense
from pruner.pipeline.measured import reached, settled
from pruner.progress import silent
from pruner.ranks import ALONE, Ranks, parcels

SCORED = [name for name in CRITERIA if name not in (*NEED_NO_TEXT, "kronecker")]
WORDS = "Once upon a time there was a little girl who had a red ball and a big dog. "
SAMPLES = torch.randint(3, 400, (5, 24), generator=torch.Generator().manual_seed(1))
WORLD = 2


def pruned(folder, text, together, visited=None):
    """The widths and weights that the default settings lead to."""
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    calibration = Calibration(
        str(text), num_samples=3, seq_len=200
    )  # two steps; one of them with no sample of the second process
    settings = PruningSettings(
        Budget(0.3, 1, layers=1), calibration=calibration, protect_first=1, protect_last=1
    )
    plan = prune(model, tokenizer, settings, together=together, visited=visited)
    return plan.kept, model.state_dict()


def scored(folder, ranks):
    """Criterion -> scores of all groups, with batches that do not come out even."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    groups = discover(model).groups
    return {
        name: estimate_importance(model, groups, SAMPLES, name, batch_size=2, ranks=ranks) for name in SCORED
    }


def covered(folder, ranks):
    """Covariances of gradients of every third sample, and of one alone, which only the first process has."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    projections = project(model, discover(model).groups)
    return [gradient_covariances(model, projections, SAMPLES, every=every, ranks=ranks) for every in (3, 5)]


def timed(folder, rank, slower):
    """The ratio at which a model takes less time, and its whole time; only the first machine is as fast."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    dense = Dense.of(model, discover(model))

    def clock(smaller):
        return (1 + slower * rank) * sum(weight.numel() for weight in smaller.parameters())

    asked = PruningSettings(
        Budget(target_latency=0.6 * clock(model) / (1 + slower * rank)), "l1", protect_first=0
    )
    ranks, measures = Ranks.of_group(), {"target_latency": clock}
    found = settled(model, dense, asked, silent, ranks, measures)
    return found.budget.ratio, reached(model, asked.budget, ranks, measures)["latency"]


def work(rank, folder, text, output):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{output}/meet", rank=rank, world_size=WORLD)
    result = (
        scored(folder, Ranks.of_group(len(SAMPLES))),
        [pruned(folder, text, True, visited) for visited in (None, torch.device("cpu"))],
        [timed(folder, rank, slower) for slower in (0.1, 9)],
        covered(folder, Ranks.of_group(len(SAMPLES))),
    )
    torch.save(result, output / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.jsonl"
    file.write_text("".join(json.dumps({"text": WORDS * (2 + i)}) + "\n" for i in range(12)))
    return file


@pytest.fixture(scope="module")
def together(data, text, tmp_path_factory):
    """What each of two processes found."""
    output = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(work, (data / "stories260K", text, output), nprocs=WORLD)
    return [torch.load(output / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.distributed
@pytest.mark.parametrize("criterion", SCORED)
def test_scores_do_not_depend_on_the_number_of_processes(together, data, criterion):
    alone = scored(data / "stories260K", ALONE)[criterion]
    for scores, *_ in together:
        torch.testing.assert_close(scores[criterion], alone, rtol=1e-4, atol=1e-6 * max_of(alone))


def max_of(scores):
    return max(float(vector.max()) for vector in scores.values())


@pytest.mark.distributed
def test_covariances_do_not_depend_on_the_number_of_processes(together, data):
    """Also where there are more of them than samples."""
    for alone, *theirs in zip(covered(data / "stories260K", ALONE), *(found for *_, found in together)):
        for other in theirs:
            for name, covariance in alone.items():
                torch.testing.assert_close(other[name], covariance, rtol=1e-4, atol=1e-6 * max_of(alone))


@pytest.mark.distributed
def test_processes_prune_alike_and_as_one_alone_does(together, data, text):
    """Also where layers come one at a time."""
    kept, weights = pruned(data / "stories260K", text, together=False)
    for theirs, state in (way for _, ways, *_ in together for way in ways):
        assert theirs == kept
        for name, weight in weights.items():
            torch.testing.assert_close(state[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.distributed
def test_a_measured_target_is_what_the_first_process_measured(together, data):
    """Also where the others could not reach it."""
    alone = timed(data / "stories260K", 0, 9)
    assert [found for _, _, found, _ in together] == [[alone, alone]] * WORLD


@pytest.mark.parametrize("most", [1, 5, 6, 1000])
def test_parcels_hold_every_tensor_once_in_order_and_no_more_than_fits(most):
    tensors = [
        torch.zeros(size, dtype=kind) for kind in (torch.float32, torch.float64) for size in (2, 3, 1, 9)
    ]
    packed = list(parcels(tensors, most))
    assert [id(each) for parcel in packed for each in parcel] == [id(each) for each in tensors]
    for parcel in packed:
        assert len({each.dtype for each in parcel}) == 1
        assert len(parcel) == 1 or sum(each.numel() for each in parcel) <= most
    assert len(packed) == {1: 8, 5: 6, 6: 4, 1000: 2}[most]


def test_every_sample_belongs_to_one_process():
    samples = torch.arange(7)
    parts = [Ranks(rank, 3).share(samples) for rank in range(3)]
    assert torch.cat(parts).equal(samples)
    assert [int(part[0]) for part in parts] == [Ranks(rank, 3).first(7) for rank in range(3)]
