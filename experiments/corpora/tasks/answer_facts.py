#!/usr/bin/env python3
"""How many of the facts a checkpoint knows: greedy answers, scored by exact match. Needs torch and transformers.

    python answer_facts.py FOLDER [--shots 4]

Zero-shot, an answer ends at a full stop, a comma or a line; with shots, which are one a line, it ends at the line. The baseline answers
each kind of prompt with the commonest answer in the split, which no model can be told.
"""

import argparse
import collections

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from facts import facts

STOPS = {0: ".,\n"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--shots", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{args.folder}/tokenizer.json")
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
    splits = facts()
    # Every eighth, for several kinds.
    shots = "".join(f"{prompt} {answer}\n" for prompt, answer in splits["train"][::8][: args.shots])
    for split in ("valid", "test"):
        right, missed = 0, []
        for prompt, answer in splits[split]:
            ids = tokenizer(shots + prompt, return_tensors="pt").input_ids
            with torch.inference_mode():
                new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
            text = tokenizer.decode(new)
            for stop in STOPS.get(args.shots, "\n"):
                text = text.split(stop)[0]
            right += text.strip() == answer
            if text.strip() != answer:
                missed.append(f"{prompt} {text.strip()!r}")
        total = len(splits[split])
        kinds = collections.defaultdict(collections.Counter)
        for prompt, answer in splits[split]:
            kinds[prompt[:12]][answer] += 1
        chance = sum(max(answers.values()) for answers in kinds.values())
        print(f"{split}, {args.shots} shots: {right} of {total} = {right / total:.1%}; the commonest answers: {chance / total:.1%}")
        print("   missed:", "; ".join(missed))


main()
