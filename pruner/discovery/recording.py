"""One forward pass on the meta device, written down operator by operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from pruner.discovery.events import Interrupted, Recording
from pruner.discovery.recorder import ListsAsTensors, Recorder
from pruner.discovery.repeating import standing_in
from pruner.discovery.values import Values


def record(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    values: Values,
    prefix: str = "",
    repeats: Mapping[str, str] = MappingProxyType({}),
) -> Recording:
    """Call a module that lies on the meta device and write down what runs.

    Args:
        module: the twin, or a part of it.
        args, kwargs: its arguments; tensors on other devices are moved and their values become known.
        values: what is known of constants already.
        prefix: the module's own name, which the recorded names begin with.
        repeats: decoder layer that need not run -> the one that it repeats; only for the whole twin.

    Raises:
        ValueError: the model's code asks for a value that only real weights and inputs have.
    """
    recorder = Recorder(values)
    args, kwargs = tree_map_only(Tensor, recorder.on_meta, (tuple(args), dict(kwargs)))
    recorder.recording.inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    with ExitStack() as around:
        around.enter_context(listening(module, recorder, prefix))
        around.enter_context(standing_in(module, recorder, repeats))
        for mode in (torch.no_grad(), ListsAsTensors(), recorder):
            around.enter_context(mode)
        try:
            module(*args, **kwargs)
        except Exception as error:
            raise Interrupted(recorder.recording, error) from error
    return recorder.recording


@contextmanager
def listening(module: nn.Module, recorder: Recorder, prefix: str) -> Iterator[None]:
    """Tell the recorder of every call of a module within `module`."""
    handles = []
    for name, child in module.named_modules(prefix=prefix):

        def enter(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            recorder.enter(name, args, kwargs)

        def leave(_: nn.Module, args: Any, output: Any) -> None:
            recorder.leave(output)

        handles.append(child.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(child.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
