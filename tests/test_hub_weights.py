"""Weights as the hub lays them out: found, mapped, named where they do not fit, refused where they are not safe, written back."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from maquette.hub import weights
from maquette.hub.weights import Unfit, Unsafe, fill, find, hollow, save
from maquette.storage import Damaged


class Net(nn.Module):
    """Two layers, one tied to an embedding, a buffer that is in the state and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.block = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("waves", torch.arange(4).float().exp(), persistent=False)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.embed(index)) + self.waves)


CONFIG = {"width": 4}
INDEX = torch.tensor([0, 3, 5])


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def folder(net: Net, tmp_path: Path) -> Path:
    save(net, tmp_path / "net", CONFIG, "Net")
    return tmp_path / "net"


def opened(folder: Path, **told: Any) -> Net:
    with hollow():
        found = Net()
    fill(found, folder, **told)
    return found.eval()


def rewrite(folder: Path, **changed: torch.Tensor | None) -> None:
    """The folder's one file with tensors changed, added or, where None, taken out; "__" stands for a dot."""
    (path,) = folder.glob("*.safetensors")
    state = load_file(path) | {name.replace("__", "."): tensor for name, tensor in changed.items()}
    path.unlink()
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, path)


def test_what_is_built_hollow_and_filled_is_what_was_saved(net: Net, folder: Path) -> None:
    with hollow():
        bare = Net()
    assert all(parameter.is_meta for parameter in bare.parameters()) and not bare.waves.is_meta
    assert bare.head.weight is bare.embed.weight
    assert not nn.Linear(2, 2).weight.is_meta  # outside, as ever
    found = opened(folder)
    assert torch.equal(found(INDEX), net(INDEX)) and found.head.weight is found.embed.weight
    assert found.embed.weight.requires_grad and len(list(found.parameters())) == len(list(net.parameters()))
    found(INDEX).sum().backward()  # a mapping can be trained: what is written is this process's own
    with torch.no_grad():
        found.embed.weight.add_(1)
    assert torch.equal(opened(folder)(INDEX), net(INDEX))


def test_a_module_with_weights_of_its_own_is_filled_as_well(net: Net, folder: Path) -> None:
    other = Net().eval()
    assert not torch.equal(other(INDEX), net(INDEX))
    fill(other, folder)
    assert torch.equal(other(INDEX), net(INDEX)) and other.head.weight is other.embed.weight


def test_buffers_without_data_are_named(folder: Path) -> None:
    with torch.device("meta"):
        bare = Net()
    with pytest.raises(Unfit, match=r"buffers waves are in no file.*hollow"):
        fill(bare, folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_leaves_whole_numbers_alone(folder: Path, net: Net, dtype: torch.dtype) -> None:
    state = opened(folder, dtype=dtype).state_dict()
    for name, tensor in net.state_dict().items():
        assert state[name].dtype == (dtype if tensor.is_floating_point() else torch.int64)
        assert torch.equal(state[name], tensor.to(state[name].dtype))


def test_a_cast_lets_the_mapping_go_and_misses_nothing(folder: Path, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_TOUCHED", 1)
    state = opened(folder, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(state[name], tensor.to(state[name].dtype)) for name, tensor in net.state_dict().items())


def test_shards_and_their_index(net: Net, tmp_path: Path) -> None:
    save(net, tmp_path / "net", CONFIG, "Net", shard=200)
    names = sorted(path.name for path in (tmp_path / "net").iterdir())
    assert names[0] == "config.json" and "diffusion_pytorch_model.safetensors.index.json" in names
    assert "diffusion_pytorch_model-00001-of-00004.safetensors" in names, names
    index = json.loads((tmp_path / "net" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for n, t in net.state_dict().items() if n != "head.weight")
    assert torch.equal(opened(tmp_path / "net")(INDEX), net(INDEX))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("diffusion_pytorch_model.safetensors", {}),
        ("model.safetensors", {}),
        ("model.safetensors", {"stem": "model"}),
        ("diffusion_pytorch_model.fp16.safetensors", {}),
        ("model.fp16.safetensors", {"variant": "fp16"}),
        ("model.non_ema.safetensors", {}),
        ("text.safetensors", {"stem": "text"}),
    ],
)
def test_files_are_found_under_the_names_they_have(net: Net, folder: Path, name: str, told: dict[str, str]) -> None:
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / name)
    assert torch.equal(opened(folder, **told)(INDEX), net(INDEX))


