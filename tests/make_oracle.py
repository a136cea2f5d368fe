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
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pdrt.config import cache_dir
from pdrt.model.default_model import default_model

DATA = Path(__file__).parent / "data"
NUM_TOKENS = 64
SMALLEST_MARGIN = 1e-3


@torch.inference_mode()
def greedy(model: torch.nn.Module, prompt: list[int]) -> tuple[list[int], list[float]]:
    """The next NUM_TOKENS tokens, and the margin of each."""
    tokens: list[int] = []
    margins: list[float] = []
    output = model(input_ids=torch.tensor([prompt]), use_cache=True)
    while True:
        (first, second), (token, _) = (x.tolist() for x in output.logits[0, -1].topk(2))
        tokens.append(token)
        margins.append(first - second)
        if len(tokens) == NUM_TOKENS:
            return tokens, margins
        output = model(
            input_ids=torch.tensor([[token]]),
            past_key_values=output.past_key_values,
            use_cache=True,
        )


def prompt_ids(tokenizer: object, prompt: dict[str, object]) -> list[int]:
    text = prompt.get("text") or tokenizer.apply_chat_template(
        prompt["messages"], tokenize=False, add_generation_prompt=True
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def main() -> None:
    torch.set_num_threads(2)
    folder = default_model(cache_dir())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    records = []
    for prompt in json.loads((DATA / "prompts.json").read_text()):
        ids = prompt_ids(tokenizer, prompt)
        tokens, margins = greedy(model, ids)
        records.append(
            {
                "name": prompt["name"],
                "prompt_token_ids": ids,
                "output_token_ids": tokens,
                "margins": [round(margin, 6) for margin in margins],
            }
        )
        note = "  SMALL" if min(margins) < SMALLEST_MARGIN else ""
        print(f"{prompt['name']:20} {len(ids):5} tokens, margin {min(margins):.6f}{note}")
    lines = ",\n".join(json.dumps(record) for record in records)
    (DATA / "oracle_smollm2.json").write_text(f"[\n{lines}\n]\n")
    small = sum(margin < SMALLEST_MARGIN for record in records for margin in record["margins"])
    print(f"{len(records)} prompts, {small} margins under {SMALLEST_MARGIN}", file=sys.stderr)


if __name__ == "__main__":
    main()
