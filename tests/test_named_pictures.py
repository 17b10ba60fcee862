"""Pictures by name: characters and emoji, what their captions say, and that nothing alike is on both sides of a split."""

from __future__ import annotations

import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from maquette.data import Data, DataError, corpora, open_data, opening, recall
from maquette.data import characters as drawn_characters
from maquette.data import emoji as drawn_emoji
from maquette.data.fonts import FONTS
from maquette.data.names import held_out, joined, words
from maquette.data.shares import sha1

pytestmark = pytest.mark.usefixtures("anew")


def named(data: Data, name: str) -> Tensor:
    """The pictures of that name, on whichever side they are: float[N,C,H,W]."""
    found = [
        split.rows(torch.tensor(places))["image"]
        for split in data.splits.values()
        if (places := [i for i, text in enumerate(split.columns["text"]) if text == name])
    ]
    assert len(found) == 1, f"{name} is on {len(found)} sides"
    return found[0]


def captions(data: Data, part: str) -> set[str]:
    return set(data.splits[part].columns["text"])


def apart(data: Data) -> None:
    """No picture and no caption is on both sides, and of every held-out name training names have every word."""
    seen = {image.numpy().tobytes() for image in data.train.columns["image"]}
    assert not any(image.numpy().tobytes() in seen for image in data.held.columns["image"])
    train, held = captions(data, "train"), captions(data, "held")
    assert not train & held and len(held) > 200
    known = set().union(*map(words, train))
    assert all(words(name) <= known for name in held)


# -- names -----------------------------------------------------------------------------------------------------------------


def test_groups_are_what_chains_of_pairs_lead_to():
    assert joined(6, [(4, 2), (2, 5), (1, 0)]) == [0, 0, 2, 3, 2, 2]
    assert joined(3, []) == [0, 1, 2] and joined(4, [(3, 2), (2, 1), (1, 0), (0, 3)]) == [0, 0, 0, 0]


