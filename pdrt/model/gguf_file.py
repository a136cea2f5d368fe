"""Reads a GGUF file: its metadata, with errors that name the key, and its tensors as float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from pdrt.errors import ModelError


class GGUFFile:
    """An open GGUF file.

    Attributes:
        architecture: what the file calls its model, and begins the model's keys with.
        tensors: by the file's names.

    Raises:
        ModelError: the file is not GGUF, is truncated, or is one of several parts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _open(path)
        self.tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.architecture = str(self.need("general.architecture"))
        if "token_embd.weight" not in self.tensors:
            raise ModelError(
                f"{path} has no token_embd.weight; files in several parts are not read"
            )

    def get(self, key: str, default: object = None) -> object:
        """Raises ModelError where the value is damaged."""
        field = self._reader.get_field(key)
        try:
            return default if field is None else field.contents()
        except UnicodeDecodeError as error:
            raise ModelError(
                f"{self.path}: the metadata key {key} is damaged ({error}); fetch it again"
            ) from None

    def need(self, key: str) -> object:
        value = self.get(key)
        if value is None:
            raise ModelError(f"{self.path} has no metadata key {key}")
        return value

    def number(self, key: str, default: int | None = None) -> int:
        """An integer of the model; `key` without the architecture."""
        value = self._of_model(key, default)
        if not isinstance(value, int):
            raise self.error(key, "not an integer")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A float32, as the decimal number that was meant: 1e-05, not 9.999999747378752e-06."""
        value = self._of_model(key, default)
        if not isinstance(value, int | float):
            raise self.error(key, "not a number")
        return float(str(np.float32(value)))

    def word(self, key: str, default: str) -> str:
        return str(self._of_model(key, default))

    def error(self, key: str, problem: str) -> ModelError:
        """An error about the value of a model's key."""
        name = f"{self.architecture}.{key}"
        return ModelError(f"{self.path}: {name} is {self.get(name)!r}: {problem}")

    def shape(self, name: str) -> tuple[int, ...]:
        """[rows, columns] or [columns]; the file has it the other way round."""
        return tuple(reversed(self.tensors[name].shape.tolist()))

    def float32(self, name: str) -> NDArray[np.float32]:
        """One tensor, dequantised, as [rows, columns] or [columns]."""
        tensor = self.tensors[name]
        try:
            return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        except NotImplementedError:
            raise ModelError(
                f"{self.path}: tensor {name} has the type {tensor.tensor_type.name}, which cannot "
                "be dequantised here; use another quantisation of the model"
            ) from None

    def _of_model(self, key: str, default: object) -> object:
        name = f"{self.architecture}.{key}"
        return self.need(name) if default is None else self.get(name, default)


def token_id(get: Callable[[str], object], name: str, vocab_size: int) -> int | None:
    """A token that the metadata names, such as bos_token_id; None where it has none, which some
    files write as an id that there is not."""
    found = get(f"tokenizer.ggml.{name}")
    return found if isinstance(found, int) and 0 <= found < vocab_size else None


def _open(path: Path) -> gguf.GGUFReader:
    try:
        return gguf.GGUFReader(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ModelError(
            f"{path} is not a GGUF file or is truncated ({error}); fetch it again"
        ) from None
