"""Saves every architecture that the audit calls ok, half its units gone, and loads it without this project.

    python benchmarks/saved_audit.py [MODEL_TYPE ...]

Adds the column "saved" to the audit's rows: "ok", or what went wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from discovery_audit import RESULTS, logits, read_rows, said, write_rows
from safetensors.torch import save_file
from tiny_configs import tiny_inputs, tiny_model

from pruner.checkpoint import save_model
from pruner.discovery import discover
from pruner.surgery import remove

LOADER = Path(__file__).parent / "load_saved.py"


def main() -> None:
    """Save the architectures named on the command line, or all that are ok, and load them elsewhere."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = read_rows(RESULTS)
    able = [name for name, row in rows.items() if "ok" in (row["mlp"], row["attention"])]
    parser.add_argument("model_types", nargs="*", default=able)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: saved(name, Path(folder) / name) for name in parser.parse_args().model_types}
        command = [sys.executable, "-P", str(LOADER), folder]
        loaded = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout
    found |= {name: verdict for name, verdict in json.loads(loaded).items() if found[name] == "ok"}
    write_rows(RESULTS, {name: {**row, **column(found.get(name))} for name, row in rows.items()})
    print(f"{len(found)} saved; ok: {sum(verdict == 'ok' for verdict in found.values())}")


def column(verdict: str | None) -> dict[str, str]:
    """The new entry of a row, none where nothing was tried."""
    return {} if verdict is None else {"saved": verdict}


def saved(model_type: str, folder: Path) -> str:
    """Cut half of everything, save the model with the logits that it gives; "ok", or what went wrong."""
    try:
        model = tiny_model(model_type).float()
        inputs = tiny_inputs(model)
        groups = [g for g in discover(model, inputs).groups if g.kind in ("mlp", "attention")]
        remove(model, groups, {group.name: range(0, group.num_units, 2) for group in groups})
        save_model(model, None, folder)
        save_file({**inputs, "logits": logits(model, inputs).contiguous()}, folder / "expected.safetensors")
    except Exception as error:
        return f"not saved: {said(error)}"
    return "ok"


if __name__ == "__main__":
    main()
