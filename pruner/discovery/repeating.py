"""Layers like one that has run need not run again: they hand on the residual stream as that one did.

Of each kind the first two layers and the last one run. Whether the others may be left out is seen afterwards
(`closed`): nothing but the residual stream may pass from a layer to what follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from pruner.discovery.events import Event, ModuleCall, Recording
from pruner.discovery.recorder import Recorder

Kinds = Sequence[Sequence[str]]
"""Names of layers that are alike, kind by kind."""

OUTSIDE = -1
"""In place of a layer's number, for what lies in none."""


class Unlike(Exception):  # noqa: N818
    """A layer is not called as the layer was that it should repeat."""


def repeated(kinds: Kinds) -> dict[str, str]:
    """Layer that need not run -> the one that it repeats."""
    return {name: names[0] for names in kinds for name in names[2:-1]}


@contextmanager
def standing_in(model: nn.Module, recorder: Recorder, repeats: Mapping[str, str]) -> Iterator[None]:
    """Let layers hand on what they get, for a while, instead of running."""
    before = {name: dict(vars(model.get_submodule(name))) for name in repeats}
    for name, like in repeats.items():

        def forward(*args: Any, like: str = like, **kwargs: Any) -> Any:
            return repeat(recorder.recording, like, args, kwargs)

        vars(model.get_submodule(name))["forward"] = forward
    try:
        yield
    finally:
        for name, attributes in before.items():
            vars(model.get_submodule(name)).clear()
            vars(model.get_submodule(name)).update(attributes)


def repeat(recording: Recording, like: str, args: Any, kwargs: Any) -> Any:
    """What a layer returns that has not run: the stream as it came, and the like of all else."""
    earlier = [call for call in recording.calls if call.name == like and call.last >= 0]
    if len(earlier) != 1:
        raise Unlike(f"{like} ran {len(earlier)} times")
    stream: Tensor = tree_leaves((args, kwargs))[stream_place(earlier[0], args, kwargs)]
    handed = stream_out(earlier[0])

    def of_its_own(tensor: Tensor) -> Tensor:
        if tensor is handed:
            return stream.clone()
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    return tree_map_only(Tensor, of_its_own, earlier[0].output)


def stream_place(call: ModuleCall, args: Any, kwargs: Any) -> int:
    """The place of the one tensor in which the arguments of two calls differ.

    Raises:
        Unlike: they differ in something else.
    """
    theirs, one = tree_flatten((call.args, call.kwargs))
    ours, other = tree_flatten((tuple(args), kwargs))
    different = [n for n, (a, b) in enumerate(zip(ours, theirs)) if not same(a, b)]
    if one != other or len(different) != 1:
        raise Unlike(f"{call.name} was called with other arguments")
    a, b = ours[different[0]], theirs[different[0]]
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or (a.shape, a.dtype) != (b.shape, b.dtype):
        raise Unlike(f"{call.name} was called with another stream")
    return different[0]


def same(one: Any, other: Any) -> bool:
    """Whether two arguments are one and the same."""
    return one is other or (isinstance(one, (int, float, str)) and type(one) is type(other) and one == other)


def stream_out(call: ModuleCall) -> Tensor:
    """The first tensor that a layer returns."""
    found = next((leaf for leaf in tree_leaves(call.output) if isinstance(leaf, Tensor)), None)
    if found is None:
        raise Unlike(f"{call.name} returns no tensor")
    return found


def streams(recording: Recording, kinds: Kinds) -> list[list[tuple[Tensor, Tensor]]]:
    """The residual stream before and after each layer that is called, kind by kind.

    Raises:
        Unlike: a layer is not called exactly once, as the others of its kind.
    """
    found = []
    for names in kinds:
        calls = [call for call in recording.calls if call.name in names]
        if len(calls) != len(names):
            raise Unlike(f"{names[0]} and those like it ran {len(calls)} times")
        first, *others = calls
        places = {stream_place(first, call.args, call.kwargs) for call in others}
        if len(places) != 1:
            raise Unlike(f"{names[0]} and those like it differ in several arguments")
        place = places.pop()
        found.append([(tree_leaves((call.args, call.kwargs))[place], stream_out(call)) for call in calls])
    return found


def closed(recording: Recording, kinds: Kinds, model: nn.Module) -> bool:
    """Whether the layers take nothing but their arguments and parameters, and give nothing but the stream."""
    names = {name: number for number, name in enumerate(name for names in kinds for name in names)}
    calls = {names[call.name]: call for call in recording.calls if call.name in names}
    where = {n: number for number, call in calls.items() for n in range(call.first, call.last)}
    made: dict[int, int] = {}
    for n, event in enumerate(recording.events):
        for output in event.outputs:
            made.setdefault(id(output), where.get(n, OUTSIDE))
    homes = {**homes_of(model, names), **made}
    given = {number: set(map(id, tree_leaves((c.args, c.kwargs)))) for number, c in calls.items()}
    handed = {number: id(stream_out(call)) for number, call in calls.items()}
    for n, event in enumerate(recording.events):
        here = where.get(n, OUTSIDE)
        for tensor in event.tensors:
            home = homes.get(id(tensor), here)
            if home == here:
                continue
            if home != OUTSIDE and id(tensor) != handed[home]:
                return False
            if here != OUTSIDE and id(tensor) in made and id(tensor) not in given[here]:
                return False
        if here != OUTSIDE and overwrites(event, homes, here):
            return False
    return True


def homes_of(model: nn.Module, names: Mapping[str, int]) -> dict[int, int]:
    """Identity of each parameter and buffer -> the number of the layer that holds it."""
    held: dict[int, int] = {}
    for name, number in names.items():
        layer = model.get_submodule(name)
        for tensor in (*layer.parameters(), *layer.buffers()):
            held[id(tensor)] = OUTSIDE if held.get(id(tensor), number) != number else number
    return held


def overwrites(event: Event, homes: Mapping[int, int], here: int) -> bool:
    """Whether an operator in a layer writes to what was made elsewhere."""
    written = event.outputs[0]
    base = written if written._base is None else written._base
    return event.in_place and homes.get(id(base), here) != here
