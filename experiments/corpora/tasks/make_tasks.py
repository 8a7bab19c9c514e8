#!/usr/bin/env python3
"""Make the tasks: prompts with references, in three splits, and the golden that the scorer is held to.

    python3 -m venv /tmp/rg && /tmp/rg/bin/pip install reasoning-gym==0.1.25
    /tmp/rg/bin/python make_tasks.py              rewrite the outputs next to this script, and the golden
    /tmp/rg/bin/python make_tasks.py --out DIR    write somewhere else, for instance to compare

Four tasks come from seeded generators of reasoning-gym (Apache-2.0), one from the facts in facts.py. Needs the `zstd` command;
release 1.5.4 gives the same bytes, another one the same `content_sha256`.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import reasoning_gym

from facts import facts

PACKAGE = "0.1.25"
HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parents[2] / "tests/fixtures/scores/reasoning-gym.jsonl"
SPLITS = ("train", "valid", "test")
SEED = 20_261_101

# Folder, generator, its settings, the prompt made of an entry, and the number of prompts per split. Prompts have only what varies: the
# sentence around it, which a generator repeats in every question, would cost a small student most of its compute.
TASKS = [
    (
        "chain-sum",
        "chain_sum",
        dict(min_terms=2, max_terms=3, min_digits=1, max_digits=2),
        lambda entry: f"{entry['metadata']['expression']} =",
        (6000, 300, 300),
    ),
    (
        "basic-arithmetic",
        "basic_arithmetic",
        dict(min_terms=2, max_terms=2, min_digits=1, max_digits=2, operators=["+", "-", "*"], allow_parentheses=False, allow_negation=False),
        lambda entry: f"{entry['metadata']['expression']} =",
        (6000, 300, 300),
    ),
    (
        "spell-backward",
        "spell_backward",
        dict(min_word_len=3, max_word_len=5),
        lambda entry: f"{entry['metadata']['word']} ->",
        (6000, 300, 300),
    ),
    (
        "letter-counting",
        "letter_counting",
        dict(min_words=1, max_words=3),
        lambda entry: f"{entry['metadata']['target_letter']} in {' '.join(entry['metadata']['span'])}:",
        (4000, 300, 300),
    ),
]


def generated(generator, settings, prompt, counts):
    """Different prompts for each split in turn. The held-out splits come first, so that they do not depend on the size of train."""
    wanted = dict(zip(SPLITS, counts))
    dataset = reasoning_gym.create_dataset(generator, seed=SEED, size=20 * sum(counts), **settings)
    known, splits = set(), {split: [] for split in SPLITS}
    entries = iter(dataset)
    for split in ("valid", "test", "train"):
        while len(splits[split]) < wanted[split]:
            entry = next(entries)
            if prompt(entry) not in known:
                known.add(prompt(entry))
                splits[split].append((prompt(entry), entry["answer"]))
    return splits


def written(folder, splits):
    """Writes the splits and returns what provenance.json says of them."""
    prompts = [prompt for pairs in splits.values() for prompt, _ in pairs]
    assert len(prompts) == len(set(prompts)), f"{folder}: a prompt is twice in the splits"
    folder.mkdir(parents=True, exist_ok=True)
    about = {}
    for split, pairs in splits.items():
        for prompt, answer in pairs:
            assert prompt == prompt.strip() and answer == answer.strip() and prompt and answer, (prompt, answer)
        # The space before the answer belongs to it, as tokenizers have it.
        lines = "".join(json.dumps({"src": prompt, "tgt": f" {answer}"}, ensure_ascii=False) + "\n" for prompt, answer in pairs)
        path = folder / f"{split}.jsonl.zst"
        subprocess.run(["zstd", "-19", "-q", "-f", "-o", path], input=lines.encode(), check=True)
        about[split] = {"prompts": len(pairs), "bytes": len(lines.encode()), "content_sha256": hashlib.sha256(lines.encode()).hexdigest()}
    return about


def near_misses(reference):
    """Answers by kind: some right, most wrong in one respect."""
    number = reference.lstrip("-").isdigit()
    yield "same", reference
    yield "space-before", f" {reference}"
    yield "space-after", f"{reference} "
    yield "newline-after", f"{reference}\n"
    yield "full-stop", f"{reference}."
    yield "sentence", f"The answer is {reference}"
    yield "sentence-full-stop", f"The answer is {reference}."
    yield "more-after", f"{reference} or so"
    yield "quoted", f'"{reference}"'
    yield "twice", f"{reference} {reference}"
    yield "doubled", reference + reference
    yield "empty", ""
    yield "blank", " "
    yield "cut", reference[:-1]
    if number:
        value = int(reference)
        yield "one-more", str(value + 1)
        yield "opposite", str(-value) if value else "1"
        yield "plus", f"+{reference.lstrip('-')}" if value >= 0 else reference
        yield "leading-zero", f"{'-' * (value < 0)}0{abs(value)}"
        yield "decimal", f"{reference}.0"
        yield "near", f"{reference}.01"
        yield "exponent", f"{reference}e0"
        yield "underscore", f"{reference[:-1]}_{reference[-1]}" if len(reference.lstrip("-")) > 1 else f"{reference}_"
        yield "full-width", "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in reference)
        yield "two-numbers", f"1{reference.lstrip('-')} {reference}"
        yield "two-numbers-first", f"{reference} 1{reference.lstrip('-')}"
        yield "fraction", f"{2 * value}/2"
        yield "thousands", f"{'-' * (value < 0)}{abs(value):,}"
        if abs(value) >= 10:
            yield "stray-comma", f"{'-' * (value < 0)}{str(abs(value))[:-1]},{str(abs(value))[-1]}"
    else:
        yield "upper-case", reference.upper()
        yield "capitalised", reference.capitalize()
        yield "other", reference[::-1] + "x"


def golden(path):
    """Scores by reasoning-gym of right and nearly right answers."""
    lines = []
    for folder, generator, settings, _, _ in TASKS:
        dataset = reasoning_gym.create_dataset(generator, seed=SEED + 1, size=12, **settings)
        entries = list(dataset)
        if generator == "chain_sum":
            # Numbers with thousands, which the task itself does not have.
            entries += [entries[0] | {"answer": answer} for answer in ("1234", "-12345", "0")]
        for entry in entries:
            for kind, answer in near_misses(entry["answer"]):
                score = float(dataset.score_answer(answer, entry))
                lines.append({"task": folder, "kind": kind, "reference": entry["answer"], "answer": answer, "score": score})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{path}: {len(lines)} answers", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    if version("reasoning-gym") != PACKAGE:
        sys.exit(f"reasoning-gym {PACKAGE} is needed, not {version('reasoning-gym')}")
    about = {}
    for folder, generator, settings, prompt, counts in TASKS:
        about[folder] = {"generator": f"reasoning_gym.{generator}", "settings": settings, "seed": SEED}
        about[folder] |= written(out / folder, generated(generator, settings, prompt, counts))
    about["facts"] = {"source": "facts.py"} | written(out / "facts", facts())
    about = {"package": f"reasoning-gym=={PACKAGE}", "license": "Apache-2.0", "tasks": about}
    (out / "provenance.json").write_text(json.dumps(about, indent=1) + "\n")
    golden(GOLDEN if out == HERE else out / GOLDEN.name)


main()
