"""The losses of fine-tuning and of preferences are trl's, of the same tiny model and rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from maquette.data import open_data
from maquette.data.comparisons import Comparisons
from maquette.data.conversations import Conversations
from maquette.hub import language
from maquette.nn.entropy import each_divergence
from maquette.objectives.likelihood import NextToken
from maquette.objectives.preference import Preference
from maquette.objectives.reinforce import advantages, grpo
from maquette.streams import Streams
from maquette.system import System

transformers = pytest.importorskip("transformers", reason="the reference is trl over transformers")
datasets = pytest.importorskip("datasets", reason="trl wants datasets, which is not installed")
trl = pytest.importorskip("trl", reason="trl is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of theirs

# nothing stands behind an answer, for trl takes what does for a part of it
TEMPLATE = """{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}{% if message.role == 'assistant' %}
{%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{% else %}
{{- message.content + '<|im_end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
PAIRS = [
    ("Write lamp backwards.", "pmal", "lamp, I think"),
    ("What is 7 + 5?", "12", "It is thirteen"),
    ("Say nothing.", "...", "no"),
    ("Which day is next?", "Tuesday, then", "Mo"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen 3 with a chat template, loud enough that every part of it shows."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("qwen") / "model"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({one: i for i, one in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    config = transformers.Qwen3Config(
        vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, max_position_embeddings=256, initializer_range=0.3, bos_token_id=256, eos_token_id=258, pad_token_id=256,
        dtype="float32",
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(config).save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    marks = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **marks}))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


def rows(path: Path, made: list[dict[str, Any]]) -> Any:
    """All rows, in the order that data have them, and the same as trl wants them."""
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    split = open_data(str(path)).splits
    held = split["held"].columns
    return type(split["train"])({name: [*column, *held[name]] for name, column in split["train"].columns.items()})


def settings(kind: str, out: Path, **more: Any) -> Any:
    usual = {"output_dir": str(out), "use_cpu": True, "report_to": [], "per_device_train_batch_size": len(PAIRS), "bf16": False}
    return getattr(trl, kind)(**{**usual, **more})


def theirs(trainer: Any) -> float:
    """The loss of the first batch of all rows."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch))


def system_of(folder: Path, objective: Any, moved: bool) -> System:
    system = language.read(folder, torch.float32).system
    nets = {"main": system.nets["main"]}
    if moved:
        nets["reference"] = language.read(folder, torch.float32).system.nets["main"]
        with torch.no_grad():
            shift(nets["main"].named_parameters())
    return System(nets, objective(system.codec.bos), None, system.codec, frozen=("reference",) if moved else ()).eval()


def shift(parameters: Any) -> None:
    """Move what is normalised last, of one name in both libraries, as training would."""
    last = [p for name, p in parameters if name in ("norm.weight", "model.norm.weight")]
    assert len(last) == 1
    last[0] += torch.linspace(-0.3, 0.3, last[0].numel())


@pytest.mark.parametrize("packed", [True, False])
def test_the_loss_of_fine_tuning(folder: Path, tmp_path: Path, packed: bool) -> None:
    talks = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a, _ in PAIRS]
    talks[1] += [{"role": "user", "content": "And twice that?"}, {"role": "assistant", "content": "24"}]
    told = datasets.Dataset.from_list([{"messages": each} for each in talks])
    args = settings("SFTConfig", tmp_path / "out", assistant_only_loss=True, max_length=256)
    want = theirs(trl.SFTTrainer(model=str(folder), args=args, train_dataset=told))
    system = system_of(folder, NextToken, moved=False)
    split = rows(tmp_path / "rows.jsonl", [{"messages": each} for each in talks])
    mine = Conversations(split, system.codec, 256, packed)
    assert len(mine) < len(talks) if packed else len(mine) == len(talks)
    with torch.no_grad():
        found, _ = system.objective.predict(system, mine.all(), Streams.of(0, len(mine)), 0)
    assert abs(float(found) - want) < 1e-4 * want


@pytest.mark.parametrize(("loss", "name"), [("dpo", "sigmoid"), ("ipo", "ipo"), ("kto", "kto")])
def test_the_losses_of_preferences(folder: Path, tmp_path: Path, loss: str, name: str) -> None:
    made = [{"prompt": q, "chosen": a, "rejected": b} for q, a, b in PAIRS]
    split = rows(tmp_path / "rows.jsonl", made)
    names = {"prompt": ("source", "user"), "chosen": ("text", "assistant"), "rejected": ("rejected", "assistant")}
    turned = [
        {key: [{"role": role, "content": split.columns[name][i]}] for key, (name, role) in names.items()}
        for i in range(len(PAIRS))
    ]
    told = datasets.Dataset.from_list(turned)
    kind = "KTO" if loss == "kto" else "DPO"
    size = {"per_device_train_batch_size": 2 * len(PAIRS)} if loss == "kto" else {}
    args = settings(f"{kind}Config", tmp_path / "out", **size, loss_type=name if loss == "kto" else [name], beta=0.1)
    model, tokenizer = (make.from_pretrained(folder) for make in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer))
    with torch.no_grad():
        shift(model.named_parameters())
    before = transformers.AutoModelForCausalLM.from_pretrained(folder)
    trainer = getattr(trl, f"{kind}Trainer")(
        model=model, ref_model=before, args=args, train_dataset=told, processing_class=tokenizer
    )
    trainer._get_train_sampler = lambda *_: None  # in order: which answer stands beside which matters to one of them
    want = theirs(trainer)
    system = system_of(folder, lambda bos: Preference(bos, loss, 0.1), moved=True)
    with torch.no_grad():
        found, logs = system.objective.prefer(system, Comparisons(split, system.codec, 256).all(), Streams.of(0, 4), 0)
    assert float(logs["better"].abs()) > 0.01
    assert abs(float(found) - want) < 1e-4 * max(1.0, want)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_the_loss_of_answers_in_groups(folder: Path, tmp_path: Path, beta: float) -> None:
    """Answers of unlike lengths to two questions, drawn by a model that has moved since: clipped where it moved too far."""
    rng = torch.Generator().manual_seed(1)
    asked, said = torch.randint(0, 256, (8, 5), generator=rng), torch.randint(0, 256, (8, 7), generator=rng)
    lengths = torch.tensor([7, 3, 5, 1, 7, 2, 6, 4])
    worth = torch.tensor([[1.0, 0, 0, 0.5], [0, 1, 1, 0]])
    model, before = (transformers.AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
    size = {"num_generations": 4, "per_device_train_batch_size": 8}
    args = settings("GRPOConfig", tmp_path / "out", loss_type="grpo", beta=beta, use_bias_correction_kl=False, **size)
    told = datasets.Dataset.from_list([{"prompt": "x"}] * 8)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    trainer = trl.GRPOTrainer(
        model=model, reward_funcs=lambda completions, **_: [0.0], args=args, train_dataset=told, processing_class=tokenizer
    )
    with torch.no_grad():
        shift(model.named_parameters())
        whole = torch.cat([asked, said], 1)
        far = before(whole).logits.log_softmax(-1)[:, 4:-1].gather(2, said[..., None])[..., 0]
    mask = torch.arange(7) < lengths[:, None]
    better = advantages(worth).flatten()
    inputs = {
        "prompt_ids": asked,
        "prompt_mask": torch.ones_like(asked),
        "completion_ids": said,
        "completion_mask": mask.long(),
        "advantages": better,
        "old_per_token_logps": far,
        "ref_per_token_logps": far,
        "num_items_in_batch": mask.sum(),
    }
    model.eval()
    with torch.no_grad():
        want = float(trainer._compute_loss(model, inputs))
    system = language.read(folder, torch.float32).system
    net = system.nets["main"].eval()
    with torch.no_grad():
        shift(net.named_parameters())
        logp = net(whole).log_softmax(-1)[:, 4:-1].gather(2, said[..., None])[..., 0]
        found = float(grpo(logp, far, better, mask, far=far if beta else None, beta=beta))
    assert float((logp - far).abs()[mask].max()) > 0.25  # some are beyond what is clipped
    assert abs(found - want) < 1e-4 * max(1.0, abs(want))


@pytest.mark.parametrize(("beta", "heat"), [(0.0, 1.0), (0.0, 2.0), (0.5, 1.0), (0.3, 0.9), (1.0, 2.0)])
def test_the_divergence_of_a_student(beta: float, heat: float) -> None:
    """Theirs leaves out Hinton's square of the temperature."""
    gkd = pytest.importorskip("trl.experimental.gkd", reason="this trl has no GKDTrainer there")
    rng = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 7, 50, generator=rng).mul(2) for _ in range(2))
    student.requires_grad_()
    labels = torch.where(torch.rand(3, 7, generator=rng) < 0.4, -100, 1)
    want = gkd.GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta, heat) * heat**2
    found = (each_divergence(student, teacher, beta, heat) * (labels != -100)).sum() / (labels != -100).sum()
    assert abs(found.item() - want.item()) < 1e-5 * max(1.0, want.item())
    slopes = [torch.autograd.grad(loss, student)[0] for loss in (found, want)]
    torch.testing.assert_close(*slopes, atol=1e-6, rtol=1e-4)
