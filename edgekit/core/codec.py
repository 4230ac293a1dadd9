"""Frozen dataclasses to plain JSON values and back, strictly: every problem is found, none is repaired."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgekit.errors import UsageError, nearest

__all__ = ["decode", "decode_toml", "encode", "read_toml"]

T = TypeVar("T")


def encode(value: Any) -> Any:
    """A dataclass (nested ones, tuples, paths, mappings too) as plain JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def decode(cls: type[T], data: Any, *, where: str) -> T:
    """Build the dataclass `cls` from plain values.

    Raises one `UsageError` that lists every problem: unknown keys with the nearest known one, missing keys,
    values of the wrong type with what is allowed. `where` names the file or place in the message.
    """
    problems: list[str] = []
    value = _decode(cls, data, "", problems)
    if problems:
        raise UsageError(f"{len(problems)} problem(s) found", where=where, problems=problems)
    return value  # type: ignore[no-any-return]


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; a file that cannot be read or parsed is a `UsageError` with the place."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        from edgekit.core.packages import require

        tomllib = require("tomli", needed_for="reading TOML on Python 3.10")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise UsageError("no such file", where=str(path)) from err
    except IsADirectoryError as err:
        raise UsageError("this is a folder, a TOML file is needed", where=str(path)) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise UsageError(f"not a valid TOML file: {err}", where=str(path)) from err


def decode_toml(cls: type[T], path: Path) -> T:
    """Read and decode a TOML file into the dataclass `cls`."""
    return decode(cls, read_toml(path), where=str(path))


def _at(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _decode(kind: Any, data: Any, place: str, problems: list[str]) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _decode_dataclass(kind, data, place, problems)
    if origin is Literal:
        if data not in args:
            allowed = ", ".join(repr(a) for a in args)
            problems.append(f"{place}: got {data!r}, allowed: {allowed}")
        return data
    if origin in (Union, types.UnionType):
        return _decode_union(args, data, place, problems)
    if origin is tuple:
        return _decode_tuple(args, data, place, problems)
    if origin in (dict, Mapping) or str(origin).endswith("Mapping'>"):
        if not isinstance(data, Mapping):
            problems.append(f"{place}: got {data!r}, a table is needed")
            return {}
        return {str(k): _decode(args[1], v, _at(place, k), problems) for k, v in data.items()}
    return _decode_scalar(kind, data, place, problems)


def _decode_scalar(kind: Any, data: Any, place: str, problems: list[str]) -> Any:
    if kind is Any or kind is object:
        return data
    if kind is Path and isinstance(data, str):
        return Path(data)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind is type(None) and data is None:
        return None
    if not isinstance(data, kind) or (kind in (int, float) and isinstance(data, bool)):
        name = {"str": "text", "bool": "true or false", "int": "a whole number", "float": "a number"}
        problems.append(f"{place}: got {data!r}, {name.get(kind.__name__, kind.__name__)} is needed")
    return data


def _decode_tuple(args: tuple[Any, ...], data: Any, place: str, problems: list[str]) -> tuple[Any, ...]:
    if not isinstance(data, (list, tuple)):
        problems.append(f"{place}: got {data!r}, a list is needed")
        return ()
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_decode(args[0], v, f"{place}[{i}]", problems) for i, v in enumerate(data))
    if len(data) != len(args):
        problems.append(f"{place}: got {len(data)} values, {len(args)} are needed")
        return ()
    return tuple(
        _decode(a, v, f"{place}[{i}]", problems) for i, (a, v) in enumerate(zip(args, data, strict=True))
    )


def _decode_union(args: tuple[Any, ...], data: Any, place: str, problems: list[str]) -> Any:
    tried: list[list[str]] = []
    for option in args:
        if option is type(None) and data is not None and len(args) > 1:
            continue  # "None is needed" would hide what is wrong inside an optional table
        found: list[str] = []
        value = _decode(option, data, place, found)
        if not found:
            return value
        tried.append(found)
    problems.extend(sorted(tried, key=len)[0])
    return None


def _decode_dataclass(cls: Any, data: Any, place: str, problems: list[str]) -> Any:
    if not isinstance(data, Mapping):
        problems.append(f"{place or 'the file'}: got {data!r}, a table is needed")
        return None
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls) if f.init}
    for key in data:
        if key not in known:
            problems.append(f"unknown key {_at(place, key)!r}; {nearest(str(key), known)}")
    values = {}
    before = len(problems)
    for name, field in known.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], _at(place, name), problems)
        elif field.default is MISSING and field.default_factory is MISSING:
            problems.append(f"missing key {_at(place, name)!r}")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except UsageError as err:  # a check in __post_init__
        problems.extend(err.problems or (f"{_at(place, '') if place else ''}{err.message}",))
        return None
