"""Texts and tokenizers of known lengths, so that rows are full and a token is what it is said to be."""

import json
from pathlib import Path

from environment import ROOT


def scenes() -> str:
    lines = (ROOT / "experiments/smollm2/valid.jsonl").read_text().splitlines()
    return "\n".join(json.loads(line)["text"] for line in lines)


def jsonl(texts) -> str:
    return "".join(json.dumps({"id": f"document-{at}", "text": text}) + "\n" for at, text in enumerate(texts))


def documents_of(tokenizer: Path, count: int, tokens: int) -> str:
    """JSON lines of `count` different documents with exactly `tokens` tokens each."""
    from tokenizers import Tokenizer

    coder, text = Tokenizer.from_file(str(tokenizer)), scenes()
    length = lambda text: len(coder.encode(text).ids)

    def document(at: int) -> str:
        begin = at * 997 % (len(text) - 8 * tokens)
        end = begin + coder.encode(text[begin : begin + 8 * tokens]).offsets[tokens - 1][1]
        while length(text[begin:end]) > tokens:
            end -= 1
        while length(text[begin:end]) < tokens:
            end += 1
        return text[begin:end]

    return jsonl(document(at) for at in range(count))


def bytes_of(count: int, length: int) -> str:
    """JSON lines of `count` different ASCII documents of `length` bytes."""
    text = scenes().encode("ascii", "ignore").decode()
    text *= length // len(text) + 2
    return jsonl(text[at % 997 * 17 : at % 997 * 17 + length] for at in range(count))


def byte_tokenizer(path: Path, vocab: int) -> None:
    """A tokenizer with `vocab` ids for which a byte is a token; the other ids never occur."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    ids = {character: at for at, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    ids |= {f"<{at}>": at for at in range(len(ids), vocab)}
    made = Tokenizer(models.BPE(ids, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(path))
