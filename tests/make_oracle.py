"""Makes tests/data/oracle_smollm2.json: what transformers answers to the prompts, in float32.

    python -m tests.make_oracle

Greedy, 64 tokens for each prompt, whether or not an end-of-sequence token comes, from the weights
that pdrt itself converts. Kept with each token: the margin, by which its logit leads the second.
Where a margin is small, another order of addition may choose the other token, so a prompt with a
margin under 1e-3 is reported, and should be reworded in tests/data/prompts.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pdrt.config import cache_dir
from pdrt.model.default_model import default_model
from tests.checkpoints import greedy, transformers_model

DATA = Path(__file__).parent / "data"
NUM_TOKENS = 64
SMALLEST_MARGIN = 1e-3


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: dict[str, object]) -> list[int]:
    text = prompt.get("text") or tokenizer.apply_chat_template(
        prompt["messages"], tokenize=False, add_generation_prompt=True
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def main() -> None:
    torch.set_num_threads(2)
    folder = default_model(cache_dir())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = transformers_model(folder)
    records = []
    for prompt in json.loads((DATA / "prompts.json").read_text()):
        answer = greedy(model, prompt_ids(tokenizer, prompt), NUM_TOKENS, prompt["name"])
        records.append(asdict(answer))
        smallest = min(answer.margins)
        note = "  SMALL" if smallest < SMALLEST_MARGIN else ""
        print(f"{answer.name:20} {len(answer.prompt_token_ids):5} tokens, {smallest:.6f}{note}")
    lines = ",\n".join(json.dumps(record) for record in records)
    (DATA / "oracle_smollm2.json").write_text(f"[\n{lines}\n]\n")
    small = sum(margin < SMALLEST_MARGIN for record in records for margin in record["margins"])
    print(f"{len(records)} prompts, {small} margins under {SMALLEST_MARGIN}", file=sys.stderr)


if __name__ == "__main__":
    main()
