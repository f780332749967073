"""Writes the README's tables from the committed results: python benchmarks/readme_tables.py [--check]"""

import argparse
import re
from pathlib import Path

from quality_tables import mean, result, results_table

README = Path(__file__).parent.parent / "README.md"
BOTH = ("default", "llm-pruner")
MEMORY = "default / weights, activations and streams, memory"
KEPT = "first order / weights and activations, memory"
SQUARED = "second order / weights and activations, memory"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the README is not up to date")
    options = parser.parse_args()
    text = filled(README.read_text())
    if options.check and text != README.read_text():
        raise SystemExit("README.md is behind benchmarks/results; run python benchmarks/readme_tables.py")
    README.write_text(text)


def filled(text: str) -> str:
    """The README with every table made anew."""
    tables = {
        "claim": claim_table,
        "models": models_table,
        "results": results_table,
        "gauntlet": gauntlet_table,
        "packing": packing_table,
    }
    for name, table in tables.items():
        block = f"<!-- {name} -->\n{table()}<!-- /{name} -->"
        text = re.sub(
            rf"<!-- {name} -->\n.*?<!-- /{name} -->", lambda _, block=block: block, text, flags=re.DOTALL
        )
    return text


def claim_table() -> str:
    """What the whole comes to, in numbers."""
    quality = [row for row in result("quality") if row["stage"] == "pruned"]
    speed, llamacpp, vllm = result("generation_speed"), result("llamacpp"), result("vllm")
    saved = sum(row.get("saved") == "ok" for row in result("discovery"))
    cost, gauntlet = result("estimation")["ratios"], result("gauntlet")

    def ratio(removed: float) -> float:
        rows = [
            [row for row in quality if row["method"] == method and row["removed"] == removed]
            for method in BOTH
        ]
        own, base = (mean(each, "perplexity_128") for each in rows)
        return own / base

    half = {name: speed[name]["50 %"] for name in ("transformers", "llama.cpp")}
    cases = vllm["cases"]["passed"] + llamacpp["cases"]["passed"]
    rows = {
        "quality": f"{ratio(0.2):.2f} × the perplexity that LLM-Pruner's recipe leaves at 20 % smaller, "
        f"{ratio(0.4):.2f} × at 40 %, before any recovery ([results](#results))",
        "speed": f"half the decoder gone: text {half['transformers']['faster than dense']:.2f} × as fast in "
        f"transformers and {half['llama.cpp']['faster than dense']:.2f} × in llama.cpp, with "
        f"{half['transformers']['weights of dense to own']:.2f} × fewer weights to read",
        "memory": f"estimation takes {cost[MEMORY]:.2f} × the weights, activations and streams; keeping all "
        f"gradients takes {cost[KEPT]:.2f} ×, sample by sample {cost[SQUARED]:.2f} ×",
        "models": f"{saved} architectures of transformers, none with code of its own",
        "runtimes": f"`from_pretrained`, vLLM and llama.cpp, whose {cases} cases give the model's own text",
        "resume": f"killed {gauntlet['kills']} times on two processes, bit for bit the losses of the uninterrupted run",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| **{name}** | {text} |" for name, text in rows.items()), ""])


def models_table() -> str:
    """How many architectures of transformers can be pruned, and which."""
    rows = result("discovery")
    ok = {kind: [row for row in rows if row[kind] == "ok"] for kind in ("mlp", "attention")}
    both = sorted(
        {row["architecture"] for row in ok["mlp"]} & {row["architecture"] for row in ok["attention"]}
    )
    scale = result("discovery_scale")
    seconds = {row["model"]: row["cpu_seconds"] for row in scale}
    lines = [
        f"Of the {len(rows)} causal language models in transformers, MLP channels can be removed from "
        f"{len(ok['mlp'])} and attention units (heads, or key-value groups with their heads) from "
        f"{len(ok['attention'])}: in each, half the units of every layer were cut and the result compared with "
        "zeroing them (fp64, 1e-9). The others are refused, each with its reason, in "
        "[benchmarks/results/discovery.json](benchmarks/results/discovery.json).",
        "",
        f"Of the {len(ok['mlp'])} pruned models, {sum(row.get('saved') == 'ok' for row in rows)} were saved, loaded in "
        "a process without this project, and gave the same logits. Layers that are alike are traced once: discovery "
        f"takes {seconds['Llama-3.1-8B']} CPU seconds for Llama-3.1-8B, {seconds['Llama-3.1-70B']} for 70B and "
        f"{seconds['BLOOM-176B']} for BLOOM-176B at full size, without weights, and does not grow with the number of "
        "layers (`python benchmarks/discovery_scale.py`).",
        "",
        f"<details><summary>Both, in {len(both)} architectures</summary>",
        "",
        ", ".join(re.sub(r"(For|With|LMHead).*", "", name) for name in both),
        "",
        "</details>",
        "",
    ]
    return "\n".join(lines)


def gauntlet_table() -> str:
    """What 20 kills did to two-process runs."""
    found = result("gauntlet")
    moments = ", ".join(f"{count} {moment}" for moment, count in found["of them"].items())
    runs = len(found["configurations"])
    return (
        f"Held by a gauntlet: {runs} runs of two processes (ZeRO 1, 2 and 3, LoRA and full) were killed "
        f"{found['kills']} times by SIGKILL ({moments}); no sample was lost or repeated, and "
        f"{found['configurations unchanged by them']} of {runs} went on with the losses of the uninterrupted run, "
        "bit for bit ([outcome](benchmarks/results/gauntlet.json)).\n"
    )


def packing_table() -> str:
    """What packing is worth on Alpaca's lengths."""
    found = result("throughput")
    return (
        f"On Alpaca's lengths packing gives {found['speed_up_over_padding_to_256']:.2f} × the useful tokens per "
        f"second of padding to 256, and {found['speed_up_over_padding_to_the_longest']:.2f} × those of padding to the "
        f"longest of a batch, {found['share_of_that']:.0%} of what removing all padding could give; the loss per "
        "token is the same (SmolLM2-135M, LoRA, one CPU thread, medians of "
        f"{len(found['arms']['packed']['all_speeds'])}; `benchmarks/throughput.py`).\n"
    )


if __name__ == "__main__":
    main()