@pytest.mark.parametrize("index", ["model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json"])
def test_a_variant_may_be_sharded(net: Net, tmp_path: Path, index: str) -> None:
    folder = tmp_path / "net"
    save(net, folder, {"model_type": "net"}, "Net", shard=200)
    (folder / "model.safetensors.index.json").rename(folder / index)
    assert torch.equal(opened(folder)(INDEX), net(INDEX))
    assert torch.equal(opened(folder, variant="fp16")(INDEX), net(INDEX))


def test_the_plain_file_comes_before_a_variant(net: Net, folder: Path) -> None:
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file({n: t + 1 for n, t in load_file(file).items()}, folder / "diffusion_pytorch_model.fp16.safetensors")
    assert torch.equal(opened(folder)(INDEX), net(INDEX))
    assert torch.equal(opened(folder, variant="fp16").embed.weight, net.embed.weight + 1)


# -- what does not fit ---------------------------------------------------------------------------------------------------


def test_every_misfit_is_named_in_one_error_with_its_nearest(folder: Path) -> None:
    rewrite(folder, block__0__weight=None, block__0__wieght=torch.zeros(8, 4), block__2__bias=torch.zeros(5), other=torch.ones(1))
    with pytest.raises(Unfit) as caught:
        opened(folder)
    said = str(caught.value)
    assert "block.0.weight is missing from the files; nearest on the other side: block.0.wieght" in said
    assert "block.0.wieght is in the files alone; nearest on the other side: block.0.weight" in said
    assert "other is in the files alone" in said
    assert "block.2.bias is [5] in the files and [4] in the module" in said


def test_a_hundred_misfits_are_counted(folder: Path) -> None:
    rewrite(folder, **{f"more__{i}": torch.zeros(1) for i in range(100)})
    with pytest.raises(Unfit, match="and 80 more in the files alone"):
        opened(folder)


def test_a_misfit_changes_nothing(folder: Path) -> None:
    other = Net()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    rewrite(folder, block__0__weight=None)
    with pytest.raises(Unfit):
        fill(other, folder)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_harmless_extras_are_allowed_by_name(net: Net, folder: Path) -> None:
    rewrite(folder, embed__position_ids=torch.arange(3))
    with pytest.raises(Unfit, match=r"embed\.position_ids is in the files alone"):
        opened(folder)
    assert torch.equal(opened(folder, harmless=("*.position_ids",))(INDEX), net(INDEX))


def test_either_name_of_a_tied_tensor_serves(net: Net, folder: Path) -> None:
    rewrite(folder, embed__weight=None, head__weight=net.embed.weight.detach().clone())
    found = opened(folder)
    assert torch.equal(found(INDEX), net(INDEX)) and found.head.weight is found.embed.weight
    rewrite(folder, head__weight=None)
    with pytest.raises(Unfit, match=r"embed\.weight is missing[\s\S]*head\.weight is missing"):
        opened(folder)


# -- what is not safe or not whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "diffusion_pytorch_model.bin", "v1-5.ckpt", "weights.pt", "model.pth"])
def test_a_pickle_is_refused_with_how_to_convert_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04never read")
    with pytest.raises(Unsafe, match=f"{name}.*save_file.*weights_only=True"):
        find(tmp_path)


def test_a_folder_without_weights_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"diffusion_pytorch_model\.safetensors or model\.safetensors, or is no folder"):
        find(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"no unet\.fp16\.safetensors; it has notes\.txt"):
        find(tmp_path, "unet", "fp16")


