"""Does a folder hold the model it was written from? Asked of a fresh process that knows nothing of us."""

import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
NEW_TOKENS = 16

READER = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
folder, ids_file, answer_file, new_tokens = sys.argv[1:]
ids = load_file(ids_file)["ids"]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, use_safetensors=True).eval()
with torch.no_grad():
    logits = model(ids, use_cache=False).logits.float().contiguous()
    lengths = {"max_new_tokens": int(new_tokens), "min_new_tokens": int(new_tokens)}
    text = model.generate(ids, do_sample=False, **lengths)
save_file({"logits": logits, "text": text.contiguous()}, answer_file)
"""


def has_room(model: nn.Module) -> bool:
    """Whether memory suffices for one more copy of a model, in float32; says so in the log if not."""
    free, needed = available_memory(), 4 * sum(value.numel() for value in model.parameters())
    if free is None or free > needed:
        return True
    log.warning("not verified: that takes %.1f GiB more, and %.1f are free", needed / 2**30, free / 2**30)
    return False


def available_memory() -> int | None:
    """Bytes that a new process can have without swapping, as Linux says; None where nothing says so."""
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


@torch.no_grad()
def verify_export(model: "PreTrainedModel", folder: Path) -> None:
    """Compare logits and greedy text of `model` with those of what lies in `folder`.

    Raises:
        ValueError: the folder does not load without this project, or holds another model.
    """
    from safetensors.torch import save_file

    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (1, 12), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as place:
        save_file({"ids": ids}, f"{place}/ids.safetensors")
        answer = f"{place}/answer.safetensors"
        arguments = [str(folder.resolve()), f"{place}/ids.safetensors", answer, str(NEW_TOKENS)]
        run = subprocess.run(
            [sys.executable, "-I", "-c", READER, *arguments], capture_output=True, text=True, cwd=place
        )
        if run.returncode:
            raise ValueError(f"{folder} does not load by itself: {run.stderr.strip().splitlines()[-1:]}")
        read = load_file(answer)
    expected = model(ids, use_cache=False).logits.float()
    difference = float((read["logits"] - expected).abs().max() / expected.abs().max())
    greedy = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    text = model.generate(ids, **greedy)  # type: ignore[operator]
    if not difference <= TOLERANCE or not torch.equal(text, read["text"]):
        raise ValueError(f"{folder} holds another model: logits differ by {difference:.1e} of their largest")
