"""How near a pruned model stays to the dense one on chats, a kind of text that none was calibrated on.

    python benchmarks/chats.py [--data ../shared/data] [--runs runs/quality] [--methods default]

SmolLM2-135M-Instruct, 20 % of the decoder removed (seed 0) by each method of benchmarks/quality.py; 64 Alpaca
records in the model's own chat template, cut at 256 tokens. At the tokens of the answers, in nats: the
divergence KL(dense ‖ pruned) and the cross-entropy. A row that benchmarks/results/chats.json has stays.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from quality import METHODS, NEEDED, ROOT, add
from recovery import DENSE, pruned_by
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from lit_modules.encoding import Encoded, Encoder
from lit_modules.templates import load_template
from pruner.checkpoint import load_model, load_tokenizer
from pruner.records import read_records

RESULTS = ROOT / "benchmarks" / "results" / "chats.json"
RECORDS, LENGTH = 64, 256


def main() -> None:
    options = parse()
    chats = list(chats_of(options.data))
    dense = load_model(DENSE, dtype="float32")
    for method in ("dense", *options.methods):
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        if any(row["method"] == method for row in rows):
            continue
        folder = None if method == "dense" else str(pruned_by(method, options))
        model = load_model(folder, dtype="float32", trust_remote_code=True) if folder else dense
        add(RESULTS, {"method": method, **distance(dense, model, chats)})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    return parser.parse_args()


def chats_of(data: Path) -> Iterator[Encoded]:
    """The first records that have an answer, as the model's own chat."""
    tokenizer = load_tokenizer(DENSE)
    encoder = Encoder(tokenizer, load_template("chat", tokenizer), LENGTH)
    records = islice(read_records(str(data / NEEDED["data.path"])), RECORDS)
    for chunk in encoder(records):
        yield from chunk


@torch.no_grad()
def distance(dense: PreTrainedModel, model: PreTrainedModel, chats: list[Encoded]) -> dict[str, float]:
    """Of a model's answers from the dense model's, and from those that are there: means over their tokens."""
    divergence = cross_entropy = tokens = 0.0
    for chat in chats:
        ids = torch.as_tensor(chat.input_ids, dtype=torch.int64)[None]
        wanted, given = (predictions(each, ids, chat.num_prompt) for each in (dense, model))
        answer = ids[0, chat.num_prompt :]
        divergence += F.kl_div(given, wanted, reduction="sum", log_target=True).item()
        cross_entropy += F.nll_loss(given, answer, reduction="sum").item()
        tokens += len(answer)
    return {"divergence": round(divergence / tokens, 4), "cross_entropy": round(cross_entropy / tokens, 4)}


def predictions(model: PreTrainedModel, ids: Tensor, num_prompt: int) -> Tensor:
    """Log-probabilities (tokens, vocabulary) at the tokens after the prompt."""
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[0, num_prompt - 1 : -1].log_softmax(-1)


if __name__ == "__main__":
    main()
