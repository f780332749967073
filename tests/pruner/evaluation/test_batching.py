"""The batch size is halved until memory suffices, and the result is that of any other."""

import pytest
import torch

from pruner.evaluation.batching import halving
from pruner.evaluation.perplexity import perplexity


class Small:
    """Memory for so many rows."""

    def __init__(self, rows, error):
        self.rows, self.error, self.seen = rows, error, []

    def __call__(self, module, args, kwargs):
        rows = len(args[0])
        self.seen.append(rows)
        if rows > self.rows:
            raise self.error


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["GPU", "CPU"])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(tiny, error):
    text = torch.randint(50, (400,), generator=torch.Generator().manual_seed(0))
    expected = perplexity(tiny, text, seq_len=16, batch_size=1)
    memory = Small(3, error)
    tiny.register_forward_pre_hook(memory, with_kwargs=True)
    found = halving(lambda size: perplexity(tiny, text, 16, size), 16)
    assert found == pytest.approx(expected, rel=1e-5)
    assert memory.seen[:3] == [16, 8, 4]
    assert set(memory.seen[3:-1]) == {2}


def test_a_single_row_that_does_not_fit_says_what_to_lower(tiny):
    tiny.register_forward_pre_hook(Small(0, ERRORS[0]), with_kwargs=True)
    with pytest.raises(ValueError, match=r"one row \(CUDA out of memory.*lower evaluation.seq_len"):
        halving(lambda size: perplexity(tiny, torch.arange(48), 16, size), 4)


def test_any_other_error_is_raised_as_it_is():
    def work(size):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        halving(work, 8)
