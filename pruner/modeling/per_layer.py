"""The form for layers that differ: dense configuration, what differs from it, and the code that reads it.

The code builds the dense modules and then gives each its own weights. To build every layer from a
configuration of its own would be the purer way, but serves few architectures: many widths have no entry in
any configuration (GPT-2's heads, BLOOM's MLP), and constructors differ. This way serves all alike. What
speaks against building dense first does not hold: `from_pretrained` builds on the meta device, and under
DeepSpeed's `zero.Init` a weight made by a module's constructor is partitioned there and then, the dense one
let go; tied weights are replaced once for all their places.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import linecache
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pruner.modeling.compaction import compact
from pruner.modeling.fields import OUTSIDE
from pruner.modeling.widths import WRITTEN, Modules, build, differences, stock_class, structure

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

CODE = f"{WRITTEN}.py"
TEMPLATE = Path(__file__).with_name("remote") / CODE
WRITTEN_FOR = ("LlamaConfig", "LlamaForCausalLM", "LlamaModel")
IMPORT = re.compile(r"^from (transformers[\w.]*|\.\w+) import (\w+)$", re.MULTILINE)


def own_classes(model: PreTrainedModel, cls: type[Any]) -> tuple[type[Any], ...]:
    """The architecture's classes: configuration, with head and, if the model has one, without."""
    from transformers import PreTrainedModel

    trunk = getattr(model, model.base_model_prefix, None)
    plain = not isinstance(trunk, PreTrainedModel) or isinstance(trunk, cls)
    return (cls.config_class, cls, *(() if plain else (stock_class(type(trunk)),)))


def render(classes: Sequence[tuple[str, str]]) -> str:
    """The modelling file for one architecture: the template, with its classes for Llama's.

    Args:
        classes: module and name of each, in the order of `WRITTEN_FOR`; the last may be missing.
    """
    code = TEMPLATE.read_text()
    if len(classes) < len(WRITTEN_FOR):
        code = re.sub(r"class PrunedLlamaModel.*?\n\n\n", "", code, flags=re.DOTALL)
    imports = "\n".join(f"from {module} import {name}" for module, name in classes)
    code = code.replace(f"from transformers import {', '.join(WRITTEN_FOR)}", "IMPORTS")
    names = {ours: name for ours, (_, name) in zip(WRITTEN_FOR, classes)}
    code = re.sub("|".join(WRITTEN_FOR), lambda found: names[found[0]], code)
    return code.replace("IMPORTS", imports)


def address(cls: type[Any]) -> tuple[str, str]:
    """Where the saved code imports a class from, and its name.

    From the top of transformers where it is to be had; one that is not transformers' own lies in a file
    beside the weights.
    """
    import transformers

    if getattr(transformers, cls.__name__, None) is cls:
        return "transformers", cls.__name__
    own = cls.__module__.partition(".")[0] == "transformers"
    return cls.__module__ if own else f".{cls.__module__.rpartition('.')[2]}", cls.__name__


def is_ours(folder: Path) -> bool:
    """Whether the code in a model folder is what this release writes for the classes it imports.

    Raises:
        ValueError: it bears the name of ours and is another: of another release, or changed by someone.
    """
    code = folder / CODE
    if not code.is_file():
        return False
    config = json.loads((folder / "config.json").read_text())
    modules = {reference.rpartition(".")[0] for reference in config.get("auto_map", {}).values()}
    if modules != {Path(CODE).stem}:
        return False
    text = code.read_text()
    classes = IMPORT.findall(text)[: len(WRITTEN_FOR)]
    if len(classes) < 2 or text != render(classes):
        raise ValueError(
            f"{code} is not the file that this release of the project writes: another did, or someone "
            "changed it. Set trust_remote_code to run it as it is, load it with the release that saved it, "
            "or prune again"
        )
    return not any(module.startswith(".") for module, _ in classes)


def per_layer_entries(config: PreTrainedConfig, fields: Mapping[str, dict[int, int]]) -> dict[str, Any]:
    """The entries that say per layer what differs from the dense model's configuration.

    Some architectures have a `per_layer_config` of their own; theirs stays as it is. Some have several
    decoders and so no one number of layers; theirs is left out.
    """
    if config.is_heterogeneous:
        own = config.to_dict()["per_layer_config"]
        return {"per_layer_config": own, "dense_per_layer_config": own}
    if not hasattr(config, "num_hidden_layers"):
        return {}
    entries: dict[int, dict[str, int]] = {}
    for field, values in fields.items():
        for layer, value in values.items():
            if layer != OUTSIDE and value != getattr(config, field, None):
                entries.setdefault(layer, {})[field] = value
    common = {}
    if not isinstance(getattr(type(config), "num_hidden_layers", None), property):
        common["num_hidden_layers"] = config.num_hidden_layers  # which readers of the next look for
    return {**common, "per_layer_config": {str(layer): entries[layer] for layer in sorted(entries)}}


def per_layer_config(
    config: PreTrainedConfig,
    classes: Sequence[type[Any]],
    told: Modules,
    fields: Mapping[str, dict[int, int]],
) -> dict[str, Any]:
    """The saved config.json: the dense model's, what differs from it, and where the code lies."""
    from transformers import PreTrainedConfig

    common = PreTrainedConfig().to_dict()
    own = {key: value for key, value in config.to_dict().items() if common.get(key, ...) != value}
    names = [f"Pruned{cls.__name__}" for cls in classes]
    autos = ("AutoConfig", "AutoModelForCausalLM", "AutoModel")
    return {
        **own,
        "architectures": [names[1]],
        "auto_map": {auto: f"{Path(CODE).stem}.{name}" for auto, name in zip(autos, names)},
        "model_type": f"pruned_{config.model_type}",
        **per_layer_entries(config, fields),
        "pruned_modules": compact(told),
    }


def rebuild(code: str, cls: type[Any], values: Mapping[str, Any], own: Modules) -> PreTrainedModel:
    """The model that the code builds from the configuration, on the meta device.

    Args:
        code: as it is saved.
        cls: the dense model's class, beside which the code would lie.
        values: the saved config.json.
        own: the structure of the pruned model.

    Raises:
        ValueError: it is not the pruned one, of structure `own`.
    """
    written = getattr(imported(code, cls.__module__.rpartition(".")[0]), values["architectures"][0])
    rebuilt = build(written, written.config_class(**values))
    left = differences(own, structure(rebuilt))
    if left:
        name, facts = next(iter(left.items()))
        raise ValueError(
            f"this model cannot be saved per layer: module {name!r} would not come back with {facts}; "
            "save it padded"
        )
    return rebuilt


def imported(code: str, package: str) -> ModuleType:
    """The code as a module of `package`, the same one for the same code."""
    name = f"{package}.{WRITTEN}_{hashlib.sha256(code.encode()).hexdigest()[:16]}"
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
            linecache.cache[str(path)] = (len(code), None, code.splitlines(True), str(path))  # for `inspect`
    return sys.modules[name]
