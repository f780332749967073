"""What the quality table, recovery and chats come to, in Markdown."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def result(name: str) -> Any:
    """A committed result."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def results_table() -> str:
    """SmolLM2-135M without a fifth and two fifths of its decoder, by method; and recovered."""
    rows = result("quality")
    cases: dict[tuple[float, str], list[dict[str, float]]] = {}
    for row in rows:
        if row["stage"] == "pruned":
            cases.setdefault((row["removed"], row["method"]), []).append(row)
    lines = [
        "SmolLM2-135M pruned on C4, perplexity on the first 20,480 tokens of WikiText-2's test split (dense: 53.8 at "
        "windows of 128), before any recovery; `llm-pruner` is the paper's recipe, the better of pruning with and "
        "without attention; `default` ends with one pass over its calibration text in which all weights learn the dense "
        "model's predictions and the text, `refits alone` has no such pass and reads 192 samples instead of 768; "
        "`gate-fisher`, `wanda-sp` and `flap`, with its bias, read 192 too and refit no weights; means "
        "over calibration seeds, in brackets the extremes (`python benchmarks/quality.py`):",
        "",
        "| removed | method | at 128 | at 1,024 | of `llm-pruner` | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for (removed, method), found in sorted(
        cases.items(), key=lambda case: (case[0][0], case[0][1] == "default", case[0][1])
    ):
        base = mean(cases[removed, "llm-pruner"], "perplexity_128")
        lines.append(
            f"| {removed:.0%} | `{method}` | {spread(found, 'perplexity_128')} | {spread(found, 'perplexity_1024')} | "
            f"{mean(found, 'perplexity_128') / base:.2f} | {len(found)} |"
        )
    return "\n".join([*lines, "", *recovery_lines(), *chat_lines()])


def recovery_lines() -> list[str]:
    """The same model after equal recovery."""
    rows = result("recovery")
    return [
        f"A fifth removed (seed 0), then {rows[0]['steps']} steps of four Alpaca records "
        "(`python benchmarks/recovery.py`):",
        "",
        *listed(rows, {
            "pruned by": "`{method}`",
            "recovery": "{recovery}",
            "at 128": "{perplexity_128:.1f}",
            "at 1,024": "{perplexity_1024:.1f}",
        }),
    ]  # fmt: skip


def chat_lines() -> list[str]:
    """How near the same models stay to the dense one on text of another kind."""
    return [
        "A fifth removed (seed 0), no recovery: Alpaca's answers in the model's own chat template, nats for each token "
        "(`python benchmarks/chats.py`):",
        "",
        *listed(result("chats"), {
            "pruned by": "`{method}`",
            "divergence from the dense model": "{divergence:.3f}",
            "cross-entropy": "{cross_entropy:.3f}",
        }),
    ]  # fmt: skip


def listed(rows: list[dict[str, Any]], columns: dict[str, str]) -> list[str]:
    """A table of rows; each column has a heading and the format of its cells."""
    cells = [[form.format(**row) for form in columns.values()] for row in rows]
    lines = [f"| {' | '.join(line)} |" for line in (list(columns), *cells)]
    return [lines[0], "|" + "---|" * len(columns), *lines[1:], ""]


def mean(rows: list[dict[str, float]], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def spread(rows: list[dict[str, float]], key: str) -> str:
    """Mean, and in brackets the extremes where there are several."""
    values = [row[key] for row in rows]
    extremes = f" ({min(values):.1f} – {max(values):.1f})" if len(values) > 1 else ""
    return f"{mean(rows, key):.1f}{extremes}"