def test_only_whole_groups_of_known_words_are_held_out():
    assert words("braille pattern dots-134") == {"braille", "pattern", "dots", "1", "3", "4"}
    names = [f"{colour} {thing} {i}" for i in range(10) for colour in ("red", "blue") for thing in ("cat", "dog", "hen")]
    names += ["green unicorn"]  # a word of its own: drawn or not, it is learned
    groups = [i // 2 for i in range(60)] + [60]
    away = held_out(names, groups, 30)
    assert 4 < sum(away) < 30 and away == held_out(names, groups, 30)
    assert all(away[i] == away[i + 1] for i in range(0, 60, 2)) and not away[60]
    assert not any(held_out(names, groups, 0)) and not held_out(["green unicorn"], [0], 100)[0]
    drawn = [int.from_bytes(sha1(min(names[i : i + 2]).encode())[:4], "big") % 100 < 30 for i in range(0, 60, 2)]
    assert all(is_drawn or not held for is_drawn, held in zip(drawn, away[:60:2], strict=True))


# -- characters ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def characters() -> Data:
    return open_data("characters")


def test_characters_are_captioned_by_their_names_and_nothing_alike_crosses_the_split(characters):
    facts = characters.facts
    assert facts.shape == (1, 32, 32) and facts.captions and facts.kind == "rendered" and "Unicode" in facts.licence
    assert 20_000 < facts.rows["train"] < 30_000 and 2_000 < facts.rows["held"] < 5_000
    names = captions(characters, "train") | captions(characters, "held")
    assert 6_500 < len(names) < 7_500 and all(unicodedata.lookup(name) for name in names)
    apart(characters)
    ink = torch.cat([255 - split.columns["image"][:, 0] for split in characters.splits.values()])
    assert int(ink.amax((1, 2)).min()) > 60  # none is blank
    edge = facts.rows["train"]
    crossing = [(i, j) for i, j in drawn_characters.alike(ink.numpy()) if (i < edge) != (j < edge)]
    assert not crossing  # in whichever faces


@pytest.mark.parametrize("letter", ["a", "e", "o", "p"])
def test_letters_that_look_the_same_are_on_one_side(characters, letter):
    alike = {"a": "alpha a", "e": "epsilon ie", "o": "omicron o", "p": "rho er"}[letter].split()
    family = {f"latin capital letter {letter}", f"greek capital letter {alike[0]}", f"cyrillic capital letter {alike[1]}"}
    sides = {part for part in ("train", "held") if captions(characters, part) & family}
    assert len(sides) == 1 and family <= captions(characters, sides.pop())


def test_pictures_show_what_names_say(characters):
    ink = {name: 1 - named(characters, name) for name in ("black chess queen", "white chess queen", "full block")}
    assert ink["black chess queen"].mean() > 1.3 * ink["white chess queen"].mean() and ink["full block"].amax() == 1
    rows = torch.arange(32.0).view(32, 1)

    def middle(name: str, along: Tensor) -> float:
        each = 1 - named(characters, name)
        return float((each * along).sum() / each.sum())

    assert middle("superscript two", rows) + 6 < middle("subscript two", rows)
    assert middle("braille pattern dots-1", rows.T) + 4 < middle("braille pattern dots-4", rows.T)  # left and right
    assert middle("apostrophe", rows) + 8 < middle("comma", rows)
    assert len(named(characters, "latin small letter g")) == 11 and len(named(characters, "black chess queen")) <= 4


def test_styled_faces_draw_letters_only_and_none_that_they_draw_wrongly(characters):
    styled = torch.tensor([FONTS.index(font) for font in drawn_characters.STYLED])
    for split in characters.splits.values():
        here = torch.isin(split.columns["font"], styled).nonzero()[:, 0].tolist()
        names = [split.columns["text"][i] for i in here]
        assert all(unicodedata.category(unicodedata.lookup(name))[0] == "L" for name in names)
        assert not any(name.startswith("mathematical") for name in names)
    assert 0x1FD8 not in drawn_characters._signs("DejaVuSerif-Italic") and 0x1FD8 in drawn_characters._signs("DejaVuSerif")


def test_kinds_are_told_by_names_then_by_categories():
    wanted = {"a": "latin", "Ж": "cyrillic", "ア": "letter", "𝒳": "mathematical", "½": "number", "!": "punctuation"}
    wanted |= {"→": "arrow", "⠓": "braille", "╬": "box drawings", "♛": "symbol", "✝": "symbol"}  # the latin cross is no letter
    assert {sign: drawn_characters.kind(sign) for sign in wanted} == wanted


def test_alike_is_near_in_ink():
    rng = np.random.default_rng(0)
    drawn = (rng.random((40, 32, 32)) < 0.2).astype(np.uint8) * 255
    drawn[7], drawn[30] = drawn[3], drawn[20]
    drawn[30, 5, 5] ^= 128  # a quarter of a pixel of ink
    drawn[31] = drawn[11]
    drawn[31, 9, 9] ^= 255  # a whole one
    assert sorted(drawn_characters.alike(drawn, rows=8)) == [(3, 7), (20, 30)]


def test_characters_are_the_same_from_the_cache_and_drawn_anew(characters):
    assert open_data("characters").facts.hash == characters.facts.hash
    font = FONTS.index("STIXGeneralItalic")
    columns = characters.held.columns
    for i in (columns["font"] == font).nonzero()[:20, 0].tolist():
        again = drawn_characters._inked(font, unicodedata.lookup(columns["text"][i]))
        assert np.array_equal(255 - again, columns["image"][i, 0].numpy())
    assert drawn_characters._inked(font, " ") is None


# -- emoji -----------------------------------------------------------------------------------------------------------------


def there() -> bool:
    try:
        return drawn_emoji.font().is_file()
    except DataError:
        return False


fonted = pytest.mark.skipif(not there(), reason="no NotoColorEmoji.ttf: apt-get install fonts-noto-color-emoji")
RUNNER, DARK, JOIN, WOMAN, WIDE = "\U0001f3c3", "\U0001f3ff", "\u200d", "\u2640", "\ufe0f"


def test_captions_name_every_character():
    assert drawn_emoji.caption(RUNNER + DARK + JOIN + WOMAN + WIDE) == "runner, dark skin tone, female sign"
    assert drawn_emoji.caption("🧑" + JOIN + "🦰") == "adult, red hair"
    assert drawn_emoji.told("😀") and drawn_emoji.told("3" + WIDE + "\u20e3") and drawn_emoji.told("™")
    assert not any(map(drawn_emoji.told, ("🇩🇪", "3", "\U0001f3ff", "🈯", "\U0001fa77", JOIN, "\U000fe82c")))


def test_a_subject_is_whoever_it_is():
    runners = {
        "runner",
        "runner, dark skin tone",
        "runner, light skin tone, female sign",
        "runner, male sign, black rightwards arrow",
    }
    assert {drawn_emoji.subject(name) for name in runners} == {"runner"}
    assert drawn_emoji.subject("woman, dark skin tone, rocket") == drawn_emoji.subject("adult, rocket") != "rocket"
    several = ("two men holding hands", "kiss", "family", "woman, dark skin tone, heavy black heart, man", "man, girl, boy")
    assert {drawn_emoji.subject(name) for name in several} == {"several people"}
    assert drawn_emoji.subject("kiss mark") == "kiss mark" and drawn_emoji.subject("male sign") != drawn_emoji.subject(
        "red heart"
    )


def test_of_a_pictures_spellings_the_forward_one_counts():
    """A font spells sequences for right-to-left text too; its order of them says nothing."""
    table = {0x1F468: "man", 0x1F680: "rocket", 0x1F3FF: "dark", 0x200D: "join", 0x2640: "she", 0x1F3C3: "run", 0xFE82C: "own"}
    spellings = {"man": [(["join", "rocket"], "a"), (["dark", "join", "rocket"], "b")], "run": [(["join", "she"], "c")]}
    spellings |= {"rocket": [(["join", "man"], "a"), (["join", "man", "dark"], "b")], "she": [(["join", "run"], "c")]}
    ligatures = {
        first: [SimpleNamespace(Component=rest, LigGlyph=glyph) for rest, glyph in some] for first, some in spellings.items()
    }
    lookups = [SimpleNamespace(SubTable=[SimpleNamespace(ligatures=ligatures)]), SimpleNamespace(SubTable=[SimpleNamespace()])]
    gsub = SimpleNamespace(table=SimpleNamespace(LookupList=SimpleNamespace(Lookup=lookups)))

    class Face(dict):
        def getBestCmap(self):  # fontTools' own name
            return table

    spelt = drawn_emoji._spelt(Face(GSUB=gsub))
    named = {glyph: drawn_emoji.caption(spelt[glyph]) for glyph in "abc"}
    assert named == {"a": "man, rocket", "b": "man, dark skin tone, rocket", "c": "runner, female sign"} and "own" not in spelt


def test_without_the_font_the_message_says_what_to_install(monkeypatch, tmp_path):
    facts = open_data("digits").facts
    monkeypatch.setattr(drawn_emoji, "FOLDERS", (str(tmp_path),))
    assert "emoji" in corpora()
    with pytest.raises(DataError, match=r"NotoColorEmoji\.ttf.*apt-get install fonts-noto-color-emoji.*characters"):
        open_data("emoji")
    with recall(facts):
        assert open_data("emoji").facts == facts  # a run samples on a machine without the font
    (tmp_path / drawn_emoji.FONT).write_bytes((drawn_characters._folder() / "DejaVuSansMono.ttf").read_bytes())
    with pytest.raises(DataError, match="no CBDT table"):
        open_data("emoji")


def test_a_source_that_takes_a_size_draws_at_it(monkeypatch):
    asked = []

    def drawn(size: int = 8) -> Data:
        asked.append(size)
        return open_data("digits")

    monkeypatch.setattr(opening, "BUILTINS", (drawn, *opening.BUILTINS))
    assert open_data("drawn").facts.shape == open_data("drawn", size=64).facts.shape == (1, 8, 8) and asked == [8, 64]


@fonted
def test_emoji_keep_a_subject_on_one_side():
    data = open_data("emoji")
    facts = data.facts
    assert facts.shape == (3, 32, 32) and facts.captions and not facts.classes and "Open Font License" in facts.licence
    assert sum(facts.rows.values()) > 1_500 and facts.size == 0 and open_data("emoji").facts.hash == facts.hash
    apart(data)
    sides = [{drawn_emoji.subject(name) for name in captions(data, part)} for part in ("train", "held")]
    assert not sides[0] & sides[1] and len(sides[1]) > 60
    red, blue = named(data, "large red circle"), named(data, "large blue circle")
    assert red.mean((0, 2, 3)).argmax() == 0 and blue.mean((0, 2, 3)).argmax() == 2
    assert float(red[..., 0, 0].min()) == 1.0  # the ground is white
    light, dark = (named(data, f"waving hand sign, {tone} skin tone").mean() for tone in ("light", "dark"))
    assert light > dark + 0.05
    with recall(facts):
        assert open_data("emoji").held.columns["text"] == data.held.columns["text"]


@fonted
def test_emoji_are_drawn_at_their_size(monkeypatch):
    asked = []
    monkeypatch.setattr(drawn_emoji, "kept", lambda name, key, make: asked.append(key) or few)
    few = {"name": np.array(["a b", "b c", "c a"]), "group": np.arange(3), "font": np.array("x")}
    few["pixels"] = np.zeros((3, 3, 48, 48), np.uint8)
    large = open_data("emoji", size=48)
    assert large.facts.size == 48 and large.facts.shape == (3, 48, 48) and open_data("emoji").facts.size == 0
    assert len(set(asked)) == 2  # another size is kept beside, not instead
