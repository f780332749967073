"""How long work tells that it is under way: the caller supplies the bar, `pruner` prints nothing."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """Wraps an iterable so that someone sees it advance; must yield the items unchanged."""

    def __call__(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield every item of `items`; `total` is their number where `items` has no length."""
        ...


def silent(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Track nothing: the default everywhere, for libraries and tests."""
    yield from items
