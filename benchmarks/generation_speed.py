"""Speed of generation, pruned against dense, beside the weights that are read for each token.

    python benchmarks/generation_speed.py --tokenizer ../shared/data/stories260K

A Llama of 1.1 billion random weights without 20 % and 50 % of its decoder, layers protected as by default
(so they differ), generates one sequence on one thread: in transformers in bfloat16 and, where
llama-cpp-python is installed, in llama.cpp in float16. The models take turns, so that what else runs on the
machine meets all of them; time is the process's own, and each ratio is the median over turns of dense time to
pruned time in the same turn.
Needs 8 GiB. Writes benchmarks/results/generation_speed.json.
"""

import argparse
import copy
import gc
import json
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pruner.budget import Budget
from pruner.checkpoint import load_tokenizer
from pruner.export.to_gguf.writing import write_gguf
from pruner.pipeline import PruningSettings, prune

RESULT = Path(__file__).parent / "results" / "generation_speed.json"
SHAPE = {  # TinyLlama-1.1B's
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
REMOVED = {"dense": 0.0, "20 %": 0.2, "50 %": 0.5}
PROMPT, NEW_TOKENS, TURNS = 16, 8, 11


def dense_model():
    """Random weights, straight in bfloat16."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02) if parameter.dim() > 1 else parameter.fill_(1)
    rotary = model.model.rotary_emb
    rotary.inv_freq, _ = rotary.compute_default_rope_parameters(model.config)
    return model.eval()


def pruned(dense, ratio):
    """A copy without `ratio` of the decoder's parameters, chosen at random."""
    model = copy.deepcopy(dense)
    if ratio:
        settings = PruningSettings(budget=Budget(ratio=ratio), criterion="random", compensation=None)
        prune(model, None, settings)
    return model


def weights_read(model):
    """Bytes of weights that one token reads: all but the table in which it looks its embedding up."""
    table = model.get_input_embeddings().weight
    return sum(p.nbytes for p in model.parameters() if p is not table)


@torch.inference_mode()
def seconds_in_transformers(model):
    """Process seconds for one new token, after the prompt is read."""
    output = model(torch.arange(PROMPT)[None], use_cache=True)
    start = time.process_time()
    for _ in range(NEW_TOKENS):
        token = output.logits[:, -1:].argmax(-1)
        output = model(token, past_key_values=output.past_key_values, use_cache=True)
    return (time.process_time() - start) / NEW_TOKENS


def seconds_in_llama_cpp(llama):
    """The same of a `llama_cpp.Llama`."""
    llama.reset()
    llama.eval(list(range(PROMPT)))
    start = time.process_time()
    for _ in range(NEW_TOKENS):
        llama.eval([int(llama.scores[llama.n_tokens - 1].argmax())])
    return (time.process_time() - start) / NEW_TOKENS


def take_turns(models, seconds):
    """Label -> one time for each turn; the first turn is not counted."""
    turns = [{label: seconds(model) for label, model in models.items()} for _ in range(TURNS + 1)]
    return {label: [turn[label] for turn in turns[1:]] for label in models}


def compared(times, read):
    """Medians, the ratio to dense, and what share it is of the ratio of weights read."""
    rows = {}
    for label, own in times.items():
        faster = statistics.median(dense / one for dense, one in zip(times["dense"], own, strict=True))
        fewer = read["dense"] / read[label]
        rows[label] = {
            "seconds per token, median": round(statistics.median(own), 5),
            "faster than dense": round(faster, 4),
            "weights of dense to own": round(fewer, 4),
            "share of what that promises": round(faster / fewer, 4),
        }
    return rows


def in_llama_cpp(models, tokenizer, read):
    """Write each model, let go of it, and measure the files; None without llama-cpp-python."""
    try:
        import llama_cpp
    except ModuleNotFoundError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        opened = {}
        for label in reversed(list(models)):
            file = f"{folder}/{label.strip(' %')}.gguf"
            write_gguf(models.pop(label), tokenizer, Path(file), torch.float16)
            gc.collect()
            opened[label] = llama_cpp.Llama(file, n_ctx=64, n_threads=1, logits_all=True, verbose=False)
        times = take_turns({label: opened[label] for label in read}, seconds_in_llama_cpp)
    return {"llama-cpp-python": llama_cpp.__version__, "type": "float16", **compared(times, read)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, help="any that llama.cpp reads; its texts do not count")
    given = parser.parse_args()
    torch.set_num_threads(1)
    dense = dense_model()
    models = {label: pruned(dense, ratio) if ratio else dense for label, ratio in REMOVED.items()}
    del dense
    result = {
        "shape": SHAPE,
        "parameters": {label: model.num_parameters() for label, model in models.items()},
        "prompt": PROMPT,
        "new tokens": NEW_TOKENS,
        "turns": TURNS,
        "threads": 1,
    }
    read = {label: weights_read(model) for label, model in models.items()}
    times = take_turns(models, seconds_in_transformers)
    result["transformers"] = {
        "torch": version("torch"),
        "transformers": version("transformers"),
        "type": "bfloat16",
        **compared(times, read),
    }
    print(json.dumps(result["transformers"], indent=1), flush=True)
    result["llama.cpp"] = in_llama_cpp(models, load_tokenizer(given.tokenizer), read)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["llama.cpp"], indent=1))


if __name__ == "__main__":
    main()
