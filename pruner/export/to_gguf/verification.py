"""Does a GGUF file hold the model it was written from? Computed anew from the file alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REFERENCE = Path(__file__).with_name("reference.py")
TOLERANCE = 1e-4
NEW_TOKENS = 16


@torch.no_grad()
def verify_gguf(model: PreTrainedModel, path: Path) -> None:
    """Compare logits and greedy text of `model` with those computed from the file, in a fresh process.

    One pass over the model's own greedy text decides whether the file's would be the same.

    Args:
        model: in float32, with the weights that the file holds.
        path: the file.

    Raises:
        ValueError: the file cannot be read, or holds another model.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    prompt = torch.randint(vocabulary, (1, 12), generator=torch.Generator().manual_seed(0))
    greedy = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    text = model.generate(prompt, **greedy)  # type: ignore[operator]
    expected = model(text, use_cache=False).logits[0].float().numpy()
    found = computed(path, text[0].numpy())
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    same_text = np.array_equal(found.argmax(-1), expected.argmax(-1))
    if not difference <= TOLERANCE or not same_text:
        raise ValueError(f"{path.name} holds another model: logits differ by {difference:.1e} of the largest")


def computed(path: Path, ids: np.ndarray) -> np.ndarray:
    """(tokens, vocabulary) logits that a process without this project computes from the file."""
    with tempfile.TemporaryDirectory() as place:
        np.save(f"{place}/ids.npy", ids, allow_pickle=False)
        arguments = [str(path.resolve()), f"{place}/ids.npy", f"{place}/logits.npy"]
        command = [sys.executable, "-I", str(REFERENCE), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, cwd=place, check=False)
        if run.returncode:
            raise ValueError(f"{path.name} cannot be read: {run.stderr.strip().splitlines()[-1:]}")
        logits: np.ndarray = np.load(f"{place}/logits.npy", allow_pickle=False)
    return logits
