"""Bad data: each fault is named with its reason, counted and skipped; too many of them are refused; nothing is guessed."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maquette.data import DataError, open_data


def good(root: Path, count: int = 20, size: tuple[int, int] = (16, 16)) -> Path:
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"good-{i:03d}.png")
    return root


def bomb(wide: int, high: int) -> bytes:
    """A PNG of a few bytes that claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def png() -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(99).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(98).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def tiff() -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "TIFF")
    return buffer.getvalue()


FAULTS = {
    "empty.png": (lambda: b"", "zero bytes"),
    "truncated.png": (lambda: png()[:300], "damaged"),
    "truncated.jpg": (lambda: jpeg()[:300], "damaged|truncated"),
    "text.jpg": (lambda: b"this is not a picture", "not an image"),
    "page.png": (lambda: b"<!doctype html><html>404</html>", "not an image"),
    "bomb.png": (lambda: bomb(20_000, 20_000), "too many pixels|20000x20000"),
    "warns.png": (lambda: bomb(11_000, 11_000), "11000x11000 is 121,000,000 pixels; at most 16,777,216"),
    "just-over.png": (lambda: bomb(4096, 4097), "at most 16,777,216"),
    "flipped.png": (lambda: png()[:60] + b"\xff" + png()[61:], "damaged"),
    "photo.tiff": (tiff, "not an image of a kind that is read"),
    "half.webp": (lambda: b"RIFF\x24\0\0\0WEBPVP8 ", "not an image|damaged"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_image_is_listed_with_its_reason_and_skipped(tmp_path, name):
    make, reason = FAULTS[name]
    good(tmp_path)
    (tmp_path / name).write_bytes(make())
    data = open_data(str(tmp_path))
    assert sum(data.facts.rows.values()) == 20
    ((file, said),) = data.facts.skipped
    assert file == name
    import re

    assert re.search(reason, said), said


def test_all_faults_at_once_are_all_listed(tmp_path):
    good(tmp_path, 30)
    for name, (make, _) in FAULTS.items():
        (tmp_path / name).write_bytes(make())
    data = open_data(str(tmp_path))
    assert {file for file, _ in data.facts.skipped} == set(FAULTS) and sum(data.facts.rows.values()) == 30


def test_animated_images_are_skipped_and_still_gifs_are_read(tmp_path):
    good(tmp_path)
    frames = [Image.new("L", (16, 16), 20 * i) for i in range(4)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[1].save(tmp_path / "still.gif")
    data = open_data(str(tmp_path))
    assert data.facts.skipped == (("moving.gif", "animated; only still images are read"),)
    assert sum(data.facts.rows.values()) == 21


def test_wrongly_named_images_are_read_and_noted(tmp_path):
    good(tmp_path)
    (tmp_path / "really-a-jpeg.png").write_bytes(jpeg())
    (tmp_path / "no-suffix").write_bytes(png())
    data = open_data(str(tmp_path))
    assert sum(data.facts.rows.values()) == 22 and data.facts.skipped == ()
    assert any("really-a-jpeg.png is JPEG" in note for note in data.facts.notes)


def test_more_than_half_bad_is_refused_naming_some(tmp_path):
    good(tmp_path, 3)
    for i in range(4):
        (tmp_path / f"bad-{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"4 of 7 images.*more than half(.|\n)*bad-0.png: empty"):
        open_data(str(tmp_path))


def test_damage_that_only_decoding_finds_counts_too(tmp_path):
    good(tmp_path, 3)
    for i in range(4):
        (tmp_path / f"bad-{i}.png").write_bytes(png()[:300])
    with pytest.raises(DataError, match="more than half"):
        open_data(str(tmp_path))


def test_a_few_images_of_another_size_are_skipped(tmp_path):
    good(tmp_path, 12)
    Image.new("RGB", (15, 16)).save(tmp_path / "odd.png")
    data = open_data(str(tmp_path))
    assert data.facts.skipped == (("odd.png", "15x16 pixels; the others are 16x16"),)
    assert any("12 images are 16x16; 1 of another size skipped" in note for note in data.facts.notes)
    assert sum(open_data(str(tmp_path), size=16).facts.rows.values()) == 13


def test_many_sizes_are_refused_with_a_size_to_try(tmp_path):
    good(tmp_path, 6)
    for i in range(4):
        Image.new("RGB", (30 + i, 40)).save(tmp_path / f"odd-{i}.png")
    with pytest.raises(DataError, match=r"different sizes \(16x16: 6, .*; --size 16 crops"):
        open_data(str(tmp_path))


def test_too_much_for_memory_is_refused_before_decoding(tmp_path, monkeypatch):
    import maquette.data.images as images

    good(tmp_path, 12)
    monkeypatch.setattr(images.os, "sysconf", lambda name: 1 << 7)  # 16 KiB of memory
    with pytest.raises(DataError, match=r"more than half of this machine's.*--size 8 would fit"):
        open_data(str(tmp_path))


@pytest.mark.parametrize("size", [-1, 5000])
def test_size_out_of_range(size):
    with pytest.raises(DataError, match=r"allowed are 0.*nearest is"):
        open_data("digits", size=size)


def test_size_of_text(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n" * 10)
    for name in ("stdlib", str(tmp_path)):
        with pytest.raises(DataError, match="size 8 is for images"):
            open_data(name, size=8)


def test_metadata_rows_that_cannot_be_used(tmp_path):
    good(tmp_path, 12)
    rows = [json.dumps({"file_name": f"good-{i:03d}.png", "text": f"t{i}"}) for i in range(11)]
    rows += ["{not json", "[1]", '{"text": "no name"}', '{"file_name": "../secret.png"}', '{"file_name": "gone.png"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    data = open_data(str(tmp_path))
    said = dict(data.facts.skipped)
    assert sum(data.facts.rows.values()) == 11 and len(said) == 6
    assert "not JSON" in said["metadata.jsonl:12"] and "a list" in said["metadata.jsonl:13"]
    assert "no file_name" in said["metadata.jsonl:14"] and "out of the folder" in said["metadata.jsonl:15"]
    assert "no such image" in said["metadata.jsonl:16"] and "no row in the metadata" in said["good-011.png"]


# -- text ----------------------------------------------------------------------------------------------------------------


def test_bad_text_is_listed_with_the_place(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text(f"good text {i}")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "wide.txt").write_bytes("hello".encode("utf-16"))
    (tmp_path / "binary.txt").write_bytes(b"abc\0def")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "blank.txt").write_bytes(b" \n\t\n")
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfwith a mark")
    data = open_data(str(tmp_path))
    assert dict(data.facts.skipped) == {
        "latin.txt": "not UTF-8: byte 0xe9 at offset 3",
        "wide.txt": "not UTF-8: it begins like UTF-16",
        "binary.txt": "not text: a zero byte at offset 3",
        "empty.txt": "empty",
        "blank.txt": "nothing but white space",
    }
    assert "with a mark" in [*data.train.columns["text"], *data.held.columns["text"]]


def test_bad_jsonl_rows_are_listed_by_line(tmp_path):
    rows = [json.dumps({"text": f"row {i}"}).encode() for i in range(20)]
    faults = {
        b'{"text": ': "not JSON",
        b'{"txt": "x"}': "its keys are txt. Nearest is 'txt'",
        b'{"text": 5}': "'text' is a int",
        b'{"text": ""}': "empty",
        b"[1, 2]": "a list, not an object",
        b'{"text": "caf\xe9"}': "not UTF-8: byte 0xe9",
        b'{"text": "\\ud800"}': "lone surrogate",
        b"[" * 100_000: "not JSON",
        b'{"messages": [{"content": "x"}]}': "no 'role'",
        b'{"messages": [{"role": "user"}]}': "no 'content'",
        b'{"messages": []}': "not a list of messages",
    }
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([*rows, *faults]))
    data = open_data(str(tmp_path / "rows.jsonl"))
    assert sum(data.facts.rows.values()) == 20
    assert [place for place, _ in data.facts.skipped] == [f"rows.jsonl:{21 + i}" for i in range(len(faults))]
    for (_, said), wanted in zip(data.facts.skipped, faults.values(), strict=True):
        assert wanted in said


def test_rows_of_two_kinds_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"messages": [{"role": "user", "content": "y"}]}\n')
    with pytest.raises(DataError, match=r"'text' \(a.jsonl:1\) and others 'messages' \(a.jsonl:2\)"):
        open_data(str(tmp_path))


def test_mostly_bad_rows_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "y"}\n' + "no\n" * 3)
    with pytest.raises(DataError, match=r"3 of 5 texts.*more than half"):
        open_data(str(tmp_path))


def test_too_little_to_split(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="too short to hold some of it out"):
        open_data(str(tmp_path / "a.txt"))
    (tmp_path / "pictures").mkdir()
    good(tmp_path / "pictures", 1)
    with pytest.raises(DataError, match="at least two different ones"):
        open_data(str(tmp_path / "pictures"))


def test_an_explicit_split_with_nothing_usable(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    good(tmp_path / "train")
    (tmp_path / "test" / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match="held-out folder"):
        open_data(str(tmp_path))


# -- names and paths -----------------------------------------------------------------------------------------------------


def test_unknown_names_get_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-photos").mkdir()
    with pytest.raises(DataError, match=r"'digit': neither a built-in \(digits, glyphs.*Nearest is 'digits'"):
        open_data("digit")
    with pytest.raises(DataError, match="Nearest is 'my-photos'"):
        open_data("my-photo")
    with pytest.raises(DataError, match=r"Nearest is .*my-photos"):
        open_data(str(tmp_path / "my_photos"))
    with pytest.raises(DataError, match=r"no folder.*nearest that exists is"):
        open_data(str(tmp_path / "a" / "b" / "c"))
    with pytest.raises(DataError, match="neither a built-in"):
        open_data("")


def test_empty_and_foreign_folders(tmp_path):
    with pytest.raises(DataError, match="no data in it; allowed are images"):
        open_data(str(tmp_path))
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"no data in it \(1 files of other kinds\)"):
        open_data(str(tmp_path))
    with pytest.raises(DataError, match=r"'a.zip' is of no kind that is read; allowed are .jsonl"):
        open_data(str(tmp_path / "a.zip"))
    (tmp_path / "one.png").write_bytes(png())
    with pytest.raises(DataError, match="is one image; give the folder"):
        open_data(str(tmp_path / "one.png"))


def test_a_mixed_folder_says_what_was_left(tmp_path):
    good(tmp_path, 12)
    (tmp_path / "notes.md").write_text("about these")
    (tmp_path / "archive.zip").write_bytes(b"PK")
    notes = open_data(str(tmp_path)).facts.notes
    assert any("2 files that are not image were not read" in note for note in notes)


# -- parquet -------------------------------------------------------------------------------------------------------------


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"pip install 'maquette\[data\]'"):
        open_data(str(tmp_path / "a.parquet"))


def test_bad_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="not parquet, or damaged"):
        open_data(str(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"txet": ["a", "b"], "id": [1, 2]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"its columns are txet, id. Nearest is 'txet'"):
        open_data(str(tmp_path / "b.parquet"))
    held = [
        {"bytes": png(), "path": "x"},
        {"bytes": None, "path": "elsewhere.png"},
        {"bytes": b"junk", "path": None},
        {"bytes": jpeg(), "path": None},
    ]
    pq.write_table(pa.table({"image": held}), tmp_path / "c.parquet")
    data = open_data(str(tmp_path / "c.parquet"))
    said = dict(data.facts.skipped)
    assert sum(data.facts.rows.values()) == 2
    assert "a path, elsewhere.png" in said["c.parquet:1"] and "not an image" in said["c.parquet:2"]
