"""HTML in which every text is escaped: a string is text unless `tag` made it."""

from html import escape


class Markup(str):
    """HTML that goes into a page as it is."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str | float) -> Markup:
    """One element; children that are not Markup are text, and a trailing "_" of an attribute is dropped."""
    opening = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{opening}>{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """Elements and texts, one after the other."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))
