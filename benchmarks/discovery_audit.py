"""Audits discovery: every causal LM of transformers, tiny, half its units removed and compared with zeroing.

    python benchmarks/discovery_audit.py [MODEL_TYPE ...] [--out FILE] [--again]

Each architecture runs in a process of its own, under a time limit; rows already in the file are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_configs import ARCHITECTURES, ONLY_SINGLE, InDouble, tiny_inputs, tiny_model

from pruner.discovery import Structure, discover
from pruner.groups import count_parameters, shapes_of
from pruner.surgery import remove, zero

RESULTS = Path(__file__).parent / "results" / "discovery.json"
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
TIME_LIMIT = 240
NOTHING = {
    "mlp": "no layer has channels that are computed from the residual stream and contracted into it",
    "attention": "no layer multiplies activations head by head",
}


def main() -> None:
    """Audit the architectures named on the command line, or all that have no row yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model_types", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="audit those that have a row, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(options.out)
    for model_type in options.model_types:
        if model_type in rows and not options.again:
            continue
        row = isolated(model_type)
        print(row["model_type"], row["mlp"], row["attention"], sep=" | ", flush=True)
        rows = {**read_rows(options.out), model_type: row}
        write_rows(options.out, rows)
    print(summary(list(rows.values())))


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Model type -> its row, {} where no audit has run."""
    return {row["model_type"]: row for row in json.loads(path.read_text())} if path.exists() else {}


def write_rows(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Write the rows, one a line, in transformers' order."""
    ordered = [json.dumps(rows[name]) for name in ARCHITECTURES if name in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    side = path.with_suffix(".tmp")
    side.write_text("[\n" + ",\n".join(ordered) + "\n]\n")
    os.replace(side, path)


def summary(rows: list[dict[str, Any]]) -> str:
    """One line of counts."""
    counts = {kind: sum(row[kind] == "ok" for row in rows) for kind in ("mlp", "attention")}
    return f"{len(rows)} audited; ok: mlp {counts['mlp']}, attention {counts['attention']}"


def isolated(model_type: str) -> dict[str, Any]:
    """Audit in a forked process that may crash or hang without harm."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=audit_into, args=(send, model_type))
    process.start()
    send.close()
    try:
        outcome = receive.recv() if receive.poll(TIME_LIMIT) else f"no result within {TIME_LIMIT} s"
    except EOFError:
        outcome = "the process died"
    process.kill()
    process.join()
    if isinstance(outcome, str):
        outcome = {"mlp": outcome, "attention": outcome}
    return {"architecture": ARCHITECTURES[model_type], "model_type": model_type, **outcome}


def audit_into(send: Any, model_type: str) -> None:
    """Send the row, or the reason why there is none."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    try:
        send.send(audit(model_type))
    except Exception as error:
        if os.environ.get("AUDIT_TRACEBACK"):
            traceback.print_exc()
        send.send(said(error))


def audit(model_type: str) -> dict[str, Any]:
    """Discover the groups of a tiny model and compare removing with zeroing, kind by kind."""
    try:
        model = tiny_model(model_type)
        model = model if model_type in ONLY_SINGLE else model.double()
        inputs = tiny_inputs(model)
        before = logits(model, inputs)
    except Exception as error:
        return dict.fromkeys(("mlp", "attention"), f"no tiny model: {said(error)}")
    start = time.perf_counter()
    structure = discover(model, inputs)
    row: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 2), "layers": len(structure.layers)}
    for kind in ("mlp", "attention"):
        found = {group.layer for group in structure.groups if group.kind == kind}
        row[f"{kind}_layers"] = len(found)
        try:
            row[kind] = verdict(model, structure, kind, inputs, before)
        except Exception as error:
            if os.environ.get("AUDIT_TRACEBACK"):
                traceback.print_exc()
            row[kind] = said(error)
    row["refused"] = sorted({f"{refusal.name}: {refusal.reason}" for refusal in structure.refused})[:8]
    return row


def verdict(
    model: torch.nn.Module, structure: Structure, kind: str, inputs: dict[str, Any], before: torch.Tensor
) -> str:
    """Return "ok", or what is wrong once half of every group of a kind is removed."""
    groups = [group for group in structure.groups if group.kind == kind]
    if not groups:
        return absence(structure, kind)
    kept = {group.name: range(0, group.num_units, 2) for group in groups}
    zeroed, removed = copy.deepcopy(model), copy.deepcopy(model)
    zero(zeroed, groups, kept)
    expected = logits(zeroed, inputs)
    if bool((expected - before).abs().max() == 0):
        return "zeroing changes nothing"
    remove(removed, groups, kept)
    predicted = count_parameters(shapes_of(model), groups, kept)
    remaining = sum(parameter.numel() for parameter in removed.parameters())
    if predicted != remaining:
        return f"{remaining} parameters remain, {predicted} predicted"
    error = float((logits(removed, inputs) - expected).abs().max() / expected.abs().max())
    limit = TOLERANCE[expected.dtype]
    return "ok" if error <= limit else f"relative error {error:.1e}"


def absence(structure: Structure, kind: str) -> str:
    """Why no group of a kind was found: what was refused, or that there is nothing of the kind."""
    reasons = sorted({f"{refusal.name}: {refusal.reason}" for refusal in structure.refused})
    mine = [reason for reason in reasons if kind != "attention" or "attn" in reason or "attention" in reason]
    return f"refused: {(mine or reasons)[0][:300]}" if reasons else f"refused: {NOTHING[kind]}"


def logits(model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """The model's output, twice the same for the same seed, in double precision if its weights are."""
    torch.manual_seed(0)
    precise = next(model.parameters()).dtype == torch.float64
    with torch.no_grad(), InDouble() if precise else contextlib.nullcontext():
        output: torch.Tensor = model(**inputs, use_cache=False).logits
    return output


def said(error: Exception) -> str:
    """An error and the innermost line of model code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    models = [frame for frame in frames if "/transformers/models/" in frame.filename] or frames[-1:]
    place = f"{Path(models[-1].filename).name}:{models[-1].lineno}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__} at {place}: {text[:160]}"


if __name__ == "__main__":
    sys.exit(main())
