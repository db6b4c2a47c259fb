"""Settings files: YAML and `--set a.b=value` into a frozen pydantic model, every mistake in one clear line."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from segsync.errors import InputError


class Frozen(BaseModel):
    """Base of all settings: immutable, and a key that does not exist is an error that names the nearest that does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(cls.model_fields)}"
                    raise PydanticCustomError(
                        "unknown_key", "unknown key {key}; {hint}", {"key": repr(key), "hint": hint}
                    )
        return data


Settings = TypeVar("Settings", bound=BaseModel)


def load_settings(model: type[Settings], path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a YAML file, apply overrides of the form `a.b=value` (value in YAML), and check the whole.

    Raises InputError with one line that says the file, the key, what was expected and what was found.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: expected a settings file, found {error.strerror}; give --config FILE") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: expected YAML, found {reason}; correct the file") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected keys with values, found {type(data).__name__}; correct the file")
    for override in overrides:
        _apply(data, override)
    return check_settings(model, data, str(path))


def check_settings(model: type[Settings], data: Mapping[str, Any], where: str) -> Settings:
    """Make settings of plain values; raises InputError with the first mistake in one line."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "settings"
        if first["type"] == "unknown_key":
            raise InputError(f"{where}: {key}: {first['msg']}") from error
        raise InputError(f"{where}: {key}: {first['msg']}; found {_short(first['input'])}") from error


def dump_settings(settings: BaseModel) -> str:
    """The settings as YAML, defaults included, in the order of their definition."""
    text: str = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    return text


def _apply(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise InputError(f"--set {override}: expected key=value, as in --set training.steps=100")
    try:
        value = yaml.safe_load(text)
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


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
