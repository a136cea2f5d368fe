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
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
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


def make_llama(folder: Path, **changes: object) -> Path:
    """Grouped heads: 4 query heads share 2 KV heads; head_dim 16; 3 layers."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**{**COMMON, **sizes, **heads, **changes})
    return _save(LlamaForCausalLM(config), folder, chat_template=CHAT_TEMPLATE)


def make_phi(folder: Path, **changes: object) -> Path:
    """As phi-2: head_dim 80, of which 32 are rotated; 2 heads, 2 layers; no chat template."""
    sizes = {"hidden_size": 160, "intermediate_size": 240, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "partial_rotary_factor": 0.4}
    config = PhiConfig(**{**COMMON, **sizes, **heads, **changes})
    return _save(PhiForCausalLM(config), folder, chat_template=None)


def _save(model: PreTrainedModel, folder: Path, chat_template: str | None) -> Path:
    generator = torch.Generator().manual_seed(20)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(0.0, 0.2, generator=generator)
        if "norm" in name and name.endswith("weight"):
            parameter.data += 1.0
    model.save_pretrained(folder)
    _byte_tokenizer().save(str(folder / "tokenizer.json"))
    config = {"eos_token": END} | ({"chat_template": chat_template} if chat_template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
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
