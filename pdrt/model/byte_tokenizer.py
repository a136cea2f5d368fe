"""A tokenizer for models that have none beside their config: one token for each byte of the text.

    0 <pad>  1 <s>  2 </s>  3 <unk>  |  4 ... 259: the bytes  |  260 ...: <260>, <261>, ...

Text is encoded with the bytes only. A model with random weights answers with any token of its
vocabulary, so each of the others has a text too: its own number. Tokens that end a request give
none, as in any tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pdrt.byte_tokens import bytes_in_order
from pdrt.errors import ModelError

VERSION = 1  # in the names of cached folders: another tokenizer has another number
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
SMALLEST_VOCAB = len(SPECIAL) + 256


def write_byte_tokenizer(folder: Path, vocab_size: int, end_ids: Collection[int]) -> None:
    """Writes tokenizer.json and tokenizer_config.json for a model of this vocabulary.

    Args:
        end_ids: tokens that end a request.

    Raises:
        ModelError: the vocabulary is too small for all bytes.
    """
    build(vocab_size, end_ids).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def build(vocab_size: int, end_ids: Collection[int]) -> Tokenizer:
    """The tokenizer itself; raises ModelError as `write_byte_tokenizer` does."""
    if vocab_size < SMALLEST_VOCAB:
        raise ModelError(
            f"a vocabulary of {vocab_size} tokens is too small for the byte-level tokenizer, which "
            f"needs {SMALLEST_VOCAB}; put the model's tokenizer.json beside its config.json"
        )
    alphabet = bytes_in_order()
    numbered = [f"<{i}>" for i in range(SMALLEST_VOCAB, vocab_size)]
    tokens = [*SPECIAL, *alphabet, *numbered]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = [tokens[i] for i in sorted(end_ids) if SMALLEST_VOCAB <= i < vocab_size]
    silent = [AddedToken(t, normalized=False, special=True) for t in (*SPECIAL, *ends)]
    tokenizer.add_special_tokens(silent)
    return tokenizer
