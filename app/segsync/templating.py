"""Pages from templates: one skeleton and one style sheet for all, each page a file that needs nothing else.

No script, no font, no network: a content security policy forbids whatever would slip through.
"""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, package: str = "segsync", **values: object) -> str:
    """A page of HTML.

    Args:
        template: A file's name in the package's `templates`; those of `segsync` (`base.html`, `style.css`) are at hand
            to every package's.
        package: Where it is looked for first.
        values: What the template names. Text is escaped, and characters that are not seen are made to be.

    Returns:
        The page.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, "segsync"))]),
        autoescape=True,
        finalize=_seen,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def _seen(value: object) -> object:
    """Text from outside with controls and changes of direction replaced; what the templates wrote stays as it is."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in value)
