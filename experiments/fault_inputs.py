"""The well-formed inputs that faults.py mutates: a GGUF file, rows of problems, demonstrations.

python experiments/fault_inputs.py FOLDER     # FOLDER/model is a model folder; writes FOLDER/single and FOLDER/data
"""

import json
import sys
from pathlib import Path
from typing import Any

ROWS = ("rows.jsonl", "rows.json", "rows.parquet")
SHOWN = "demonstrations.jsonl"
PROBLEMS = [{"problem": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(30)]
TEST = [{"problem": "What is 100 + 1?", "answer": "101"}]
DEMONSTRATION = {
    "problem": {"numbers": [5, 6, 8, 10], "target": 3, "n_solutions": 4},
    "organizer": ["<FORK-1>", " 5 8", "</FORK-1>", " so", "<JOIN-1>", "<ANSWER>", " 8 - 5", "</ANSWER>"],
    "work": [],
    "workers": {"1": " 8 - 5 <RETURN> 8 - 5</RETURN>"},
    "returns": {"1": " 8 - 5"},
}
KINDS = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string", list: "add_array"}


def write_gguf(model: Path, path: Path) -> None:
    """Writes a model folder of `launch/colab/tiny_qwen3.py` as a GGUF file."""
    import gguf
    from safetensors.numpy import load_file

    from asyncthink_jax.model.tensors import file_tensors
    from asyncthink_jax.model.weights import open_weights

    config = open_weights(str(model)).config
    arrays = load_file(model / "model.safetensors")
    path.parent.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(path, "qwen3")
    for key, value in _fields(model, config).items():
        getattr(writer, KINDS[type(value)])(key, value)
    for ours, theirs in zip(file_tensors(config, "gguf"), file_tensors(config, "hf"), strict=True):
        writer.add_tensor(ours.name, arrays[theirs.name].astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _fields(model: Path, config: Any) -> dict[str, Any]:
    """The keys of the GGUF file: the model's sizes, and its tokenizer with as many tokens as there are rows."""
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    texts = {i: text for text, i in tokenizer["model"]["vocab"].items()} | special
    tokens = [texts.get(i, f"[PAD{i}]") for i in range(config.vocab_size)]
    eos = next(i for i, text in special.items() if text == "<|im_end|>")
    settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    sizes = {
        "block_count": config.layers,
        "context_length": 4096,
        "embedding_length": config.width,
        "feed_forward_length": config.mlp_width,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "rope.freq_base": float(config.rope_theta),
    }
    return {f"qwen3.{key}": value for key, value in sizes.items()} | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if i in special else 1 if i in texts else 5 for i in range(len(tokens))],
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": eos,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": settings["chat_template"],
    }


def write_rows(folder: Path) -> None:
    """Writes the files of `ROWS`, each with the same problems, and one of demonstrations."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(exist_ok=True)
    for name, problems in (("rows", PROBLEMS), ("test", TEST)):
        lines = "".join(json.dumps(problem) + "\n" for problem in problems)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "rows.json").write_text(json.dumps(PROBLEMS), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PROBLEMS), folder / "rows.parquet")
    (folder / SHOWN).write_text((json.dumps(DEMONSTRATION) + "\n") * 3, encoding="utf-8")


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]) / "model", Path(sys.argv[1]) / "single" / "model.gguf")
    write_rows(Path(sys.argv[1]) / "data")
