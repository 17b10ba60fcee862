"""Built-in pairs that a program can check: English terms, dates and numbers, and how other languages put them, says CLDR.

Knows Babel, which carries CLDR, and asks for it only here.
"""

from __future__ import annotations

import datetime
import json
import random
from types import ModuleType

from maquette.data.cache import cached
from maquette.data.core import Data, Facts
from maquette.data.errors import DataError
from maquette.data.paired import paired

LANGUAGES = ("de", "fr")  # that terms are told in
_LISTS = ("territories", "languages", "scripts", "currencies", "variants")
_FIRST, _DAYS = datetime.date(1900, 1, 1), 73_049  # up to 2099-12-31
DATES, NUMBERS = 12_000, 6_000
_FORMS = ("medium", "long", "full")


def dates() -> Data:
    """Pairs, "de: March 5, 2024" -> "5. März 2024", "iso: ..." -> "2024-03-05", and numbers: 30,000, made up, rules real."""
    babel = _babel("dates")
    rows = json.loads(cached("dates", f"2-{babel.__version__}", lambda: json.dumps(_dates()).encode()))
    about = _about(
        "dates",
        babel,
        kind="simulated",
        split="by day, and by number: held out where the first 32 bits of the SHA-1 of its ISO form modulo 100 are below 10",
        notes=(
            f"{DATES:,} days from 1900 to 2099, once into German and once into ISO 8601; {NUMBERS:,} numbers, sums and shares",
            "every month, weekday and digit of a held-out date is in training ones: what is new is how they are put together",
        ),
    )
    return paired(about, [(key, source, text) for key, source, text in rows])


def terms() -> Data:
    """Pairs, "de: Cape Verde" -> "Kap Verde", into German and French: 2,600 names of places, languages, scripts, currencies."""
    babel = _babel("terms")
    english = babel.Locale.parse("en")
    rows = []
    for language in LANGUAGES:
        other = babel.Locale.parse(language)
        for name in _LISTS:
            known, told = getattr(english, name), getattr(other, name)
            rows += [(known[code], f"{language}: {known[code]}", told[code]) for code in sorted(known) if code in told]
    same = sum(source.split(": ", 1)[1] == text for _, source, text in rows)
    about = _about(
        "terms",
        babel,
        kind="real",
        split="by English term: held out where the first 32 bits of its SHA-1 modulo 100 are below 10; both languages together",
        notes=(
            f"{same} of {len(rows):,} are the same in both languages: copying is right there",
            "held-out names share words with training ones (peso, islands, script): a quarter have one that is half alike",
        ),
    )
    return paired(about, rows)


def _about(name: str, babel: ModuleType, kind: str, split: str, notes: tuple[str, ...]) -> Facts:
    who = f"Unicode CLDR, Unicode, Inc., by way of Babel {babel.__version__}"
    more = ("differs between versions of CLDR",)
    return Facts(name, "text", kind, "Unicode-3.0; BSD-3-Clause", who, "", {}, split=split, notes=(*notes, *more))


def _babel(name: str) -> ModuleType:
    """The library, or what to install."""
    try:
        import babel
        import babel.dates
        import babel.numbers
    except ImportError:
        raise DataError(f"the data {name!r} need babel: pip install 'maquette[text]'") from None
    return babel


def _dates() -> list[tuple[str, str, str]]:
    """(what decides on the side, source, text) of every row, in an order of its own."""
    from babel.dates import format_date
    from babel.numbers import format_currency, format_decimal, format_percent

    rng, rows = random.Random("dates"), []
    for day in rng.sample(range(_DAYS), DATES):
        date = _FIRST + datetime.timedelta(days=day)
        form, other = rng.choice(_FORMS), rng.choice(_FORMS)
        rows.append((date.isoformat(), f"de: {format_date(date, form, 'en')}", format_date(date, form, "de")))
        rows.append((date.isoformat(), f"iso: {format_date(date, other, 'en')}", date.isoformat()))
    for _ in range(NUMBERS):
        number = round(rng.uniform(-1, 1) * 10 ** rng.uniform(1, 8), 2)
        match rng.randrange(3):
            case 0:
                told = [format_decimal(number, locale=where) for where in ("en", "de")]
            case 1:
                currency = rng.choice(("EUR", "USD", "GBP", "JPY"))
                told = [format_currency(number, currency, locale=where) for where in ("en", "de")]
            case _:
                told = [
                    format_percent(number / 1000, "#,##0.##%" if where == "en" else "#,##0.##\u00a0%", where)
                    for where in ("en", "de")
                ]
        rows.append((str(number), f"de: {told[0]}", told[1]))
    rng.shuffle(rows)
    return rows
