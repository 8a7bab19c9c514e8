"""The works that hydrometer and its peers are timed on: shapes, sizes, and the arithmetic each of them asks for."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shape:
    """A Llama whose input and output embeddings are the same matrix."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int

    def flops_per_token(self, context: int, passes: int) -> float:
        """Matrix products and causal attention, averaged over the positions. `passes`: 1 forward, 3 forward and backward."""
        kv = self.hidden * self.kv_heads // self.heads
        layer = 2 * self.hidden * self.hidden + 2 * self.hidden * kv + 3 * self.hidden * self.intermediate
        products = 2 * (self.layers * layer + self.vocab * self.hidden)
        attention = 2 * context * self.hidden * self.layers
        return passes * (products + attention)


def small(vocab: int) -> Shape:
    return Shape(vocab, hidden=256, intermediate=704, layers=4, heads=4, kv_heads=4)


SMOLLM2 = Shape(vocab=49152, hidden=576, intermediate=1536, layers=30, heads=9, kv_heads=3)
TOP_K = 64
HEAD = {"n": 2048, "v": 49152, "d": 576}
HEAD_CASES = {"hard-ce": "hard CE", "soft-ce": "soft CE on the top 20", "kl": "dense KL (hydrometer: top 4096)"}


@dataclass(frozen=True)
class Work:
    key: str  # without the precision, e.g. "step-v2048"
    title: str
    kind: str  # "step", "teach", "eval" or "head"
    precision: str
    tokens: int  # of one repetition
    context: int = 0
    shape: Shape | None = None
    checkpoint: bool = False  # SmolLM2-135M rather than random weights
    repetitions: int = 8  # timed in each round
    words: dict = field(default_factory=dict)  # what only one kind has

    @property
    def name(self) -> str:
        return f"{self.key}-{self.precision}"

    def flops_per_token(self) -> float:
        if self.kind == "head":
            return 6 * HEAD["v"] * HEAD["d"]
        return self.shape.flops_per_token(self.context, 3 if self.kind == "step" else 1)


def works() -> list[Work]:
    both = ("bf16", "f32")
    made = []
    for key, vocab, rows, context in (("step-v49152", 49152, 8, 256), ("step-v2048", 2048, 16, 256), ("step-v2048-c1024", 2048, 4, 1024)):
        title = f"training step, V {vocab} d 256 L 4, {rows} × {context}"
        made += [Work(key, title, "step", precision, rows * context, context, small(vocab)) for precision in both]
    for kind, title in (("step", "training step"), ("teach", f"`teach`, k = {TOP_K}"), ("eval", "`eval`")):
        title = f"SmolLM2-135M, {title}, context 512"
        made += [Work(f"{kind}-smollm2", title, kind, precision, 2048, 512, SMOLLM2, True, 4) for precision in both]
    for case, title in HEAD_CASES.items():
        title = "output head, N {n} V {v} d {d}, ".format(**HEAD) + title
        made.append(Work(f"head-{case}", title, "head", "bf16", HEAD["n"], words={"case": case}))
    return made
