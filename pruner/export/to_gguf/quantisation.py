"""Fewer bits per weight, by llama.cpp's own tool."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

QUANTISATIONS = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0")
"""Of llama-quantize's types those in common use. The k-quants come in blocks of 256 channels: where a width
is no multiple of it, llama-quantize takes a type with smaller blocks and more bits."""

TOOL = "llama-quantize"


def check_tool() -> str:
    """The path of llama.cpp's tool.

    Raises:
        ValueError: it is not on PATH.
    """
    found = shutil.which(TOOL)
    if found is None:
        raise ValueError(
            f"quantising needs llama.cpp's own {TOOL}, which is not on PATH: build llama.cpp (cmake --build "
            f". --target {TOOL}) or install its package; or export as gguf or gguf-f16 and quantise elsewhere"
        )
    return found


def quantise(source: Path, output: Path, kind: str) -> None:
    """Write `source`, a GGUF file in floating point, as `output` with weights of `kind`.

    Raises:
        ValueError: the tool is missing, or failed.
    """
    command = [check_tool(), str(source), str(output), kind.upper()]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode or not output.is_file():
        last = (run.stderr.strip() or run.stdout.strip()).splitlines()[-1:]
        raise ValueError(f"{TOOL} could not write {kind}: {last}")
