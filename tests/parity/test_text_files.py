"""Runs as files that other programs run: GGUF by llama.cpp where it is there, ONNX by onnxruntime."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import maquette
from maquette.networks import presets
from maquette.networks.transformer import Transformer
from maquette.samplers.autoregressive import Autoregressive

LLAMA_CPP = importlib.util.find_spec("llama_cpp") is not None
PROMPT = "a stitch in"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs of a few steps on a few sentences."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "texts").mkdir()
    for i in range(20):
        (folder / "texts" / f"{i}.txt").write_text(
            f"{i}: the quick brown fox jumps over the lazy dog; a stitch in time saves nine. " * 4
        )
    made: dict[tuple[str, int], Any] = {}

    def of(family: str, vocab: int = 300) -> Any:
        if (family, vocab) not in made:
            given = {"data": str(folder / "texts"), "family": family, "depth": 3, "vocab": vocab, "context": 48, "batch": 8}
            out = folder / f"{family}{vocab}"
            maquette.train("gpt", steps=10, out=out, quiet=True, compile=False, **given)
            made[family, vocab] = maquette.load(out, device="cpu")
        return made[family, vocab]

    return of


@pytest.mark.parametrize(("family", "vocab"), [("llama", 300), ("llama", 0), ("qwen", 300)])
def test_gguf_holds_what_the_run_has(runs: Any, tmp_path: Path, family: str, vocab: int) -> None:
    gguf = pytest.importorskip("gguf")
    found, out = runs(family, vocab), tmp_path / "run.gguf"
    assert maquette.export(found.run.path, out, to="gguf") == "llama.cpp"
    net, codec = found.system.steady("main"), found.system.codec
    file = gguf.GGUFReader(out)
    held = {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in file.tensors}
    heads, groups, size = (getattr(net.blocks[1].attention, name) for name in ("heads", "groups", "size"))
    q, k, v = net.blocks[1].attention.qkv.weight.split([heads * size, groups * size, groups * size])
    if family == "llama":  # channel i turns with i + C/2 here, 2 i with 2 i + 1 there
        q, k = (each.view(-1, 2, size // 2, each.shape[1]).transpose(1, 2).reshape(each.shape) for each in (q, k))
    for name, want in (("q", q), ("k", k), ("v", v)):
        assert torch.equal(held[f"blk.1.attn_{name}.weight"], want)
    assert torch.equal(held["token_embd.weight"], net.embed.weight) and ("output.weight" in held) == (net.head is not None)
    assert sum(tensor.numel() for tensor in held.values()) == sum(p.numel() for p in net.parameters())
    tokens = file.fields["tokenizer.ggml.tokens"]
    assert len(tokens.data) == codec.vocab
    assert file.fields["tokenizer.ggml.bos_token_id"].parts[-1][0] == codec.bos


def test_gguf_of_an_adapter_is_merged_and_names_its_turns(runs: Any, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    rows = "".join(json.dumps({"prompt": f"{i} is", "completion": f"{i}"}) + "\n" for i in range(30))
    (tmp_path / "rows.jsonl").write_text(rows)
    given = {"run": str(runs("llama").run.path), "data": str(tmp_path / "rows.jsonl"), "rank": 2, "steps": 1, "batch": 4}
    codec = maquette.train("sft", out=tmp_path / "run", quiet=True, **given).system.codec
    maquette.export(tmp_path / "run", tmp_path / "run.gguf", to="gguf")
    file = gguf.GGUFReader(tmp_path / "run.gguf")
    tokens = file.fields["tokenizer.ggml.tokens"]
    names = [bytes(tokens.parts[i]).decode() for i in tokens.data]
    assert [names.index(name) for name in codec.special] == list(codec.special.values()) and len(names) == codec.vocab
    assert file.fields["tokenizer.ggml.eot_token_id"].parts[-1][0] == codec.ends[-1]
    assert "tokenizer.chat_template" in file.fields


@pytest.mark.skipif(not LLAMA_CPP, reason="llama-cpp-python is not installed: nothing here runs GGUF")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "vocab"), [("llama", 300), ("llama", 0), ("qwen", 300)])
def test_llama_cpp_writes_the_same_text(runs: Any, tmp_path: Path, family: str, vocab: int) -> None:
    import llama_cpp

    found, out = runs(family, vocab), tmp_path / "run.gguf"
    maquette.export(found.run.path, out, to="gguf")
    made = found.sample(1, prompt=PROMPT, sampler=Autoregressive(temperature=0, length=24))
    codec, model = found.system.codec, llama_cpp.Llama(str(out), n_ctx=48, n_threads=1, verbose=False, logits_all=True)
    given = [codec.bos, *codec.tokenize([PROMPT])[0]]
    assert model.tokenize(PROMPT.encode(), add_bos=True) == given
    written = list(given)
    for symbol in model.generate(given, top_k=1, temp=0.0, repeat_penalty=1.0):
        written.append(symbol)
        if symbol == codec.bos or len(written) == len(given) + 24:
            break
    assert written[1:] == made["code"][0, : len(written) - 1].tolist()
    model.reset()
    model.eval(given)
    scores = model.scores[: len(given)].copy()
    model.close()
    with torch.no_grad():
        want = found.system.steady("main")(torch.tensor([given]))[0].numpy()
    assert np.abs(scores - want).max() < 5e-3  # its keys and values are float16


@pytest.mark.slow
def test_what_gguf_has_no_name_for_is_refused(runs: Any, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    for family, said in (
        ("gpt2", "architecture to write .* 'gpt2'"),
        ("mistral", "sliding_window is 12"),
        ("small", "no class"),
    ):
        with pytest.raises(ValueError, match=said):
            maquette.export(runs(family).run.path, tmp_path / "run.gguf", to="gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("style", [presets.llama(2, 64), presets.small()], ids=["llama", "small"])
def test_a_graph_is_of_any_batch_and_length(style: Any) -> None:
    net = Transformer(50, 16, 1, 2, style=style).eval()
    sizes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("length", min=2, max=48)}
    graph = torch.export.export(net, (torch.zeros(2, 8, dtype=torch.int64),), dynamic_shapes=(sizes,)).module()
    for shape in ((1, 2), (3, 48)):
        x = torch.randint(50, shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(graph(x), net(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "gemma", "small"])
def test_onnx_computes_the_same(runs: Any, tmp_path: Path, family: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found, out = runs(family), tmp_path / "run.onnx"
    assert maquette.export(found.run.path, out, to="onnx") == "onnxruntime"
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    for shape in ((2, 8), (1, 2), (3, 48)):
        x = torch.randint(300, shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            want = found.system.steady("main")(x).numpy()
        assert np.abs(session.run(None, {"symbols": x.numpy()})[0] - want).max() < 1e-4


def test_onnx_has_no_graph_of_experts(tmp_path: Path, runs: Any) -> None:
    texts = json.loads((runs("small").run.path / "run.json").read_text())["arguments"]["data"]
    given = {"data": texts, "depth": 2, "vocab": 300, "context": 32, "batch": 4, "compile": False}
    maquette.train("deepseek", steps=1, out=tmp_path / "run", quiet=True, **given)
    with pytest.raises(ValueError, match="experts are not written as ONNX"):
        maquette.export(tmp_path / "run", tmp_path / "run.onnx", to="onnx")
