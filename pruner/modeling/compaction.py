"""What is told of modules, told once for the layers in which it is the same."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

from pruner.modeling.widths import Facts, Modules


def compact(modules: Modules) -> Modules:
    """Tell once what is the same in several layers: "model.layers.4-25.mlp.up_proj"."""
    alike: dict[tuple[str, str, str], list[int]] = {}
    kept: dict[tuple[str, str, str], Facts] = {}
    for name, facts in modules.items():
        before, layer, after = split_layer(name)
        key = (before, after, repr(facts)) if layer is not None else (name, "", "")
        kept[key] = facts
        alike.setdefault(key, []).extend([] if layer is None else [layer])
    return {
        f"{before}{ranges(layers)}{after}": kept[before, after, what]
        for (before, after, what), layers in alike.items()
    }


def split_layer(name: str) -> tuple[str, int | None, str]:
    """ "model.layers.4.mlp" -> ("model.layers.", 4, ".mlp"); no number: (name, None, "")."""
    match = re.search(r"(?<=\.)\d+(?=\.|$)", name)
    return (name[: match.start()], int(match[0]), name[match.end() :]) if match else (name, None, "")


def ranges(numbers: Iterable[int]) -> str:
    """[0, 2, 3, 4] -> "0,2-4"."""
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs(sorted(numbers)))


def runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """First and last of every run of consecutive numbers."""
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1]
