"""How hydrometer grows: time of a step against vocabulary, context and top-k; cache and memory; ranks.

Every document has exactly the targets of a full row, so that no row has padding, and a byte is a token.
"""

from .ours import Ours, experiment, table
from .texts import byte_tokenizer, bytes_of
from .works import small

PRECISION = "bf16"
TEACHER = table(small(0)).replace("256", "32").replace("704", "64").replace("layers = 4", "layers = 1")
VOCABULARIES = [2048, 8192, 32768, 131072]
CONTEXTS = [128, 256, 512, 1024, 2048]
TOP_KS = [1, 4, 16, 64, 256, 1024, 4096]
BATCHES = [2048, 8192, 32768, 65536]
RANKS = [(1, 1), (2, 1), (1, 2)]
CURVES = ("vocabulary", "context", "top-k", "batch", "ranks")


class Growth:
    def __init__(self, ours: Ours, quick: bool, tell):
        self.ours, self.steps, self.tell = ours, 1 if quick else 6, tell
        self.few = (lambda points: points[:2]) if quick else (lambda points: points)

    def point(self, curve: str, name: str, x: int, vocab: int, context: int, rows: int, *flags, top_k=None, steps=None) -> dict:
        """One step's time and memory, as a row of the frame."""
        folder = self.ours.scratch / f"growth-{vocab}-{context}-{rows}-{top_k or 0}"
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer, train, valid = folder / "tokenizer.json", folder / "train.jsonl", folder / "valid.jsonl"
        byte_tokenizer(tokenizer, vocab)
        documents = min(rows, 64)
        train.write_text(bytes_of(documents, context + 1))  # the first token is not predicted
        valid.write_text(bytes_of(1, context + 1))
        batch = rows * context
        data = f'{{ train = "{train}", valid = "{valid}", tokenizer = "{tokenizer}" }}'
        method = '[method.finetune]\nobjective = "hard-ce"\n'
        arm = "finetune"
        if top_k:
            arm = "taught"
            method += f'[method.taught]\nobjective = "soft-ce"\nteacher = "tiny"\ntop_k = {top_k}\n'
            method += f"[teacher.tiny]\nmodel = {TEACHER}\ntokens = {batch}\nbatch = {batch}\n"
            flags = (*flags, "--only", arm)
        text = experiment(table(small(vocab)), data, context, batch, steps or self.steps, PRECISION, method)
        done = self.ours.train(folder.name, text, arm, batch, *flags)
        self.tell(f"growth: {curve} {name} {x}: {done.tokens_per_s:,.0f} tokens/s, {done.peak_mb:,.0f} MB")
        blocks = sum(block.stat().st_size for block in done.runs.glob("cache-*/*.block"))
        return {
            "curve": curve,
            "series": name,
            "x": x,
            "precision": PRECISION,
            "seconds_per_step": done.seconds_per_step,
            "tokens_per_s": done.tokens_per_s,
            "peak_mb": done.peak_mb,
            "bytes_per_token": blocks / (documents * context) if top_k else None,
        }

    def vocabulary(self):
        for vocab in self.few(VOCABULARIES):
            yield self.point("vocabulary", "8 × 256", vocab, vocab, 256, 8)

    def context(self):
        for context in self.few(CONTEXTS):
            yield self.point("context", "4096 tokens", context, 2048, context, 4096 // context)

    def top_k(self):
        for top_k in self.few(TOP_KS):
            yield self.point("top-k", "V 32768, 8 × 256", top_k, 32768, 256, 8, top_k=top_k)

    def batch(self):
        passes = self.ours.has_flag("run", "--pass-tokens")
        for tokens in self.few(BATCHES):
            rows = tokens // 256
            if passes:
                yield self.point("batch", "default passes", tokens, 2048, 256, rows, steps=1)
            flags = ("--pass-tokens", tokens) if passes else ()
            yield self.point("batch", "one pass", tokens, 2048, 256, rows, *flags, steps=1)

    def ranks(self):
        for tp, dp in RANKS:
            yield self.point("ranks", f"tp {tp}, dp {dp}", tp * dp, 2048, 256, 16, "--tp", tp, "--dp", dp)

    def curve(self, name: str):
        return getattr(self, name.replace("-", "_"))()
