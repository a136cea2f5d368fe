"""The architectures that pdrt runs: for each a small map from its config and tensor names to ours.

A family is a module with `ARCHITECTURES`, `LAYER` and `OTHER` (names) and `spec(config)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pdrt.errors import ModelError
from pdrt.model.families import llama, phi
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import ModelSpec


class Family(Protocol):
    """A module that describes one family of checkpoints."""

    @property
    def ARCHITECTURES(self) -> tuple[str, ...]:
        """Values of `architectures[0]` and of `model_type`."""

    @property
    def LAYER(self) -> Mapping[str, tuple[str, ...]]:
        """Our name in a layer -> the checkpoint's, to be joined along the first dimension."""

    @property
    def OTHER(self) -> Mapping[str, tuple[str, ...]]:
        """The same outside of the layers."""

    def spec(self, config: HFConfig) -> ModelSpec:
        """Raises ModelError where the config asks for something that the decoder has not."""


FAMILIES: dict[str, Family] = {"llama": llama, "phi": phi}


def spec_of(config: HFConfig) -> ModelSpec:
    """The spec of the model that a config describes.

    Raises:
        ModelError: the architecture is not known, or asks for something that is not carried.
    """
    architecture = config.architecture()
    for family in FAMILIES.values():
        if architecture in family.ARCHITECTURES:
            return family.spec(config)
    known = ", ".join(family.ARCHITECTURES[0] for family in FAMILIES.values())
    raise ModelError(
        f"{config.place}: architecture {architecture!r} is not supported; known are {known}"
    )


def sources(family_name: str, name: str) -> tuple[str, ...]:
    """Our tensor -> those of the checkpoint that it consists of, joined along the first dimension.

    `layers.3.qkv.weight` -> `model.layers.3.self_attn.q_proj.weight`, and those of k and v.
    """
    family = FAMILIES[family_name]
    *path, part, kind = name.split(".")
    if path:
        return tuple(f"model.layers.{path[1]}.{source}.{kind}" for source in family.LAYER[part])
    return tuple(f"{source}.{kind}" for source in family.OTHER[part])
