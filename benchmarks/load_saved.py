"""Loads saved models where this project cannot be imported and compares their logits; prints JSON.

python -P benchmarks/load_saved.py FOLDER
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

PROJECT = ("pruner", "lit_modules", "cli")
TOLERANCE = 1e-5


class Absent:
    """Refuses to find the project."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise ImportError for the project's own packages."""
        if name.split(".")[0] in PROJECT:
            raise ImportError(f"{name} must not be needed to load a saved model")


sys.meta_path.insert(0, Absent())  # type: ignore[arg-type]

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402


def verdict(folder: Path) -> str:
    """ "ok", or how a saved model differs from the one in memory."""
    expected = load_file(folder / "expected.safetensors")
    wanted = expected.pop("logits")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=True, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        torch.manual_seed(0)
        with torch.no_grad():
            found = model(**expected, use_cache=False).logits
        error = float((found - wanted).abs().max() / wanted.abs().max())
    except Exception as failure:  # whatever a class raises when it cannot be loaded
        return f"not loaded: {type(failure).__name__}: {' '.join(str(failure).split())[:160]}"
    return "ok" if error <= TOLERANCE else f"relative error {error:.1e}"


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/expected.safetensors"))
    print(json.dumps({folder.name: verdict(folder) for folder in folders}))
