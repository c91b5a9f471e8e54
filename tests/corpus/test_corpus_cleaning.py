"""Text is corrected, never damaged; languages are told apart the same way every time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.schemas import data
from corpus.cleaning import Cleaner, unescape
from corpus.language import ForeignLanguageFilter
from corpus.rows import Row

CLEANER = Cleaner(data.CleaningSection())


def clean(text: str) -> str:
    return CLEANER.text(text, Counter())


@pytest.mark.parametrize(
    ("dirty", "tidy"),
    [
        ("itâ€™s", "it’s"),
        ("cafÃ©", "café"),
        ("AT&amp;T &gt; IBM", "AT&T > IBM"),
        ("R&amp;amp;D", "R&D"),
        ("&#8217;", "’"),
        ("a\u00a0b\u202fc", "a b c"),
        ("one\u0085two", "one\ntwo"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("bell\x07 and \x1b escape", "bell and  escape"),
        ("\x1b[1;31mred\x1b[0m alert", "red alert"),
        ("end.\x0cNext page", "end.\nNext page"),
        (" an answer ", "an answer"),
        ("\n \n    return x\n\n", "    return x"),
        ("\ttotal = 1\n", "\ttotal = 1"),
    ],
)
def test_damage_is_mended(dirty, tidy):
    assert clean(dirty) == tidy


@pytest.mark.parametrize(
    "text",
    [
        "“Smart” quotes – and dashes…",
        "👨‍👩‍👧 and می‌خواهم",  # the joiners inside carry meaning
        "全角，标点。",
        "Write `&amp;` for an ampersand",
        'Escape it: <a href="?a=1&amp;b=2">',
        "def f():\n    return 1\n\n\tx",
        "    total = x\n\n\n\n    return total",
        "+ added\n \n- removed",
        " kept\n-old\n+new\n\n kept",  # a diff
        " key: 1\n other: 2",
        "naïve résumé, Ångström, œuvre",
    ],
)
def test_sound_text_stays_as_it_is(text):
    assert clean(text) == text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_cleaning_twice_changes_nothing_more(text):
    once = clean(text)
    assert clean(once) == once


def test_what_was_mended_is_counted_by_name():
    mended: Counter = Counter()
    CLEANER.text("itâ€™s &amp; \x07", mended)
    assert mended == {"mojibake": 1, "HTML entities": 1, "control characters": 1}


def test_the_mojibake_of_a_real_file_is_gone(samples):
    import json
    import re

    damage = re.compile("â€|Ã[\x80-\xbf©¨¢±³¶¼]")
    rows = json.loads((samples / "instruct/lf_kto_en_demo.json").read_text(encoding="utf-8"))
    texts = [m["content"] for row in rows for m in row["messages"]]
    assert sum(bool(damage.search(t)) for t in texts) > 0
    assert sum(bool(damage.search(clean(t))) for t in texts) == 0


def test_half_an_emoji_is_marked_as_lost_and_the_row_left_out():
    row = Row(
        [{"role": "user", "content": "broken \ud83d"}, {"role": "assistant", "content": "ok"}]
    )
    CLEANER.row(row, Counter())
    assert CLEANER.reject(row).reason == "characters lost (U+FFFD)"


def test_the_json_of_a_tool_result_is_left_alone():
    row = Row([{"role": "tool", "content": '{"q": "&quot;"}'}])
    CLEANER.row(row, Counter())
    assert row.messages[0]["content"] == '{"q": "&quot;"}'


def test_entities_of_tags_are_decoded_once_the_text_has_no_tags():
    assert unescape("1 &lt; 2") == "1 < 2"


ENGLISH = "The river ran past the old house, and all of them knew that it would rise again. " * 4
GERMAN = "Der Fluss lief an dem alten Haus vorbei, und alle wussten, dass er wieder steigt. " * 4


@pytest.mark.slow
def test_another_language_is_named_and_the_kept_one_is_not():
    languages = ForeignLanguageFilter(data.LanguageFilterSection(keep=["en"]))
    assert languages.foreign(ENGLISH) is None
    assert languages.foreign(GERMAN) == "de"
    assert languages.foreign("妄想女友是2015年5月23日開始播放的連續劇。") == "zh"
    assert languages.foreign("これは日本語の文章です。") == "ja"
    assert ForeignLanguageFilter(data.LanguageFilterSection(keep=["de"])).foreign(ENGLISH) == "en"
    assert ForeignLanguageFilter(data.LanguageFilterSection(keep=[])).foreign(GERMAN) is None


def test_short_text_and_tables_of_digits_are_not_judged():
    languages = ForeignLanguageFilter(data.LanguageFilterSection(keep=["en"]))
    assert languages.foreign("Bonjour tout le monde") is None
    assert languages.foreign("| 2x3=6 | 3x3=9 | 4x3=12 | " * 20) is None


def test_the_same_text_gets_the_same_language_every_time():
    languages = ForeignLanguageFilter(data.LanguageFilterSection())
    mixed = (GERMAN[:90] + " Nous avons vu la maison. Vi så huset. ") * 3
    assert len({languages.detect(mixed) for _ in range(10)}) == 1
