"""Settings files: YAML and `--set a.b=value` into a frozen pydantic model, every mistake in one clear line.

A file may stand on another: `base: other.yaml`, a path from the file's own folder, gives every key that the file does
not. Tables of settings are joined key by key; what is a value, a list or a table of labels is replaced whole.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from segsync.errors import InputError
from segsync_train.config.recipes import settings_file


class Frozen(BaseModel):
    """Base of all settings: immutable, and a key that does not exist is an error that names the nearest that does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise PydanticCustomError("unknown_key", "{said}", {"said": unknown_key(key, cls.model_fields)})
        return data


def unknown_key(key: object, known: Collection[str]) -> str:
    """What is said of a key that does not exist: the nearest that does."""
    near = difflib.get_close_matches(str(key), known, n=1)
    return f"unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}")


class _Loader(yaml.SafeLoader):
    """YAML's values as version 1.2 has them: true and false alone are truth values, so that `amp: off` is a word."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, re.compile("(?:true|True|TRUE|false|False|FALSE)$") if tag == "tag:yaml.org,2002:bool" else pattern)
        for tag, pattern in resolvers
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

Settings = TypeVar("Settings", bound=BaseModel)
Checked = TypeVar("Checked")


def load_settings(model: type[Settings], path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a YAML file and its bases, apply overrides, and check the whole.

    Args:
        model: What the settings are checked by.
        path: A file, or the name of a recipe that comes with the software.
        overrides: `a.b=value`, the value in YAML.

    Returns:
        The settings.

    Raises:
        InputError: One line that says the file, the key, what was expected and what was found.
    """
    path = settings_file(path)
    try:
        data = _read(path, ())
    except OSError as error:
        raise InputError(
            f"{path}: expected a settings file, found {error.strerror}; give --config FILE, or the name "
            "of a recipe (segsync-train recipes)"
        ) from error
    for override in overrides:
        _apply(data, override)
    return check_settings(model, data, str(path))


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The values of a file and its bases. above: the files that stand on it; raises OSError where it is not there."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: expected YAML, found {reason}; correct the file") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected keys with values, found {type(data).__name__}; correct the file")
    if "base" not in data:
        return data
    name = data.pop("base")
    base = path.parent / str(name)
    base = base if base.exists() else settings_file(Path(str(name)))
    if base.resolve() in (path.resolve(), *above):
        raise InputError(f"{path}: base: expected a file that does not stand on this one, found {name}; take it out")
    try:
        under = _read(base, (*above, path.resolve()))
    except OSError as error:
        raise InputError(
            f"{path}: base: expected a settings file at {base}, found {error.strerror}; correct it"
        ) from error
    return _joined(under, data)


def _joined(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Both tables' keys; where both have one, the upper's value, or of two tables of settings their keys joined."""
    joined = {**under, **over}
    for key in under.keys() & over.keys():
        both = (under[key], over[key])
        # The keys of a table of labels are numbers.
        if all(isinstance(table, dict) and all(isinstance(k, str) for k in table) for table in both):
            joined[key] = _joined(*both)
    return joined


def check_settings(model: type[Checked], data: Mapping[str, Any], where: str) -> Checked:
    """Make settings, a model or a dataclass, of plain values; raises InputError with the first mistake in one line."""
    try:
        return TypeAdapter(model).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        # Of settings that do not fit together the message says which; the others would hide it.
        found = f"; found {short(first['input'])}" if key and first["type"] != "unknown_key" else ""
        raise InputError(f"{where}: {key or 'settings'}: {message}{found}") from error


def dump_settings(settings: BaseModel) -> str:
    """The settings as YAML, defaults included, in the order of their definition."""
    text: str = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    return text


def differences(one: Any, other: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two tables of settings, as YAML has them, differ: the key (`optimiser.lr`) and both values, in order."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from differences(one.get(key), other.get(key), f"{where}.{key}" if where else str(key))
    elif one != other:
        yield where, one, other


def _apply(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise InputError(f"--set {override}: expected key=value, as in --set steps=100")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: expected a YAML value after '=', found {text!r}") from error
    *parents, last = path.strip().split(".")
    node: Any = data
    for number, part in enumerate(parents):
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = _step(node, part, override, ".".join(parents[: number + 1]))
    if isinstance(node, list):
        _step(node, last, override, path)
        node[int(last)] = value
    elif isinstance(node, dict):
        # YAML reads the keys of a table of labels as numbers.
        node[int(last) if last.isdigit() else last] = value
    else:
        raise InputError(f"--set {override}: {'.'.join(parents)} holds a single value, nothing can be set inside it")


def _step(node: Any, part: str, override: str, path: str) -> Any:
    if isinstance(node, dict):
        return node.get(part, node.get(int(part)) if part.isdigit() else None)
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    raise InputError(f"--set {override}: {path} does not exist in the settings; name a key that does")


def short(value: object) -> str:
    """A value as an error shows it: long ones are cut."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
