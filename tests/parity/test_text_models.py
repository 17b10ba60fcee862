"""Published language models: transformers' logits, transformers' greedy text, and their folders back, byte by byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from typer.testing import CliRunner

import maquette
from maquette.cli import app
from maquette.contracts import Condition
from maquette.hub import language
from maquette.hub.weights import Unfit, Unsafe
from maquette.hub.written import onto
from maquette.networks.stepping import Stepping
from maquette.networks.transformer import Transformer
from maquette.runs import RunError
from maquette.samplers.autoregressive import Autoregressive
from maquette.storage import Damaged

transformers = pytest.importorskip("transformers", reason="the reference is transformers")
VOCAB = 300
SIZE = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 1,
}  # fmt: skip
MIXED = {"moe_intermediate_size": 16, "num_experts": 6, "num_experts_per_tok": 2}
LATENT = {
    "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 8, "n_group": 2, "topk_group": 1,
    "num_experts_per_tok": 2, "kv_lora_rank": 16, "q_lora_rank": 12, "qk_rope_head_dim": 4, "v_head_dim": 6,
    "qk_nope_head_dim": 8, "first_k_dense_replace": 1,
}  # fmt: skip
T5 = {
    "vocab_size": VOCAB, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "decoder_start_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 0,
}  # fmt: skip
BERT = {**SIZE, "type_vocab_size": 2, "bos_token_id": None, "eos_token_id": None}
GPT2 = {
    "vocab_size": VOCAB, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 96, "initializer_range": 0.3, "bos_token_id": 0,
    "eos_token_id": 0,
}  # fmt: skip
STRETCH = {"factor": 4.0, "original_max_position_embeddings": 24}
LLAMA3 = {**STRETCH, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHARP = {**STRETCH, "rope_type": "yarn", "mscale": 1.0, "mscale_all_dim": 0.8, "beta_fast": 32, "beta_slow": 1}

# what real checkpoints ask for -> (configuration, its class, what is set)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2),
    "gpt2, own head, wider, relu": ("GPT2", {**GPT2, "tie_word_embeddings": False, "n_inner": 40, "activation_function": "relu"}),
    "llama 2": ("Llama", {**SIZE, "num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama 2 stretched": ("Llama", {**SIZE, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama 3.2": ("Llama", {**SIZE, "tie_word_embeddings": True, "rope_theta": 5e5, "rope_scaling": LLAMA3, "head_dim": 16}),
    "llama with biases": ("Llama", {**SIZE, "attention_bias": True, "mlp_bias": True}),
    "mistral 0.1": ("Mistral", {**SIZE, "sliding_window": 8}),
    "mistral 0.3": ("Mistral", {**SIZE, "sliding_window": None, "rope_theta": 1e6, "head_dim": 12}),
    "qwen2": ("Qwen2", {**SIZE, "rope_theta": 1e6, "tie_word_embeddings": True}),
    "qwen2.5 stretched": ("Qwen2", {**SIZE, "rope_scaling": {**STRETCH, "rope_type": "yarn"}}),
    "qwen2 with windows": ("Qwen2", {**SIZE, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**SIZE, "head_dim": 16, "rope_theta": 1e6}),
    "qwen2-moe": ("Qwen2Moe", {**SIZE, **MIXED, "shared_expert_intermediate_size": 24}),
    "qwen2-moe, some dense": ("Qwen2Moe", {**SIZE, **MIXED, "shared_expert_intermediate_size": 24, "decoder_sparse_step": 2}),
    "qwen3-moe": ("Qwen3Moe", {**SIZE, **MIXED, "head_dim": 16, "norm_topk_prob": True, "mlp_only_layers": [1]}),
    "gemma 2": ("Gemma2", {**SIZE, "head_dim": 12, "sliding_window": 8, "query_pre_attn_scalar": 24}),
    "gemma 3": ("Gemma3Text", {**SIZE, "head_dim": 12, "sliding_window": 8, "query_pre_attn_scalar": 24,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}),
    "gemma 3, 4b": ("Gemma3Text", {**SIZE, "head_dim": 12, "sliding_window": 8, "sliding_window_pattern": 2,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "deepseek-v3": ("DeepseekV3", {**SIZE, **LATENT, "rope_scaling": SHARP}),
    "moonlight": ("DeepseekV3", {**SIZE, **LATENT, "q_lora_rank": None, "n_group": 1, "n_shared_experts": 2}),
    "deepseek, not interleaved": ("DeepseekV3", {**SIZE, **LATENT, "rope_interleave": False, "norm_topk_prob": False}),
    "t5": ("T5", T5),
    "t5 1.1": ("T5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "bert": ("Bert", BERT),
}  # fmt: skip
CAUSAL = [name for name, (kind, _) in CASES.items() if kind not in ("T5", "Bert")]
CLASSES = {
    "GPT2": "GPT2LMHeadModel",
    "T5": "T5ForConditionalGeneration",
    "Bert": "BertForMaskedLM",
    "Gemma3Text": "Gemma3ForCausalLM",
}
CORPUS = ["the quick brown fox jumps over the lazy dog. ", "a stitch in time saves nine; ", "many hands make light work! "] * 3


@pytest.fixture(autouse=True)
def quiet() -> Any:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def tokenizer(leads: bool = True, tail: bool = False, *more: str) -> Tokenizer:
    """Byte-level pairs with <s> and </s>, which it puts before and behind a text where it is told to, and more special ones."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = [AddedToken(name, special=True) for name in ("<s>", "</s>", *more)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    single = " ".join(["<s>"] * leads + ["$A"] + ["</s>"] * tail)
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    return made


