"""Data: built-ins as documented, the user's folders and files, splits by content, order as a pure function, windows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maquette.data import Data, DataError, Facts, Split, Windows, coded, corpora, open_data, opening, order, recall
from maquette.data.cache import cached
from maquette.data.shares import RULE, held_out, sha1


def picture(number: int, size: tuple[int, int] = (12, 12), mode: str = "RGB") -> Image.Image:
    """A small image that no other number gives."""
    rng = np.random.default_rng(number)
    grey = mode in ("1", "L", "LA", "I;16")
    pixels = rng.integers(0, 256, (size[1], size[0]) if grey else (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode if mode != "I;16" else "L")


def image_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 20) -> Path:
    for kind, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            picture(1000 * kind + i).save(root / name / f"{i:03d}.png")
    return root


def texts(data: Data) -> list[str]:
    return [*data.train.columns["text"], *data.held.columns["text"]]


# -- built-ins -----------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_with_its_split():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    parts = train_test_split(found.images, found.target, test_size=360, stratify=found.target, random_state=0)
    data = open_data("digits")
    for split, image, label in (("train", parts[0], parts[2]), ("held", parts[1], parts[3])):
        assert np.array_equal(data.splits[split].columns["image"][:, 0], image)
        assert np.array_equal(data.splits[split].columns["label"], label)
    assert data.facts.levels == 17 and data.facts.shape == (1, 8, 8)
    assert data.facts.hash == "bda47d90e8" + data.facts.hash[10:]  # from a file of numbers: the same on every machine
    batch = data.held.rows(torch.tensor([3, 5]))
    assert batch["image"].dtype == torch.float32 and set((batch["image"] * 16).flatten().tolist()) <= set(range(17))


def test_digits_without_their_file_come_through_the_public_function(monkeypatch):
    import maquette.data.builtin as builtin

    wanted = open_data("digits").facts.hash
    monkeypatch.setattr(builtin.importlib.util, "find_spec", lambda name: None)
    assert builtin.digits().facts.hash == wanted


def test_stratified_split_is_scikit_learns_for_uneven_classes():
    from sklearn.model_selection import train_test_split

    from maquette.data.builtin import stratified

    label = np.random.default_rng(0).choice(5, 203, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    for held in (20, 41, 77):
        for seed in (0, 3):
            train, test = train_test_split(np.arange(203), test_size=held, stratify=label, random_state=seed)
            found = stratified(label, held, seed)
            assert np.array_equal(found[0], train) and np.array_equal(found[1], test)


def test_glyphs_hold_out_a_family_and_leave_out_what_is_mislabelled():
    from maquette.data.fonts import FONTS, STIX

    data = open_data("glyphs")
    assert data.facts.rows == {"train": 17 * 94 - 29, "held": 4 * 94}
    assert len(FONTS) == 21 and data.facts.shape == (1, 32, 32) and len(data.facts.classes) == 94
    fonts = {split: {FONTS[i] for i in data.splits[split].columns["font"].tolist()} for split in ("train", "held")}
    assert fonts["held"] == set(STIX) and not fonts["train"] & fonts["held"]
    seen = {image.numpy().tobytes() for image in data.train.columns["image"]}
    assert not any(image.numpy().tobytes() in seen for image in data.held.columns["image"])
    named: dict[bytes, set[int]] = {}
    for image, label in zip(data.train.columns["image"], data.train.columns["label"].tolist(), strict=True):
        named.setdefault(image.numpy().tobytes(), set()).add(label)
    assert all(len(labels) == 1 for labels in named.values())  # no picture goes by two names
    assert int(data.train.columns["image"].flatten(1).amax(1).min()) > 100  # none is blank


def test_glyphs1_are_the_glyphs_in_two_levels():
    grey, plain = open_data("glyphs"), open_data("glyphs1")
    assert plain.facts.levels == 2 and plain.facts.rows == grey.facts.rows and plain.facts.shape == (1, 32, 32)
    for split in ("train", "held"):
        ink = plain.splits[split].all()["image"]
        assert torch.equal(ink, (grey.splits[split].columns["image"] >= 128).float())
        assert torch.equal(plain.splits[split].columns["font"], grey.splits[split].columns["font"])
        assert int(ink.flatten(1).sum(1).min()) > 0  # none is blank


def test_font_digits_are_balanced_distinct_and_legible(anew):
    from sklearn.svm import SVC

    data = open_data("font_digits")
    assert data.facts.rows == {"train": 10_500, "held": 2_100} and data.facts.shares == (0.1,) * 10
    everything = torch.cat([data.train.columns["image"], data.held.columns["image"]])
    assert len({image.numpy().tobytes() for image in everything}) == 12_600
    train, held = data.train.rows(torch.arange(1050)), data.held.rows(torch.arange(420))
    judge = SVC(C=10).fit(train["image"].flatten(1), train["label"])
    assert judge.score(held["image"].flatten(1), held["label"]) > 0.85
    assert open_data("font_digits").facts.hash == data.facts.hash


def test_standard_library_is_split_by_path():
    data = open_data("stdlib")
    assert data.facts.field == "text" and 300 < len(texts(data)) < 700
    assert data.facts.bytes["train"] == sum(len(text.encode()) for text in data.train.columns["text"])
    assert 0.03 < data.facts.bytes["held"] / sum(data.facts.bytes.values()) < 0.25
    import textwrap

    with open(textwrap.__file__, encoding="utf-8") as file:
        assert (file.read() in data.held.columns["text"]) is held_out(sha1(b"textwrap.py"))
    assert len(set(texts(data))) == len(texts(data))


def test_prose_is_kept_on_disk_and_made_anew_when_damaged(tmp_path, monkeypatch, anew):
    import maquette.data.python_source as source

    calls = []
    few = {f"{name}.py": f'"""{name}: {"a long enough docstring of a module " * 3}"""' for name in "abcdefghij"}
    monkeypatch.setattr(source, "sources", lambda: (few, []))
    monkeypatch.setattr(source, "held_out", lambda digest: digest[0] < 64)
    real = source._prose
    monkeypatch.setattr(source, "_prose", lambda found: calls.append(1) or real(found))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = open_data("stdlib_prose")
    assert open_data("stdlib_prose").facts.hash == first.facts.hash and len(calls) == 1
    assert any(text.startswith("c: a long") for text in texts(first)) and len(texts(first)) > 50  # help() topics too
    (kept,) = (tmp_path / "maquette").iterdir()
    raw = bytearray(kept.read_bytes())
    raw[-5] ^= 1
    kept.write_bytes(raw)
    assert open_data("stdlib_prose").facts.hash == first.facts.hash and len(calls) == 2


def test_cache_does_without_a_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("not a folder")
    assert cached("x", "key", lambda: b"made") == b"made"


def test_facts_survive_json():
    for name in ("digits", "glyphs", "stdlib"):
        facts = replace(open_data(name).facts, skipped=(("a", "b"),))
        again = Facts.of(json.loads(json.dumps(facts.asdict())))
        assert again == facts and again.skipped == facts.skipped and again.licence and again.attribution and again.split


def test_built_in_images_at_another_size():
    data = open_data("digits", size=16)
    assert data.facts.shape == (1, 16, 16) and data.facts.levels == 256 and data.facts.size == 16
    small = torch.nn.functional.avg_pool2d(data.held.all()["image"], 2)
    assert (small - open_data("digits").held.all()["image"]).abs().mean() < 0.05
    assert open_data("glyphs", size=32).facts.hash == open_data("glyphs").facts.hash


def test_corpora_lists_every_built_in():
    pictures = ["digits", "glyphs", "glyphs1", "font_digits", "font_digits8", "serif_glyphs"]
    known = ["sprites", "scenes", "scenes_terse", "characters", "emoji", "grid", "ring", "spiral"]
    text = [
        "stdlib",
        "stdlib_prose",
        "docstrings",
        "prose",
        "packages",
        "tasks",
        "documented",
        "gradeable",
        "summaries",
        "apiqa",
        "functions",
        "repairs",
        "tested",
        "dates",
        "terms",
        "translations",
        "chores",
        "instructions",
        "manners",
        "dialogues",
        "principles",
        "sums",
        "countdown",
    ]
    assert list(corpora()) == [*pictures, *known, *text] and all(corpora().values())


def test_importing_data_imports_no_heavy_package():
    code = "import sys, maquette.data; print(*[m for m in ('sklearn','PIL','matplotlib','pyarrow','rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# -- the user's images ---------------------------------------------------------------------------------------------------


def test_class_folders_become_labels(tmp_path):
    data = open_data(str(image_folder(tmp_path / "pets")))
    facts = data.facts
    assert facts.classes == ("cat", "dog") and facts.shape == (3, 12, 12) and facts.kind == "own" and facts.split == RULE
    assert facts.name == str(tmp_path / "pets") and sum(facts.rows.values()) == 40 and facts.rows["held"] > 0
    cats = {np.asarray(picture(i)).transpose(2, 0, 1).tobytes() for i in range(20)}
    for split in data.splits.values():
        for image, label in zip(split.columns["image"], split.columns["label"].tolist(), strict=True):
            assert (image.numpy().tobytes() in cats) is (label == 0)


def test_split_depends_on_content_and_not_on_names(tmp_path):
    first = open_data(str(image_folder(tmp_path / "a")))
    image_folder(tmp_path / "b")
    for path in sorted((tmp_path / "b").rglob("*.png")):
        path.rename(path.with_name(f"renamed-{path.name}"))
    assert open_data(str(tmp_path / "b")).facts.hash == first.facts.hash


def test_duplicates_are_dropped_and_never_straddle(tmp_path):
    image_folder(tmp_path)
    for i in range(20):
        picture(i).save(tmp_path / "cat" / f"copy-{i}.png")
        picture(i).save(tmp_path / "cat" / f"other-file-same-pixels-{i}.bmp")
        picture(i).save(tmp_path / "dog" / f"another-label-{i}.png")
    data = open_data(str(tmp_path))
    assert sum(data.facts.rows.values()) == 60 and "40 exact duplicates dropped" in data.facts.notes
    train = {image.numpy().tobytes() for image in data.train.columns["image"]}
    assert not any(image.numpy().tobytes() in train for image in data.held.columns["image"])


def test_split_folders_win_and_shared_rows_are_noted(tmp_path):
    image_folder(tmp_path / "train", each=6)
    image_folder(tmp_path / "test", each=2)
    data = open_data(str(tmp_path))
    assert data.facts.rows == {"train": 12, "held": 4} and data.facts.classes == ("cat", "dog")
    assert any("4 of 4 held-out rows are also training rows" in note for note in data.facts.notes)
    image_folder(tmp_path / "validation", each=3)
    data = open_data(str(tmp_path))
    assert data.facts.rows == {"train": 12, "held": 6}
    assert any("test (4 files) was left unread" in note for note in data.facts.notes)


def test_a_class_called_train_is_a_class(tmp_path):
    assert open_data(str(image_folder(tmp_path, ("car", "train")))).facts.classes == ("car", "train")


def test_a_training_folder_alone_is_no_class(tmp_path):
    image_folder(tmp_path / "train")
    assert open_data(str(tmp_path)).facts.classes == ("cat", "dog")


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_metadata_brings_captions_and_labels(tmp_path, form):
    image_folder(tmp_path, ("images",), each=10)
    rows = [{"file_name": f"images/{i:03d}.png", "text": f"picture, {i}", "label": 10 - i} for i in range(10)]
    if form == "jsonl":
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [f'{row["file_name"]},"{row["text"]}",{row["label"]}' for row in rows]
        (tmp_path / "metadata.csv").write_text("file_name,caption,label\n" + "\n".join(lines) + "\n")
    data = open_data(str(tmp_path))
    assert data.facts.classes == tuple(str(i) for i in range(1, 11))  # in order of value
    wanted = {np.asarray(picture(i)).transpose(2, 0, 1).tobytes(): (f"picture, {i}", str(10 - i)) for i in range(10)}
    for split in data.splits.values():
        batch = split.all()
        for image, text, label in zip(split.columns["image"], batch["text"], batch["label"].tolist(), strict=True):
            assert wanted[image.numpy().tobytes()] == (text, data.facts.classes[label])


def test_text_files_beside_images_are_captions(tmp_path):
    for i in range(6):
        picture(i).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"number {i}\n")
    data = open_data(str(tmp_path))
    assert sorted(texts(data)) == [f"number {i}" for i in range(6)] and data.facts.classes == ()


def test_size_crops_the_middle_and_resizes(tmp_path):
    for i in range(4):
        wide = Image.new("RGB", (60, 20), "red")
        wide.paste(picture(i, (20, 20)).resize((20, 20)), (20, 0))
        wide.save(tmp_path / f"{i}.png")
    picture(9, (7, 31)).save(tmp_path / "tall.png")
    data = open_data(str(tmp_path), size=20)
    assert data.facts.shape == (3, 20, 20) and data.facts.size == 20 and sum(data.facts.rows.values()) == 5
    found = {image.numpy().tobytes() for split in data.splits.values() for image in split.columns["image"]}
    assert np.asarray(picture(0, (20, 20))).transpose(2, 0, 1).tobytes() in found


def test_every_mode_is_read_as_a_person_sees_it(tmp_path):
    from maquette.data.images import _pixels

    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (_pixels(clear) == 255).all() and _pixels(clear).shape == (1, 4, 4)
    half = Image.new("LA", (4, 4), (0, 128))
    assert _pixels(half)[0, 0, 0] == 127
    deep = Image.fromarray(np.full((4, 4), 0x8080, np.uint16))
    deep.save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as again:
        assert (_pixels(again) == 128).all()
    palette = Image.new("RGB", (4, 4), (255, 0, 10)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert _pixels(palette)[:, 0, 0].tolist() == [255, 0, 10]
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert (_pixels(palette) == 255).all()
    assert set(_pixels(picture(1, mode="1")).flatten().tolist()) == {0, 255}
    assert _pixels(Image.new("CMYK", (4, 4), (0, 0, 0, 0))).shape == (1, 4, 4)
    colours = picture(1).convert("L").convert("RGB")
    assert _pixels(colours).shape == (1, 12, 12)  # grey in three channels


def test_grey_images_have_one_channel_unless_one_is_coloured(tmp_path):
    for i in range(12):
        picture(i, mode="L").save(tmp_path / f"{i}.png")
    assert open_data(str(tmp_path)).facts.shape == (1, 12, 12)
    picture(0).save(tmp_path / "colour.png")
    data = open_data(str(tmp_path))
    assert data.facts.shape == (3, 12, 12)
    image = torch.cat([split.columns["image"] for split in data.splits.values()])
    assert sum(bool((one[0] == one[1]).all()) for one in image) == 12


def test_exif_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    for i in range(6):
        Image.new("RGB", (16, 8), (40 * i, 10, 200)).save(tmp_path / f"{i}.jpg", exif=exif)
    assert open_data(str(tmp_path)).facts.shape == (3, 16, 8)


def test_a_changed_folder_is_read_again_and_an_unchanged_one_is_not(tmp_path, monkeypatch):
    import maquette.data.images as images

    image_folder(tmp_path)
    decoded = []
    real = images._decode
    monkeypatch.setattr(images, "_decode", lambda *given: decoded.append(1) or real(*given))
    first = open_data(str(tmp_path))
    assert first.train is not None and open_data(str(tmp_path)).held is not None
    assert len(decoded) == 40
    picture(77).save(tmp_path / "cat" / "new.png")
    assert open_data(str(tmp_path)).facts.hash != first.facts.hash


def test_a_built_in_corpus_is_made_once_and_its_rows_lie_on_the_cpu(monkeypatch):
    made = []

    def drawn() -> Data:
        made.append(torch.zeros(1).device.type)
        return open_data("digits")

    monkeypatch.setattr(opening, "BUILTINS", (drawn, *opening.BUILTINS))
    with torch.device("meta"):
        one, other, small = open_data("drawn").train, open_data("drawn").train, open_data("drawn", size=16).train
    assert made == ["cpu", "cpu"] and one.columns["image"] is other.columns["image"] and len(small) == len(one)
    one.columns["image"] = one.columns["image"][:5]
    assert len(open_data("drawn").train.columns["image"]) == len(other)


# -- the user's text -----------------------------------------------------------------------------------------------------


def test_a_folder_of_text(tmp_path):
    (tmp_path / "deep").mkdir()
    wanted = [f"document {i}\r\nÄ\n" for i in range(40)]
    for i, text in enumerate(wanted):
        (tmp_path / ("deep" if i % 2 else ".") / f"{i}.md").write_bytes(text.encode())
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "no.md").write_text("hidden")
    data = open_data(str(tmp_path))
    assert sorted(texts(data)) == sorted(wanted) and data.facts.field == "text" and data.facts.shape == ()
    assert {text: held_out(sha1(text.encode())) for text in wanted} == {
        **dict.fromkeys(data.train.columns["text"], False),
        **dict.fromkeys(data.held.columns["text"], True),
    }


def test_one_file_is_cut_at_a_line_near_its_end(tmp_path):
    text = "".join(f"line {i} of the only file\n" for i in range(200))
    (tmp_path / "input.txt").write_text(text)
    for path in (tmp_path / "input.txt", tmp_path):
        data = open_data(str(path))
        assert "".join(texts(data)) == text and data.train.columns["text"][0].endswith("\n")
        assert 0.08 < data.facts.bytes["held"] / len(text) < 0.12


def test_named_splits_of_text(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(f"the {name} text")
    data = open_data(str(tmp_path))
    assert data.train.columns["text"] == ["the train text"] and data.held.columns["text"] == ["the valid text"]


def test_jsonl_with_text_and_with_messages(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(30)))
    assert sorted(texts(open_data(str(tmp_path / "a.jsonl")))) == sorted(f"row {i}" for i in range(30))
    said = [
        {"role": "user", "content": "What is {}?"},
        {"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "{}."}]},
    ]
    rows = [json.dumps({"messages": said}).replace("{}", str(i)) for i in range(30)]
    (tmp_path / "b.jsonl").write_text("\n".join(rows))
    data = open_data(str(tmp_path / "b.jsonl"))
    assert "<|user|>\nWhat is 7?\n<|assistant|>\nIt is 7.\n" in texts(data)
    assert data.train.all()["messages"][0][1]["role"] == "assistant"


def test_readme_does_not_make_a_folder_of_jsonl_one_of_text(tmp_path):
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "test.jsonl").write_text('{"text": "c"}\n')
    data = open_data(str(tmp_path))
    assert data.facts.rows == {"train": 2, "held": 1} and data.held.columns["text"] == ["c"]


def test_tiny_sets_still_hold_one_out_and_say_so(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
    data = open_data(str(tmp_path))
    assert data.facts.rows["held"] >= 1 and data.facts.rows["train"] >= 1
    assert any("only 3 rows" in note for note in data.facts.notes) or data.facts.split == RULE


def test_an_answer_is_not_held_out_of_a_conversation_that_is_learnt(tmp_path):
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    (tmp_path / "one.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    with pytest.raises(DataError, match="has 1 row to learn from; at least two different ones are needed"):
        open_data(str(tmp_path / "one.jsonl"))


def test_pairs_of_answers_to_one_conversation_never_straddle(tmp_path):
    asks = [[{"role": "user", "content": f"question {i % 20}"}] for i in range(200)]
    says = [
        {"chosen": [{"role": "assistant", "content": f"a{i}"}], "rejected": [{"role": "assistant", "content": "no"}]}
        for i in range(200)
    ]
    rows = [{"prompt": ask, **said} for ask, said in zip(asks, says, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = open_data(str(tmp_path / "pairs.jsonl"))
    train, held = ({turns[0]["content"] for turns in split.columns["messages"]} for split in (found.train, found.held))
    assert held and not train & held


# -- parquet -------------------------------------------------------------------------------------------------------------


def test_parquet_of_text_and_messages(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": range(30), "text": [f"row {i}" for i in range(29)] + [None]}), tmp_path / "a.parquet")
    data = open_data(str(tmp_path / "a.parquet"))
    assert sorted(texts(data)) == sorted(f"row {i}" for i in range(29))
    assert data.facts.skipped == (("a.parquet:29", "'text' is a NoneType, not a string"),)
    messages = [[{"role": "user", "content": f"hello {i}"}] for i in range(12)]
    pq.write_table(pa.table({"messages": messages}), tmp_path / "b.parquet")
    assert "<|user|>\nhello 3\n" in texts(open_data(str(tmp_path / "b.parquet")))


def test_parquet_of_images_as_the_hub_writes_them(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from io import BytesIO

    import pyarrow.parquet as pq

    def table(numbers: range) -> object:
        held = []
        for i in numbers:
            buffer = BytesIO()
            picture(i, mode="L").save(buffer, "PNG")
            held.append({"bytes": buffer.getvalue(), "path": f"{i}.png"})
        features = {"info": {"features": {"label": {"names": ["even", "odd"], "_type": "ClassLabel"}}}}
        found = pa.table({"img": held, "label": [i % 2 for i in numbers]})
        return found.replace_schema_metadata({"huggingface": json.dumps(features)})

    (tmp_path / "data").mkdir()
    pq.write_table(table(range(20)), tmp_path / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table(range(20, 26)), tmp_path / "data" / "test-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    data = open_data(str(tmp_path))
    assert data.facts.rows == {"train": 20, "held": 6} and data.facts.classes == ("even", "odd")
    assert data.facts.shape == (1, 12, 12)
    wanted = {np.asarray(picture(i, mode="L")).tobytes(): i % 2 for i in range(26)}
    for split in data.splits.values():
        for image, label in zip(split.columns["image"], split.columns["label"].tolist(), strict=True):
            assert wanted[image.numpy().tobytes()] == label


# -- what a run remembers ------------------------------------------------------------------------------------------------


def test_recalled_data_needs_no_source_until_rows_are_asked_for(tmp_path):
    facts = open_data(str(image_folder(tmp_path / "here"))).facts
    (tmp_path / "here").rename(tmp_path / "away")
    with recall(Facts.of(json.loads(json.dumps(facts.asdict())))):
        data = open_data(str(tmp_path / "here"))
    assert data.facts == facts
    with pytest.raises(DataError, match=r"gone.*here"):
        len(data.train)
    (tmp_path / "away").rename(tmp_path / "here")
    assert len(data.train) == facts.rows["train"]


def test_recalled_data_opens_where_it_was_moved_to(tmp_path):
    facts = open_data(str(image_folder(tmp_path / "here"))).facts
    (tmp_path / "here").rename(tmp_path / "away")
    with recall(facts):
        data = open_data(str(tmp_path / "away"))
    assert len(data.train) == facts.rows["train"]


def test_recalled_data_that_changed_is_refused_with_counts(tmp_path):
    facts = open_data(str(image_folder(tmp_path)), size=8).facts
    with recall(facts):
        data = open_data("anything")
    assert len(data.train) == facts.rows["train"] and data.train.columns["image"].shape[-1] == 8
    picture(555).save(tmp_path / "cat" / "new.png")
    with recall(facts):
        data = open_data("anything")
    with pytest.raises(DataError, match=r"changed since the run.*train \d+, held \d+ rows.*now train \d+, held \d+"):
        _ = data.held


# -- order ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows,batch", [(1, 4), (7, 3), (10, 5), (64, 64), (100, 7), (5, 23)])
def test_every_epoch_is_a_permutation_of_all_rows(rows, batch):
    steps = -(-3 * rows // batch)
    seen = torch.cat([order(9, step, batch, rows) for step in range(steps)])[: 3 * rows].view(3, rows)
    assert (seen.sort(1).values == torch.arange(rows)).all()
    if rows >= 64:
        assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], torch.arange(rows))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_shares_joined_are_one_processes_batch(world):
    for step in (0, 1, 17, 10_000):
        parts = [order(3, step, 12, 50, rank, world) for rank in range(world)]
        assert torch.equal(torch.cat(parts), order(3, step, 12, 50))


def test_order_keeps_no_state_and_never_moves():
    steps = [5, 0, 900, 3]
    forward = [order(1, step, 8, 37) for step in steps]
    backward = [order(1, step, 8, 37) for step in reversed(steps)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert order(0, 0, 8, 1000).tolist() == [236, 792, 575, 545, 638, 415, 283, 186]  # a run resumes under later versions
    assert not torch.equal(order(0, 0, 8, 1000), order(1, 0, 8, 1000))


def test_order_is_uniform():
    first = torch.stack([order(seed, 0, 4, 8) for seed in range(2000)])
    counts = torch.stack([torch.bincount(first[:, i], minlength=8) for i in range(4)]).float()
    assert ((counts - 250).abs() < 5 * 250**0.5).all()


@pytest.mark.parametrize(
    "given,message", [((0, 0, 4, 0), "no rows"), ((0, 0, 5, 10, 0, 2), "nearest is 4"), ((0, 0, 0, 10), "nearest is 1")]
)
def test_order_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        order(*given)


# -- windows -------------------------------------------------------------------------------------------------------------


class Bytes:
    """A tokenizer of bytes that counts how often it is asked."""

    bos = 256
    ends = (256,)

    def __init__(self) -> None:
        self.asked = 0

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        self.asked += 1
        return [list(text.encode()) for text in texts]


def test_windows_cut_one_stream_of_documents():
    codec = Bytes()
    windows = Windows(Split({"text": ["héllo", "", "world"]}), codec, 4)
    assert windows.documents == ["héllo", "", "world"] and windows.bytes == 11 and codec.asked == 0
    stream = [256, *"héllo".encode(), 256, 256, *b"world"]
    assert windows.tokens.tolist() == stream and windows.tokens.dtype == torch.int32
    assert len(windows) == len(stream) // 4
    code = windows.all()["code"]
    assert code.dtype == torch.int64 and code.tolist() == [stream[i : i + 4] for i in range(0, len(stream) - 3, 4)]
    assert windows.rows(torch.tensor([2, 0]))["code"].tolist() == [stream[8:12], stream[:4]]
    assert codec.asked == 1


def test_windows_tokenise_a_part_at_a_time(monkeypatch):
    import maquette.data.windows as module

    split = Split({"text": [f"document {i} " * 5 for i in range(20)]})
    whole = Windows(split, Bytes(), 8)
    monkeypatch.setattr(module, "CHUNK", 100)
    codec = Bytes()
    parts = Windows(split, codec, 8)
    assert torch.equal(parts.tokens, whole.tokens) and codec.asked > 5


def test_coded_data_keeps_its_facts_and_documents():
    data = open_data("stdlib")
    made = coded(data, Bytes(), 64)
    assert made.facts == data.facts and made.train.documents is data.train.columns["text"]
    assert made.held.bytes == data.facts.bytes["held"]


def test_coded_data_reads_nothing_until_asked(tmp_path):
    facts = Facts(str(tmp_path / "gone"), "text", "own", "", "", "0", {"train": 5, "held": 1})
    with recall(facts):
        made = coded(open_data("gone"), Bytes(), 8)
    with pytest.raises(DataError, match="gone"):
        _ = made.train


@pytest.mark.parametrize(
    "columns,length,message",
    [({"text": ["ab"]}, 9, "3 tokens.*--context 3"), ({"text": ["ab"]}, 0, "at least 1"), ({"image": []}, 4, "'text'")],
)
def test_windows_refuse(columns, length, message):
    with pytest.raises(DataError, match=message):
        len(Windows(Split(columns), Bytes(), length))


def test_a_link_to_a_parent_folder_does_not_loop(tmp_path):
    image_folder(tmp_path)
    os.symlink(tmp_path, tmp_path / "cat" / "up")
    assert sum(open_data(str(tmp_path)).facts.rows.values()) == 40


def test_licence_is_read_from_a_card_or_a_file(tmp_path):
    image_folder(tmp_path)
    assert open_data(str(tmp_path)).facts.licence == "unknown: your own data"
    (tmp_path / "LICENSE").write_text("text of a licence")
    assert open_data(str(tmp_path)).facts.licence == "see LICENSE in the folder"
    (tmp_path / "README.md").write_text("---\npretty_name: Pets\nlicense: cc-by-4.0\n---\n# Pets\n")
    assert open_data(str(tmp_path)).facts.licence == "cc-by-4.0"


def test_labels_are_all_or_none(tmp_path):
    image_folder(tmp_path, ("images",), each=10)
    rows = [{"file_name": f"images/{i:03d}.png", "label": i % 2 if i else None} for i in range(10)]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = open_data(str(tmp_path)).facts
    assert facts.classes == () and facts.shares == () and "1 images have no label: labels are left out" in facts.notes


def test_tasks_are_ciphers_that_training_never_saw_and_their_best_is_known():
    from maquette.data.tasks import LETTERS, best

    data = open_data("tasks")

    def ciphers(part: str) -> list[frozenset[str]]:
        return [frozenset(text.splitlines()) for text in data.splits[part].columns["text"]]

    train, held = ciphers("train"), ciphers("held")
    assert all(len({line[0] for line in each}) == len(each) == len({line[2] for line in each}) for each in held)
    assert not {each for each in train if len(each) == len(LETTERS)} & set(held)
    lines = [text.splitlines() for text in data.held.columns["text"]]
    for shots in (1, 4, 12):  # whoever remembers all and guesses nothing is a little below the best
        told = sum(each[shots] in each[:shots] for each in lines) / len(lines)
        assert best(shots) - 0.13 < told < best(shots) + 0.02
    assert best(0) == pytest.approx(0.1) and best(1) == pytest.approx(1 / 6 + 5 / 6 / 9) and best(23) > 0.98
