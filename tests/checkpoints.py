"""Tiny random checkpoints, made by transformers, so small that a test runs them in milliseconds.

Every parameter is random, biases and norms too: transformers starts these at 0 and 1, which would
hide that one is left out. The logits differ by much, so greedy tokens hang on no rounding.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tests.oracle import Answer

END = "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
VOCAB_SIZE = 258  # the bytes, "th", and END
COMMON = {
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
    "eos_token_id": VOCAB_SIZE - 1,
    "pad_token_id": None,
}


def _sizes(*, hidden: int, inner: int, layers: int, heads: int) -> dict[str, object]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


# Of each family: its config class, and sizes that bring its own traits into a small model.
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, object]]] = {
    "llama": (  # 4 query heads share 2 KV heads; head_dim 16
        LlamaConfig,
        _sizes(hidden=64, inner=96, layers=3, heads=4) | {"num_key_value_heads": 2},
    ),
    "phi": (  # as phi-2: head_dim 80, of which 32 are rotated
        PhiConfig,
        _sizes(hidden=160, inner=240, layers=2, heads=2) | {"partial_rotary_factor": 0.4},
    ),
    "mistral": (  # heads wider than hidden_size / heads
        MistralConfig,
        _sizes(hidden=64, inner=96, layers=2, heads=4)
        | {"num_key_value_heads": 2, "head_dim": 128, "sliding_window": 24},
    ),
    "qwen2": (  # tied; a window in the last two of three layers
        Qwen2Config,
        _sizes(hidden=128, inner=160, layers=3, heads=2)
        | {"num_key_value_heads": 1, "tie_word_embeddings": True}
        | {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    ),
    "qwen3": (
        Qwen3Config,
        _sizes(hidden=64, inner=96, layers=2, heads=4) | {"num_key_value_heads": 2},
    ),
    "phi3": (  # as phi-4-mini: three quarters of each head are rotated
        Phi3Config,
        _sizes(hidden=192, inner=128, layers=2, heads=2)
        | {"num_key_value_heads": 1, "sliding_window": 33}
        | {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.75}},
    ),
    "gemma": (  # one KV head, head_dim 256, tied
        GemmaConfig,
        _sizes(hidden=96, inner=128, layers=2, heads=2) | {"num_key_value_heads": 1},
    ),
    "gpt_neox": (GPTNeoXConfig, _sizes(hidden=128, inner=192, layers=2, heads=2)),
}


def make(family: str, folder: Path, **changes: object) -> Path:
    """A checkpoint of one of FAMILIES, its config changed by `changes`."""
    kind, sizes = FAMILIES[family]
    config = kind(**{**COMMON, **sizes, **changes})
    return save_random(config, folder, CHAT_TEMPLATE if family == "llama" else None)


def make_llama(folder: Path, **changes: object) -> Path:
    return make("llama", folder, **changes)


def make_phi(folder: Path, **changes: object) -> Path:
    return make("phi", folder, **changes)


def save_random(config: PreTrainedConfig, folder: Path, chat_template: str | None = None) -> Path:
    """Random weights for a config, with a tokenizer of bytes."""
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(20)
    for name, parameter in model.named_parameters():
        start = parameter.data.clone() if "norm" in name else 0.0  # 1 in most families, 0 in gemma
        parameter.data.normal_(0.0, 0.2, generator=generator).add_(start)
    model.save_pretrained(folder)
    _byte_tokenizer().save(str(folder / "tokenizer.json"))
    tokenizer = {"eos_token": END} | ({"chat_template": chat_template} if chat_template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def _byte_tokenizer() -> Tokenizer:
    """One token for each byte, one for "th", and END."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, normalized=False, special=True)])
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    return tokenizer


def transformers_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@torch.inference_mode()
def greedy(model: PreTrainedModel, prompt: list[int], num_tokens: int, name: str = "") -> Answer:
    """What transformers answers: the next tokens, whether or not they end the text."""
    tokens: list[int] = []
    margins: list[float] = []
    output = model(input_ids=torch.tensor([prompt]), use_cache=True)
    while True:
        (first, second), (token, _) = (x.tolist() for x in output.logits[0, -1].topk(2))
        tokens.append(token)
        margins.append(round(first - second, 6))
        if len(tokens) == num_tokens:
            return Answer(name, prompt, tokens, margins)
        output = model(
            input_ids=torch.tensor([[token]]),
            past_key_values=output.past_key_values,
            use_cache=True,
        )


@torch.inference_mode()
def logits_of(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Of all tokens, in one forward pass: [num_tokens, vocab_size] float32."""
    return model(input_ids=torch.tensor([tokens])).logits[0].float()


def random_tokens(num_tokens: int, seed: int = 3) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB_SIZE, (num_tokens,), generator=generator).tolist()
