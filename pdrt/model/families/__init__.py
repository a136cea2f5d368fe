"""The architectures that pdrt runs: for each a small map from its config and tensor names to ours.

A family is a module with `ARCHITECTURES`, `TENSORS` (names) and `spec(config)`; docs/models.md
shows how one is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pdrt.errors import ModelError
from pdrt.model.families import gemma, gpt_neox, llama, mistral, phi, phi3, qwen2, qwen3
from pdrt.model.families.refused import missing
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import ModelSpec


class Family(Protocol):
    """A module that describes one family of checkpoints."""

    @property
    def ARCHITECTURES(self) -> tuple[str, ...]:
        """Values of `architectures[0]` and of `model_type`."""

    @property
    def TENSORS(self) -> Mapping[str, tuple[str, ...]]:
        """Our name -> the checkpoint's, to be joined along the first dimension; N: the layer."""

    def spec(self, config: HFConfig) -> ModelSpec:
        """Raises ModelError where the config asks for something that the decoder has not."""


FAMILIES: dict[str, Family] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "phi": phi,
    "phi3": phi3,
    "gemma": gemma,
    "gpt_neox": gpt_neox,
}


def spec_of(config: HFConfig) -> ModelSpec:
    """The spec of the model that a config describes.

    Raises:
        ModelError: the architecture is not known, or asks for something that is not carried.
    """
    architecture = config.architecture()
    for family in FAMILIES.values():
        if architecture in family.ARCHITECTURES:
            return family.spec(config)
    what = missing(architecture)
    needs = f" (it needs {what})" if what else ""
    known = ", ".join(family.ARCHITECTURES[0] for family in FAMILIES.values())
    raise ModelError(
        f"{config.place}: architecture {architecture!r} is not supported{needs}; known are {known}"
    )


def sources(family_name: str, name: str) -> tuple[str, ...]:
    """Our tensor -> those of the checkpoint that it consists of, joined along the first dimension.

    `layers.3.qkv.weight` -> `model.layers.3.self_attn.q_proj.weight`, and those of k and v.
    """
    *path, part, kind = name.split(".")
    ours = f"layers.N.{part}" if path else part
    layer = path[-1] if path else ""
    names = FAMILIES[family_name].TENSORS[ours]
    return tuple(f"{theirs.replace('.N.', f'.{layer}.')}.{kind}" for theirs in names)