def _header(length: int | None = None, **entry: Any) -> bytes:
    said = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **entry}}
    raw = json.dumps(said).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw


LIES = {
    "empty": b"",
    "cut in its length": b"\x01\x02",
    "cut in its header": _header()[:20],
    "cut in its data": _header() + bytes(15),
    "longer than it says": _header() + bytes(24),
    "header beyond the file": _header(1 << 40) + bytes(16),
    "header longer than the file": _header(1 << 12) + bytes(16),
    "shape beyond its bytes": _header(shape=[2, 3]) + bytes(16),
    "offsets beyond the file": _header(data_offsets=[0, 1 << 30]) + bytes(16),
    "offsets backwards": _header(data_offsets=[16, 0]) + bytes(16),
    "unknown type": _header(dtype="P64") + bytes(16),
    "not JSON": struct.pack("<Q", 8) + b"notjson!" + bytes(16),
    "a pickle by another name": b"\x80\x04\x95" + bytes(64),
}


@pytest.mark.parametrize("lie", LIES)
def test_files_that_are_cut_or_lie_are_refused_by_name(tmp_path: Path, lie: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(LIES[lie])
    with pytest.raises(Damaged, match=r"model\.safetensors is no whole safetensors file"):
        fill(nn.Linear(2, 2), tmp_path)


def test_every_truncation_of_a_real_file_is_refused(folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    data = path.read_bytes()
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        with pytest.raises(Damaged, match="diffusion_pytorch_model"):
            find(folder)


@pytest.fixture
def sharded(net: Net, tmp_path: Path) -> Path:
    save(net, tmp_path / "net", {"model_type": "net"}, "Net", shard=200)
    return tmp_path / "net" / "model.safetensors.index.json"


def _changed(index: Path, change: Any) -> None:
    said = json.loads(index.read_text())
    change(said["weight_map"])
    index.write_text(json.dumps(said))


def test_an_index_that_lies_is_refused_by_name(sharded: Path) -> None:
    first, second = "model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"
    honest = sharded.read_text()
    for change, kind, said in (
        (lambda m: m.update({"ghost": first}), Damaged, "not in the file: ghost"),
        (lambda m: m.pop("embed.weight"), Damaged, "embed"),
        (lambda m: m.update({"embed.weight": second}), Damaged, r"not in the (file|index): embed\.weight"),
        (lambda m: m.update({"ghost": "../../secret.safetensors"}), Unsafe, "a shard must be a safetensors file of the same"),
        (lambda m: m.update({"ghost": "model.bin"}), Unsafe, "a shard must be"),
        (lambda m: m.update({"ghost": "model-9.safetensors"}), Damaged, "points to model-9.safetensors, which is not there"),
        (lambda m: m.update({"ghost": 3}), Damaged, "no weight_map"),
    ):
        sharded.write_text(honest)
        _changed(sharded, change)
        if said == "embed":  # the shard is then not named at all, and its tensor missing
            with pytest.raises(Unfit, match=r"embed\.weight is missing"):
                opened(sharded.parent)
        else:
            with pytest.raises(kind, match=said):
                find(sharded.parent)
    sharded.write_text("{")
    with pytest.raises(Damaged, match="is not JSON"):
        find(sharded.parent)


@pytest.mark.parametrize(
    ("name", "said", "match"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling.Net"}}, "auto_map"),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "modeling.Net"}}}, "auto_map"),
        ("config.json", {"trust_remote_code": True}, "trust_remote_code"),
        ("config.json", {"custom_pipeline": "somebody/pipeline"}, "custom_pipeline"),
        ("config.json", {"_class_name": ["my_net", "Net"]}, "_class_name"),
        ("config.json", {"_class_name": "my_module.Net"}, "_class_name"),
        ("model_index.json", {"_class_name": "Pipe", "unet": ["my_unet", "Net"]}, "takes its unet from 'my_unet'"),
        ("model_index.json", {"_class_name": ["pipeline", "Pipe"]}, "_class_name"),
    ],
)
def test_a_configuration_that_asks_for_code_is_refused(tmp_path: Path, name: str, said: dict[str, Any], match: str) -> None:
    (tmp_path / name).write_text(json.dumps(said))
    with pytest.raises(Unsafe, match=match):
        weights.config(tmp_path, name)
    if name == "config.json":
        with pytest.raises(Unsafe, match=match):
            save(nn.Linear(2, 2), tmp_path / "out", said, said.get("_class_name", "Net"))
        assert not (tmp_path / "out").exists()


def test_harmless_configurations_are_read(tmp_path: Path) -> None:
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": [None, None],
        "requires_safety_checker": True,
        "trust_remote_code": False,
        "auto_map": None,
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert weights.config(tmp_path, "model_index.json") == index
    for wrong, said in (("[1]", "must be an object"), ("{", "is not JSON"), ("\xff", "is not JSON")):
        (tmp_path / "config.json").write_bytes(wrong.encode("latin1"))
        with pytest.raises(Damaged, match=said):
            weights.config(tmp_path)


def test_nothing_is_overwritten_and_nothing_half_written_stays(net: Net, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileExistsError, match="is not empty"):
        save(net, folder, CONFIG, "Net")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save(net, folder.parent / "second", CONFIG, "Net")
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


# -- the reference libraries ---------------------------------------------------------------------------------------------


def test_diffusers_loads_what_is_saved_and_the_other_way(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers.models")
    from maquette.networks.plans2d import Plan
    from maquette.networks.unet2d import UNet2D

    plan = {"block_out_channels": [8, 16], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "layers_per_block": 1}
    plan |= {"up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 4, "sample_size": 8}
    torch.manual_seed(0)
    ours = UNet2D(Plan.of(plan))
    save(ours, tmp_path / "ours", plan, "UNet2DModel", shard=20_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "ours")
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x, 99).sample, ours(x, t=torch.full((2,), 0.1)), atol=1e-5, rtol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    with hollow():
        back = UNet2D(Plan.of(weights.config(tmp_path / "theirs")))
    fill(back, tmp_path / "theirs")
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in back.state_dict().items())


def test_transformers_loads_what_is_saved(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    said = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11, n_positions=8)
    ours = transformers.GPT2LMHeadModel(said)  # its head is tied
    save(ours, tmp_path / "ours", {**said.to_dict(), "model_type": "gpt2"}, "GPT2LMHeadModel")
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


# -- memory --------------------------------------------------------------------------------------------------------------

CHILD = """
import json, sys, torch
from pathlib import Path
from torch import nn
from maquette.hub.weights import fill, hollow
def held(name):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(name))
open("/proc/self/clear_refs", "w").write("5")  # the highest so far is forgotten
before = held("VmRSS")
with hollow():
    net = nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(24)])
fill(net, Path(sys.argv[1]), dtype=getattr(torch, sys.argv[2], None))
opened, peak = held("VmRSS") - before, held("VmHWM") - before
sum(float(p.detach().sum()) for p in net.parameters())
print(json.dumps([opened, peak, held("VmRSS") - before, held("VmHWM") - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads a process's memory as Linux tells it")
def test_opening_holds_a_model_once(tmp_path: Path) -> None:
    """96 MiB on disk: mapped, next to nothing before it is used and the file's size after; cast to bfloat16, half and a bit."""
    save_file({f"{i}.weight": torch.randn(1024, 1024) for i in range(24)}, tmp_path / "model.safetensors")
    size, found = 96, {}
    for kind in ("none", "bfloat16"):
        raw = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), kind], capture_output=True, text=True, check=True)
        found[kind] = json.loads(raw.stdout)
    _, peak, _, most = found["none"]
    assert peak < 0.3 * size and most < 1.2 * size, found
    opened, peak, _, most = found["bfloat16"]
    assert opened < 0.7 * size and peak < 1.3 * size and most < 1.3 * size, found
