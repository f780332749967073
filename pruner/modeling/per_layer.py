"""The form for layers that differ: dense configuration, what differs from it, and the code that reads it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pruner.modeling.fields import OUTSIDE
from pruner.modeling.widths import Modules, build, compact, differences, structure

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

CODE = "modeling_pruned.py"
TEMPLATE = Path(__file__).with_name("remote") / CODE
IMPORT = re.compile(r"from transformers[\w.]* import \w+ as (Dense\w+)\n")


def base_class(model: PreTrainedModel, cls: type[Any]) -> type[Any] | None:
    """The class that `AutoModel` gives for this architecture, if the model's own trunk is of it."""
    from pruner.modeling.widths import stock_class

    trunk = getattr(model, model.base_model_prefix, None)
    return None if trunk is None or isinstance(trunk, cls) else stock_class(type(trunk))


def render(cls: type[Any], base: type[Any] | None) -> str:
    """The modelling file for one architecture: the template with its three classes imported."""
    classes = {"DenseConfig": cls.config_class, "DenseForCausalLM": cls, "DenseModel": base or cls}
    return IMPORT.sub(lambda match: import_line(classes[match[1]], match[1]), TEMPLATE.read_text())


def import_line(cls: type[Any], name: str) -> str:
    """The line that imports a class of transformers, from the top where it is to be had."""
    import transformers

    public = getattr(transformers, cls.__name__, None) is cls
    return f"from {'transformers' if public else cls.__module__} import {cls.__name__} as {name}\n"


def is_ours(folder: Path) -> bool:
    """Whether the code in a model folder is, but for the classes it imports, the one of this release."""
    code = folder / CODE
    if not code.is_file():
        return False
    config = json.loads((folder / "config.json").read_text())
    modules = {reference.rpartition(".")[0] for reference in config.get("auto_map", {}).values()}
    blank = [IMPORT.sub(r"\1\n", text) for text in (code.read_text(), TEMPLATE.read_text())]
    return modules == {Path(CODE).stem} and blank[0] == blank[1]


def per_layer_entries(
    config: PreTrainedConfig, fields: Mapping[str, dict[int, int]]
) -> dict[str, dict[str, int]]:
    """The value of `per_layer_config`: layer -> entries that differ from the dense model's."""
    entries: dict[str, dict[str, int]] = {}
    for field, values in fields.items():
        for layer, value in sorted(values.items()):
            if layer != OUTSIDE and value != getattr(config, field, None):
                entries.setdefault(str(layer), {})[field] = value
    return dict(sorted(entries.items(), key=lambda item: int(item[0])))


def per_layer_config(
    config: PreTrainedConfig, told: Modules, fields: Mapping[str, dict[int, int]], *, has_base: bool
) -> dict[str, Any]:
    """The saved config.json: the dense model's, what differs from it, and where the code lies."""
    stem = Path(CODE).stem
    auto_map = {"AutoConfig": f"{stem}.PrunedConfig", "AutoModelForCausalLM": f"{stem}.PrunedForCausalLM"}
    if has_base:
        auto_map["AutoModel"] = f"{stem}.PrunedModel"
    return {
        **config.to_dict(),
        "architectures": ["PrunedForCausalLM"],
        "auto_map": auto_map,
        "model_type": f"pruned_{config.model_type}",
        "per_layer_config": per_layer_entries(config, fields),
        "pruned_modules": compact(told),
    }


def check_rebuilds(code: str, values: Mapping[str, Any], own: Modules) -> None:
    """Raise ValueError unless the code, given the configuration, builds exactly the pruned model."""
    module = imported(code)
    rebuilt = build(module.PrunedForCausalLM, module.PrunedConfig(**values))
    left = differences(own, structure(rebuilt))
    if left:
        name, facts = next(iter(left.items()))
        raise ValueError(
            f"this model cannot be saved per layer: module {name!r} would not come back with {facts}; "
            "save it padded"
        )


def imported(code: str) -> ModuleType:
    """The code as a module, the same one for the same code."""
    name = f"pruned_{hashlib.sha256(code.encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / CODE
            path.write_text(code)
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec
            assert spec.loader
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
    return sys.modules[name]