def theirs(case: str) -> Any:
    """A tiny model of theirs, loud enough that every part of it shows."""
    kind, said = CASES[case]
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES.get(kind, f"{kind}ForCausalLM"))(getattr(transformers, f"{kind}Config")(**said)).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim == 1:  # norms, biases and the experts' balance are not as they begin
                tensor.add_(torch.randn(tensor.shape) * (0.02 if "correction" in name else 0.1))
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of such models, with a tokenizer."""
    made: dict[str, tuple[Any, Path]] = {}

    def of(case: str) -> tuple[Any, Path]:
        if case not in made:
            model, folder = theirs(case), tmp_path_factory.mktemp("models") / "model"
            model.save_pretrained(folder)
            kind = CASES[case][0]
            marks = {"bos_token": "<s>", "eos_token": "<s>" if kind == "GPT2" else "</s>", "pad_token": "</s>"}
            marks |= {"mask_token": "<mask>"} if kind == "Bert" else {}
            made_of = tokenizer(kind not in ("GPT2", "Qwen2", "T5"), kind in ("T5", "Bert"), *["<mask>"] * (kind == "Bert"))
            made_of.save(str(folder / "tokenizer.json"))
            (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **marks}))
            made[case] = model, folder
        return made[case]

    return of


def symbols(rows: int = 2, length: int = 40, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


# -- logits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_theirs(saved: Any, case: str) -> None:
    model, folder = saved(case)
    ours, x = language.network(folder), symbols()
    if isinstance(ours, torch.nn.ModuleDict):
        said, y = symbols(seed=2), symbols(length=20)
        said[1, 30:] = -1
        mask = said >= 0
        want = model(input_ids=said.clamp(min=0), attention_mask=mask.long(), decoder_input_ids=y).logits
        found = ours["decoder"](y, cond=Condition(tokens=ours["encoder"](said), mask=mask))
    else:
        want, found = model(x).logits, ours(x)
    assert want.std() > 0.5
    torch.testing.assert_close(found, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CAUSAL)
@torch.no_grad()
def test_decoding_step_by_step_is_theirs(saved: Any, case: str) -> None:
    model, folder = saved(case)
    ours, x = language.network(folder), symbols()
    assert isinstance(ours, Transformer)
    state = ours.begin(2, 40)
    found = torch.cat([ours(part, state=state) for part in x.split((17, 1, 1, 5, 1, 15), 1)], 1)
    torch.testing.assert_close(found, model(x).logits, rtol=0, atol=1e-4)


def test_kinds_of_symbols_are_berts(saved: Any) -> None:
    model, folder = saved("bert")
    x, kinds = symbols(), torch.arange(40).ge(15).long().expand(2, -1)
    x[1, 33:] = -1
    with torch.no_grad():
        want = model(x.clamp(min=0), token_type_ids=kinds, attention_mask=(x >= 0).long()).logits
        found = language.network(folder)(x, cond=Condition(field=kinds[:, None]))
    torch.testing.assert_close(found[x >= 0], want[x >= 0], rtol=0, atol=1e-4)


# -- text ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*CAUSAL, "t5", "t5 1.1"])
def test_greedy_text_is_theirs(saved: Any, case: str) -> None:
    """From a prompt, by their own tokenizer: what begins and ends a text is where they have it."""
    model, folder = saved(case)
    codec, prompt = transformers.AutoTokenizer.from_pretrained(folder), "many hands make"
    given = codec(prompt, return_tensors="pt")
    want = model.generate(**given, do_sample=False, max_new_tokens=12, use_cache=False)[0]
    found = maquette.load(folder, device="cpu")
    made = found.sample(1, prompt=prompt, sampler=Autoregressive(temperature=0, length=12))
    begun = 1 if CASES[case][0] == "T5" else int(given["input_ids"][0, 0] == 0)
    code = made["code"][0, : len(want) - begun]
    assert code.tolist() == want[begun:].tolist()
    assert made["text"][0] == codec.decode(want, skip_special_tokens=True)


def test_what_is_masked_is_filled_in_as_theirs_would(saved: Any) -> None:
    model, folder = saved("bert")
    codec = transformers.AutoTokenizer.from_pretrained(folder)
    given = codec("many <mask> make light work", return_tensors="pt")
    with torch.no_grad():
        scores = model(**given).logits[0]
    hidden = given["input_ids"][0] == codec.mask_token_id
    scores[:, codec.mask_token_id] = -torch.inf
    found = maquette.load(folder, device="cpu")
    made = found.sample(2, prompt="many <mask> make light work")
    want = torch.where(hidden, scores.argmax(-1), given["input_ids"][0])
    assert hidden.sum() == 1 and torch.equal(made["code"], want.expand(2, -1))
    assert made["text"] == [codec.decode(want, skip_special_tokens=True)] * 2


def test_the_shell_opens_shows_samples_and_exports_one(saved: Any, tmp_path: Path) -> None:
    _, folder = saved("llama 3.2")
    words = ["sample", str(folder), "--prompt", "a stitch", "-n", "2", "--set", "length=8", "--out", str(tmp_path / "x.json")]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0 and "a stitch" in (tmp_path / "x.json").read_text()
    told = json.loads(CliRunner().invoke(app, ["show", str(folder), "--json"], catch_exceptions=False).stdout)
    assert told["recipe"] == "LlamaForCausalLM" and told["context"] == 96
    done = CliRunner().invoke(app, ["export", str(folder), str(tmp_path / "out")], catch_exceptions=False)
    assert "transformers.LlamaForCausalLM.from_pretrained opens it" in done.stdout
    with pytest.raises(RunError, match=r"is a published model .*finetune_text --model"):
        _ = maquette.load(folder, device="cpu").trained


def test_texts_end_by_any_of_the_ends_that_files_name(saved: Any, tmp_path: Path) -> None:
    _, folder = saved("llama 2")
    shutil.copytree(folder, tmp_path / "model")
    free = maquette.load(folder, device="cpu").sample(1, prompt="a stitch", sampler=Autoregressive(temperature=0, length=24))[
        "code"
    ][0]
    begun = len(tokenizer(False).encode("a stitch").ids)
    second = int(free[begun + 6])
    first = (free[begun:] == second).nonzero()[0].item() + begun
    (tmp_path / "model" / language.GENERATION).write_text(json.dumps({"bos_token_id": 0, "eos_token_id": [1, second]}))
    found = maquette.load(tmp_path / "model", device="cpu")
    assert found.system.codec.ends == (1, second)
    ended = found.sample(1, prompt="a stitch", sampler=Autoregressive(temperature=0, length=24))
    assert ended["code"][0, : first + 1].tolist() == free[: first + 1].tolist() and (ended["code"][0, first + 1 :] == 0).all()
    assert ended["text"][0] == tokenizer(False).decode(free[:first].tolist())


def test_dials_are_as_the_files_say(saved: Any, tmp_path: Path) -> None:
    _, folder = saved("llama 2")
    shutil.copytree(folder, tmp_path / "model")
    said = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 9}
    (tmp_path / "model" / language.GENERATION).write_text(json.dumps(said))
    assert maquette.load(tmp_path / "model", device="cpu").system.sampler == Autoregressive(0.6, 50, 0.9, length=9)
    (tmp_path / "model" / language.GENERATION).write_text(json.dumps({"do_sample": False}))
    assert maquette.load(tmp_path / "model", device="cpu").system.sampler.temperature == 0
    assert maquette.load(folder, device="cpu").system.sampler == Autoregressive(length=96)


# -- folders, opened and written back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_back_is_byte_equal_and_opens_strictly(saved: Any, tmp_path: Path, case: str) -> None:
    model, folder = saved(case)
    name = maquette.export(folder, tmp_path / "out")
    assert name == type(model).__name__
    was, now = (load_file(each / "model.safetensors") for each in (folder, tmp_path / "out"))
    assert was.keys() == now.keys()
    assert all(torch.equal(was[key], now[key]) and was[key].dtype == now[key].dtype for key in was)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    again, told = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in again.state_dict().items())


@pytest.mark.parametrize("case", ["llama 3.2", "gpt2", "qwen3-moe"])
def test_half_precision_stays_what_it_is(saved: Any, tmp_path: Path, case: str) -> None:
    _, folder = saved(case)
    theirs(case).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    shutil.copyfile(folder / "tokenizer.json", tmp_path / "half" / "tokenizer.json")
    maquette.export(tmp_path / "half", tmp_path / "out")
    was, now = (load_file(tmp_path / each / "model.safetensors") for each in ("half", "out"))
    assert all(torch.equal(was[key], now[key]) and now[key].dtype == torch.bfloat16 for key in was)
    wide = language.network(tmp_path / "half", torch.float32)
    assert {tensor.dtype for tensor in wide.parameters()} == {torch.float32}


@pytest.mark.parametrize("case", ["llama 2", "deepseek-v3", "gpt2"])
def test_shards_and_their_index(saved: Any, tmp_path: Path, case: str) -> None:
    model, folder = saved(case)
    model.save_pretrained(tmp_path / "parts", max_shard_size="20kB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    with torch.no_grad():
        assert torch.equal(language.network(tmp_path / "parts")(symbols()), language.network(folder)(symbols()))


def test_older_files_names_are_read(saved: Any, tmp_path: Path) -> None:
    """GPT-2's own file leaves its outer name out and holds masks; BERT's calls its norms gamma and beta and holds more heads."""
    for case, changed in {
        "gpt2": lambda held: (
            {k.removeprefix("transformer."): v for k, v in held.items()} | {"h.0.attn.bias": torch.ones(1, 1, 8, 8)}
        ),
        "bert": lambda held: (
            {
                k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
                for k, v in held.items()
            }
            | {
                "bert.pooler.dense.weight": torch.ones(2),
                "cls.predictions.decoder.weight": held["bert.embeddings.word_embeddings.weight"].clone(),
            }
        ),
        "llama 3.2": lambda held: held | {"lm_head.weight": held["model.embed_tokens.weight"].clone()},
    }.items():
        _, folder = saved(case)
        shutil.copytree(folder, tmp_path / case)
        save_file(changed(load_file(folder / "model.safetensors")), tmp_path / case / "model.safetensors")
        with torch.no_grad():
            assert torch.equal(language.network(tmp_path / case)(symbols()), language.network(folder)(symbols()))


def test_a_t5_with_a_head_of_its_own(saved: Any, tmp_path: Path) -> None:
    """T5 1.1 as it was published: an untied matrix, and no scale before it."""
    _, folder = saved("t5 1.1")
    shutil.copytree(folder, tmp_path / "t5")
    said = json.loads((folder / "config.json").read_text())
    (tmp_path / "t5" / "config.json").write_text(json.dumps({**said, "tie_word_embeddings": False}))
    head = torch.randn(VOCAB, 32, generator=torch.Generator().manual_seed(0))
    save_file(
        {**load_file(folder / "model.safetensors"), "lm_head.weight": head},
        tmp_path / "t5" / "model.safetensors",
        {"format": "pt"},
    )
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "t5").eval()
    ours: Any = language.network(tmp_path / "t5")
    assert torch.equal(model.lm_head.weight, head)
    with torch.no_grad():
        want = model(input_ids=symbols(), decoder_input_ids=symbols(seed=2)).logits
        found = ours["decoder"](symbols(seed=2), cond=Condition(tokens=ours["encoder"](symbols())))
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-4)


# -- what does not fit, and what is refused ------------------------------------------------------------------------------


def changed(folder: Path, out: Path, **said: Any) -> Path:
    shutil.copytree(folder, out)
    (out / "config.json").write_text(json.dumps({**json.loads((folder / "config.json").read_text()), **said}))
    return out


@pytest.mark.parametrize(
    ("case", "said", "message"),
    [
        ("llama 2", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type .*'dynamic'.*Allowed: default, lin"),
        ("llama 2", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "'longrope'"),
        ("llama 2", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, "truncate of rope_type yarn is F"),
        ("llama 2", {"partial_rotary_factor": 0.5}, r"partial_rotary_factor is 0\.5"),
        ("llama 2", {"model_type": "phi3"}, "unknown model_type .*'phi3'.*Allowed: gpt2, llama"),
        ("llama 2", {"hidden_act": "mish"}, "unknown hidden_act .*'mish'"),
        ("llama 2", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config is .*fp8.*only None"),
        ("llama 2", {"architectures": ["LlamaForTokenClassification"]}, "LlamaForTokenCl.*Allowed: LlamaForCausalLM"),
        ("llama 2", {"hidden_size": None}, "does not say hidden_size, which LlamaForCausalLM needs"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("gemma 2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("qwen2", {"layer_types": ["linear_attention"] * 3, "use_sliding_window": True}, "layer_types .*'linear_attention'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("t5", {"feed_forward_proj": "gated-relu"}, "feed_forward_proj .*'gated-relu'"),
    ],
)  # fmt: skip
def test_what_is_not_built_is_refused_by_name_and_value(saved: Any, tmp_path: Path, case: str, said: Any, message: str) -> None:
    folder = changed(saved(case)[1], tmp_path / "model", **said)
    with pytest.raises(ValueError, match=message):
        maquette.load(folder, device="cpu")


def test_every_misfit_is_named(saved: Any, tmp_path: Path) -> None:
    _, folder = saved("llama 2")
    shutil.copytree(folder, tmp_path / "model")
    held = load_file(folder / "model.safetensors")
    held["model.layers.1.mlp.up_proj.wieght"] = held.pop("model.layers.1.mlp.up_proj.weight")
    held["model.layers.0.self_attn.k_proj.weight"] = torch.zeros(3, 32)
    save_file(held, tmp_path / "model" / "model.safetensors")
    with pytest.raises(Unfit) as caught:
        maquette.load(tmp_path / "model", device="cpu")
    assert "model.layers.1.mlp.up_proj.weight is missing from the files; nearest on the other side" in str(caught.value)
    assert "model.layers.1.mlp.up_proj.wieght is in the files alone" in str(caught.value)
    assert "model.layers.0.self_attn.k_proj.weight is [3, 32] in the files and [32, 32] in the module" in str(caught.value)


def test_no_code_is_run_and_no_pickle_opened(saved: Any, tmp_path: Path) -> None:
    _, folder = saved("llama 2")
    with pytest.raises(Unsafe, match="auto_map"):
        maquette.load(changed(folder, tmp_path / "code", auto_map={"AutoModel": "modeling.Mine"}), device="cpu")
    with pytest.raises(ValueError, match=r"config\.json has a size that makes no LlamaForCausalLM: .*-4"):
        maquette.load(changed(folder, tmp_path / "negative", hidden_size=-4), device="cpu")
    shutil.copytree(folder, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(Unsafe, match=r"pytorch_model\.bin.*pickle.*, 'model\.safetensors'"):
        maquette.load(tmp_path / "pickled", device="cpu")
    shutil.copytree(folder, tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(whole[:-9])
    with pytest.raises(Damaged, match=r"model\.safetensors is no whole"):
        maquette.load(tmp_path / "cut", device="cpu")


# -- runs of this house --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for i in range(40):
        (folder / f"{i}.txt").write_text(f"{i}: " + CORPUS[i % 3] * 6)
    return folder


@pytest.mark.parametrize(
    ("recipe", "options", "name"),
    [
        ("gpt", {"family": "llama"}, "LlamaForCausalLM"),
        ("gpt", {"family": "gpt2", "vocab": 0}, "GPT2LMHeadModel"),
        ("gpt", {"family": "gemma"}, "Gemma2ForCausalLM"),
        pytest.param("gpt", {"family": "llama", "tokenizer": "unigram"}, "LlamaForCausalLM", marks=pytest.mark.slow),
        pytest.param("gpt", {"family": "mistral"}, "MistralForCausalLM", marks=pytest.mark.slow),
        pytest.param("gpt", {"family": "qwen"}, "Qwen3ForCausalLM", marks=pytest.mark.slow),
        pytest.param("deepseek", {"experts": 4}, "DeepseekV3ForCausalLM", marks=pytest.mark.slow),
    ],
)
def test_a_run_opens_there_and_writes_the_same_text(corpus: Path, tmp_path: Path, recipe: str, options: Any, name: str) -> None:
    given = {"data": str(corpus), "depth": 2, "vocab": VOCAB, "context": 48, "batch": 8, "compile": False, **options}
    run = maquette.train(recipe, steps=3, out=tmp_path / "run", quiet=True, **given)
    assert maquette.export(tmp_path / "run", tmp_path / "out", to="hf") == name
    made, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(made).__name__ == name
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    codec = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    given = codec("a stitch in", return_tensors="pt")
    assert given["input_ids"][0].tolist() == [run.system.codec.bos, *run.system.codec.tokenize(["a stitch in"])[0]]
    want = made.generate(**given, do_sample=False, max_new_tokens=20)[0]
    again = maquette.load(tmp_path / "run", device="cpu")
    found = again.sample(1, prompt="a stitch in", sampler=Autoregressive(temperature=0, length=20))
    assert found["code"][0, : len(want) - 1].tolist() == want[1:].tolist()
    assert found["text"][0] == codec.decode(want, skip_special_tokens=True)
    there = maquette.load(tmp_path / "out", device="cpu")  # and what was written opens here again
    assert there.sample(1, prompt="a stitch in", sampler=Autoregressive(temperature=0, length=20))["text"] == found["text"]


def test_a_network_of_no_published_class_is_refused_with_what_to_use(corpus: Path, tmp_path: Path) -> None:
    given = {"data": str(corpus), "depth": 1, "vocab": VOCAB, "context": 48, "batch": 8, "compile": False}
    maquette.train("gpt", steps=1, out=tmp_path / "run", quiet=True, **given)
    with pytest.raises(ValueError, match=r"no class that computes .* smear is .*`maquette train gpt --family llama`"):
        maquette.export(tmp_path / "run", tmp_path / "out", to="hf")
    with pytest.raises(ValueError, match=r"unknown family of gpt 'lama'. Did you mean 'llama'"):
        maquette.train("gpt", steps=1, family="lama", out=tmp_path / "other", quiet=True, **given)


# -- trained on ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize(
    "case", ["llama 2", "deepseek-v3", *(pytest.param(each, marks=pytest.mark.slow) for each in ("gpt2", "gemma 3"))]
)
def test_an_adapter_is_pefts(saved: Any, corpus: Path, tmp_path: Path, case: str) -> None:
    """What was learnt here, loaded by peft onto their model, gives our logits."""
    peft = pytest.importorskip("peft")
    model, folder = saved(case)
    given = {"model": str(folder), "data": str(corpus), "context": 32, "rank": 3, "alpha": 6.0, "batch": 4, "lr": 0.01}
    run = maquette.train("maquette.hub.finetune:finetune_text", steps=3, out=tmp_path / "run", quiet=True, **given)
    assert maquette.export(tmp_path / "run", tmp_path / "out") == "PeftModel.from_pretrained"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    again = type(model).from_pretrained(folder).eval()
    adapted = peft.PeftModel.from_pretrained(again, tmp_path / "out").eval()
    with torch.no_grad():
        before, want = model(symbols()).logits, adapted(symbols()).logits
        found = maquette.load(tmp_path / "run", device="cpu").system.steady("main")(symbols())
    assert (want - before).abs().max() > 0.02
    assert (found - want).abs().max() < 1e-5 * want.abs().max()
    kept = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {key.replace(".default", "") for key in adapted.state_dict() if "lora_" in key} == set(kept)
    assert run.system.steady("main").names


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize(("bits", "case"), [(0, "gpt2"), (8, "qwen3")])
def test_sizes_are_pefts_and_come_back_onto_their_base_alone(saved: Any, tmp_path: Path, bits: int, case: str) -> None:
    """What sft learnt, on matrices of so many bits: peft's logits, and ours when a base is changed by the file."""
    peft = pytest.importorskip("peft")
    model, folder = saved(case)
    rows = [{"prompt": f"a stitch in {i}", "completion": "time saves nine"} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {"run": str(folder), "data": str(tmp_path / "rows.jsonl"), "rank": 3, "alpha": 6.0, "batch": 4, "lr": 0.01}
    run = maquette.train("sft", dora=True, bits=bits, steps=3, out=tmp_path / "run", quiet=True, **given)
    maquette.export(tmp_path / "run", tmp_path / "out")
    adapted = peft.PeftModel.from_pretrained(type(model).from_pretrained(folder).eval(), tmp_path / "out").eval()
    net = language.network(folder, torch.float32)
    assert onto(net, folder, tmp_path / "out") == (4 if bits else 2) * SIZE["num_hidden_layers"]
    with torch.no_grad():
        before, want, found = model(symbols()).logits, adapted(symbols()).logits, net(symbols())
        learnt = run.system.steady("main")(symbols()).float()
    assert (want - before).abs().max() > 0.02 and (found - want).abs().max() < 2e-5 * want.abs().max()
    if not bits:
        assert (learnt - want).abs().max() < 2e-5 * want.abs().max()
    for place, exact in ((folder, before), (tmp_path / "run", want)):  # in few bits, published and tuned
        few = maquette.load(place, bits=8, device="cpu").system.steady("main")
        assert isinstance(few, Stepping)
        assert (few(symbols()).float() - exact).norm() < 0.1 * exact.norm()
    other = saved("llama 2")[1]
    with pytest.raises(Unfit, match=rf"is an adapter for {folder}, and not for {other}"):
        onto(language.network(other, torch.float32), other, tmp_path / "out")


def asked(folder: Path, name: str, keys: tuple[str, ...], count: int = 30) -> str:
    """A file of rows, each key with a text of its own."""
    rows = [{key: f"a stitch in {key} {i}" for key in keys} for i in range(count)]
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return str(folder / name)


def test_a_run_that_learnt_to_answer_converses_there_as_here(corpus: Path, tmp_path: Path) -> None:
    """Its adapter is merged; the symbols of turns and how they are written go with it, and what ends an answer."""
    given = {"data": str(corpus), "family": "llama", "depth": 1, "vocab": 400, "context": 48, "batch": 8, "compile": False}
    maquette.train("gpt", steps=1, out=tmp_path / "gpt", quiet=True, **given)
    rows = asked(tmp_path, "rows.jsonl", ("prompt", "completion"))
    maquette.train(
        "sft", run=str(tmp_path / "gpt"), data=rows, rank=2, steps=2, batch=4, lr=0.05, out=tmp_path / "run", quiet=True
    )
    assert maquette.export(tmp_path / "run", tmp_path / "out") == "LlamaForCausalLM"
    made = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    told = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    found, talk = maquette.load(tmp_path / "run", device="cpu"), [{"role": role, "content": role} for role in ("system", "user")]
    codec, start = found.system.codec, told.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
    assert start == [codec.bos, *codec.converse([talk])[0]] and made.generation_config.eos_token_id == list(codec.ends)
    with torch.no_grad():
        want = found.system.steady("main")(torch.tensor([start]))
        torch.testing.assert_close(made(torch.tensor([start])).logits, want, rtol=0, atol=1e-5)
    greedy = Autoregressive(temperature=0, length=8)
    there = maquette.load(tmp_path / "out", device="cpu")
    assert there.sample(1, chat=talk, sampler=greedy)["text"] == found.sample(1, chat=talk, sampler=greedy)["text"]


def test_what_stands_on_more_than_a_published_model_is_written_whole(saved: Any, tmp_path: Path) -> None:
    """Two adapters on each other, an adapter on a changed base, and a student of another depth: none is the folder's."""
    folder = saved("llama 2")[1]
    rows, pairs = (asked(tmp_path, f"{len(keys)}.jsonl", ("prompt", *keys)) for keys in (("completion",), ("chosen", "rejected")))
    quick = {"steps": 2, "batch": 4, "lr": 0.01, "quiet": True}
    maquette.train("sft", run=str(folder), data=rows, rank=2, out=tmp_path / "sft", **quick)
    maquette.export(tmp_path / "sft", tmp_path / "adapter")
    maquette.train("sft", run=str(folder), adapter=str(tmp_path / "adapter"), data=rows, rank=2, out=tmp_path / "again", **quick)
    maquette.train("dpo", run=str(tmp_path / "sft"), data=pairs, rank=2, out=tmp_path / "dpo", **quick)
    student = {"on": "logits", "depth": 2, "family": "llama", "data": rows, "compile": False}
    maquette.train("student", run=str(folder), out=tmp_path / "student", **student, **quick)
    for name in ("again", "dpo", "student"):
        assert maquette.export(tmp_path / name, tmp_path / f"{name}-out") == "LlamaForCausalLM"
        made, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / f"{name}-out", output_loading_info=True)
        assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
        with torch.no_grad():
            want = maquette.load(tmp_path / name, device="cpu").system.steady("main")(symbols())
            torch.testing.assert_close(made.eval()(symbols()).logits, want, rtol=1e-4, atol=1e-4)
        assert (tmp_path / f"{name}-out" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_all_weights_learn_and_go_back_to_their_folder(saved: Any, corpus: Path, tmp_path: Path) -> None:
    model, folder = saved("qwen3")
    given = {"model": str(folder), "data": str(corpus), "context": 32, "rank": 0, "batch": 4, "lr": 0.01}
    run = maquette.train("maquette.hub.finetune:finetune_text", steps=12, out=tmp_path / "run", quiet=True, **given)
    losses = [row["predict"] for row in run.run.rows() if "predict" in row]
    assert maquette.export(tmp_path / "run", tmp_path / "out") == "Qwen3ForCausalLM"
    again = type(model).from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        found, want = maquette.load(tmp_path / "run", device="cpu").system.steady("main")(symbols()), again(symbols()).logits
    torch.testing.assert_close(found, want, rtol=0, atol=1e-4)
    assert (want - model(symbols()).logits).abs().max() > 0.1, losses
    documents = run.data.splits["train"]
    assert documents.tokens[0] == 0 and 1 in documents.tokens.tolist()  # each begins with <s> and ends with </s>


def test_what_is_no_causal_model_is_not_trained_on(saved: Any, corpus: Path, tmp_path: Path) -> None:
    for case in ("t5", "bert"):
        with pytest.raises(ValueError, match="is no causal model"):
            maquette.train(
                "maquette.hub.finetune:finetune_text",
                model=str(saved(case)[1]),
                data=str(corpus),
                steps=1,
                quiet=True,
                out=tmp_path / case,
            )
