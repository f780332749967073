"""The bar that people see while work goes on: share done, rate and time left, on standard error."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield every item of `items` while a bar with an ETA follows along."""
    yield from tqdm(items, desc=description, total=total, dynamic_ncols=True, leave=False)
