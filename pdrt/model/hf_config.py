"""Typed reading of a Hugging Face config.json: what is missing or odd is named in the error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pdrt.errors import ModelError

T = TypeVar("T")

LARGEST_INTEGER = 2**31 - 1
LARGEST_NUMBER = 1e30  # no model has a larger one, and products of a few stay finite


class HFConfig:
    """The config of one checkpoint. `place` is the file, for messages."""

    def __init__(self, values: Mapping[str, object], place: str) -> None:
        self._values = values
        self.place = place

    def get(self, key: str, default: object = None) -> object:
        """The value; `default` where it is absent or null."""
        value = self._values.get(key)
        return default if value is None else value

    def has(self, key: str) -> bool:
        """Whether the key is there, if only as null: some defaults differ from what null means."""
        return key in self._values

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer. Raises ModelError where it is anything else."""
        value = self.get(key, default)
        if type(value) is not int or not 1 <= value <= LARGEST_INTEGER:
            raise self.error(key, "a positive integer")
        return value

    def natural(self, key: str, default: int) -> int:
        """An integer from 0 on."""
        value = self.get(key, default)
        if type(value) is not int or not 0 <= value <= LARGEST_INTEGER:
            raise self.error(key, "0 or a positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if abs(value) <= LARGEST_NUMBER:  # false for NaN
                return float(value)
        raise self.error(key, "a number")

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if type(value) is not bool:
            raise self.error(key, "true or false")
        return value

    def choice(self, key: str, choices: Mapping[str, T]) -> T:
        """What the value stands for; the first of `choices` where it is absent."""
        self.require(key, tuple(choices), next(iter(choices)))
        return choices[str(self.get(key, next(iter(choices))))]

    def defaults(self, **values: object) -> HFConfig:
        """This config with `values` where it has nothing."""
        given = {key: value for key, value in self._values.items() if value is not None}
        return HFConfig(values | given, self.place)

    def renamed(self, **names: str) -> HFConfig:
        """This config with its numbers under other names, which they replace."""
        given = {new: self.number(old) for old, new in names.items() if self.get(old) is not None}
        return HFConfig({**self._values, **given}, self.place)

    def require(self, key: str, accepted: tuple[object, ...], default: object) -> None:
        """Raises ModelError unless the value is one that the decoder carries."""
        if self.get(key, default) not in accepted:
            raise self.error(key, " or ".join(repr(value) for value in accepted))

    def architecture(self) -> str:
        """`architectures[0]`, else `model_type`."""
        names = self.get("architectures")
        if isinstance(names, list) and names:
            return str(names[0])
        return str(self.get("model_type", "(none)"))

    def rope(self) -> HFConfig:
        """The parameters of the rotary embedding, wherever this version of the config keeps them.

        transformers 5 has all in rope_parameters; before, rope_theta stood at the top and the
        scaling in rope_scaling, its kind as rope_type or type. The result has rope_type always.

        Raises:
            ModelError: they differ from layer to layer.
        """
        given = [self._rope_part(key) for key in ("rope_parameters", "rope_scaling")]
        values = dict(self._values)
        kind: object = "default"
        for part in given:
            kind = part.get("rope_type") or part.get("type") or kind
            values |= {key: value for key, value in part.items() if value is not None}
        outer = self.get("original_max_position_embeddings")  # phi-3's place; it counts first
        if outer is not None:
            values["original_max_position_embeddings"] = outer
        return HFConfig(values | {"rope_type": kind}, self.place)

    def _rope_part(self, key: str) -> Mapping[str, object]:
        part = self.get(key, {})
        if not isinstance(part, Mapping) or any(isinstance(x, Mapping) for x in part.values()):
            raise self.error(key, "one set of rotary parameters for all layers")
        return part

    def dtype(self) -> str:
        """Of the checkpoint, in torch's words; float32 where the config does not say."""
        value = self.get("dtype", self.get("torch_dtype", "float32"))
        if value not in ("float32", "bfloat16", "float16"):
            raise self.error("dtype", "float32, bfloat16 or float16")
        return str(value)

    def token_ids(self, key: str) -> tuple[int, ...]:
        """A token id or a list of them; empty where absent."""
        value = self.get(key, [])
        ids = value if isinstance(value, list) else [value]
        if not all(type(i) is int and i >= 0 for i in ids):
            raise self.error(key, "a token id or a list of them")
        return tuple(ids)

    def error(self, key: str, expected: str) -> ModelError:
        if key not in self._values:
            return ModelError(f"{self.place} has no {key!r}; expected {expected}")
        return ModelError(f"{self.place}: {key} is {self._values[key]!r}; expected {expected}")
