"""Typed reading of a Hugging Face config.json: what is missing or odd is named in the error."""

from __future__ import annotations

from collections.abc import Mapping

from pdrt.errors import ModelError


class HFConfig:
    """The config of one checkpoint. `place` is the file, for messages."""

    def __init__(self, values: Mapping[str, object], place: str) -> None:
        self._values = values
        self.place = place

    def get(self, key: str, default: object = None) -> object:
        """The value; `default` where it is absent or null."""
        value = self._values.get(key)
        return default if value is None else value

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer. Raises ModelError where it is anything else."""
        value = self.get(key, default)
        if type(value) is not int or value < 1:
            raise self.error(key, "a positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if type(value) is not bool:
            raise self.error(key, "true or false")
        return value

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

        Raises:
            ModelError: they ask for scaling, which is not supported.
        """
        new = self.get("rope_parameters")
        old = self.get("rope_scaling")
        values = {**self._values, **new} if isinstance(new, Mapping) else self._values
        scaling = old if isinstance(old, Mapping) else values
        kind = scaling.get("rope_type") or scaling.get("type") or "default"
        if kind != "default":
            raise ModelError(
                f"{self.place}: rotary scaling {kind!r} is not supported; only models without "
                "rope_scaling run"
            )
        return HFConfig(values, self.place)

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
