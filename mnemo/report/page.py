"""What all pages have in common: how a template is rendered, and words that they share."""

from collections.abc import Iterable

import jinja2

from ..visible import on_a_page
from .samples import data_uri, grouped


def render(template: str, /, **values: object) -> str:
    """The page that a template of this package makes of values; every string is escaped, and only to be seen."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": data_uri, "plain": plain, "grouped": grouped, "listed": listed}
    return on_a_page(environment.get_template(template).render(**values))


def listed(items: Iterable[object]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def plain(value: object) -> str:
    """A value of a configuration as one would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else listed(value) if isinstance(value, list) else str(value)
