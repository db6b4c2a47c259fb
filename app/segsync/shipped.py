"""Folders that a checkout keeps at its top, where people look for them, and that a wheel holds inside its packages."""

from importlib import resources
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def shipped(package: str, inside: str, in_checkout: str) -> Path:
    """A folder that comes with the software.

    Args:
        package: The package that holds it when installed.
        inside: Its name in that package.
        in_checkout: Its path from the top of a checkout, from which the build takes it.

    Returns:
        The folder in the installed package, else that of the checkout.
    """
    folder = Path(str(resources.files(package).joinpath(inside)))
    return folder if folder.is_dir() else CHECKOUT / in_checkout


#: The weights that come with the software, a folder a task.
WEIGHTS = shipped("segsync", "weights", "weights")
