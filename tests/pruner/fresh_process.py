"""Loads saved models where this project cannot be imported, and reports how they compare with before.

Arguments: a folder of cases, each a model folder of its name with the `expected.safetensors` of the model in
memory, and the JSON file to write: case -> what was found, or the error. For transformers 4.57 and 5.x.
"""

import json
import sys
import traceback
from pathlib import Path


class Absent:
    """Refuses to find the project."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pruner", "lit_modules", "cli"):
            raise ImportError(f"{name} must not be needed here")


sys.meta_path.insert(0, Absent())

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def greedy(model, input_ids, **options):
    return model.generate(
        input_ids, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None, **options
    )


@torch.no_grad()
def compare(case):
    expected = load_file(case / "expected.safetensors")
    model = load(case / case.name)
    logits = model(expected["input_ids"], use_cache=False).logits
    model.save_pretrained(case / f"{case.name}-again")
    again = load(case / f"{case.name}-again")(expected["input_ids"], use_cache=False).logits
    found = {
        "class": type(model).__name__,
        "error": (logits - expected["logits"]).abs().max().item(),
        "again": (again - expected["logits"]).abs().max().item(),
        "scale": expected["logits"].abs().max().item(),
        "tied": model.get_output_embeddings().weight is model.get_input_embeddings().weight,
    }
    if (case / case.name / "tokenizer.json").exists():
        found["tokens"] = dict(transformers.AutoTokenizer.from_pretrained(case / case.name)("b a"))
    if "greedy" in expected:
        found["cached"] = torch.equal(greedy(model, expected["input_ids"]), expected["greedy"])
        found["uncached"] = torch.equal(
            greedy(model, expected["input_ids"], use_cache=False), expected["greedy"]
        )
    if "AutoModel" in getattr(model.config, "auto_map", {}):
        trunk = transformers.AutoModel.from_pretrained(
            case / case.name, trust_remote_code=True, dtype=torch.float32
        )
        weights = dict(model.named_parameters())
        prefix = model.base_model_prefix + "."
        found["trunk"] = type(trunk).__name__
        found["trunk_equal"] = all(torch.equal(w, weights[prefix + n]) for n, w in trunk.named_parameters())
    return found


def outcome(case):
    try:
        return compare(case)
    except Exception as error:
        return {"failed": "".join(traceback.format_exception(error)[-3:])[-1500:]}


Path(sys.argv[2]).write_text(
    json.dumps({case.name: outcome(case) for case in sorted(Path(sys.argv[1]).iterdir())})
)
