"""Check how numbers are written (digits, prefixes, units), and the Markdown helpers."""

import math

import pytest

from itera_lite.report import text
from itera_lite.report.text import MISSING
from itera_lite.stats.comparison import Measurement
from itera_lite.stats.samples import Stat


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda: text.count(1886496), "1,886,496"),
        (lambda: text.count(2.6), "3"),
        (lambda: text.fixed(0.81234), "0.8123"),
        (lambda: text.fixed(1234.5, 1), "1,234.5"),
        (lambda: text.significant(0.01234), "0.0123"),
        (lambda: text.significant(1.2345), "1.23"),
        (lambda: text.significant(12345.6), "12,346"),
        (lambda: text.significant(12345.6, 2), "12,346"),
        (lambda: text.significant(99.96, 4), "99.96"),
        (lambda: text.significant(0), "0"),
        (lambda: text.significant(0.00012345), "0.000123"),
        (lambda: text.significant(0.000012345), "1.23e-05"),
        (lambda: text.significant(-0.000012345, 2), "-1.2e-05"),
        (lambda: text.significant(-1.2345), "-1.23"),
        (lambda: text.significant(math.inf), MISSING),
        (lambda: text.significant(math.nan), MISSING),
        (lambda: text.scaled(7_546_000, "B"), "7.546 MB"),
        (lambda: text.scaled(999, "B"), "999.0 B"),
        (lambda: text.scaled(1000, "B"), "1.000 kB"),
        (lambda: text.scaled(-1e6, "B"), "-1.000 MB"),
        (lambda: text.scaled(2e9, "B", 2), "2.0 GB"),
        (lambda: text.scaled(1e12, "F"), "1.000 TF"),
        (lambda: text.scaled(1e15, "F"), "1.000 PF"),
        (lambda: text.percent(0.4123), "41.2 %"),
        (lambda: text.percent(0.4123, 0), "41 %"),
        (lambda: text.duration(45), "45.0 s"),
        (lambda: text.duration(119.9), "119.9 s"),
        (lambda: text.duration(120), "2.0 min"),
        (lambda: text.duration(7199), "120.0 min"),
        (lambda: text.duration(7200), "2.0 h"),
        (lambda: text.duration(9000), "2.5 h"),
        (lambda: text.quantity(2_000_000, "bytes"), "2.000 MB"),
        (lambda: text.quantity(3_211_000, "FLOPs"), "3.211 MFLOPs"),
        (lambda: text.quantity(1.5, "J"), "1.50 J"),
        (lambda: text.quantity(1, "J"), "1.00 J"),
        (lambda: text.quantity(0.0125, "J"), "12.5 mJ"),
        (lambda: text.quantity(0.001, "J"), "1.00 mJ"),
        (lambda: text.quantity(12.5e-6, "J"), "12.5 µJ"),
        (lambda: text.quantity(1e-6, "J"), "1.00 µJ"),
        (lambda: text.quantity(3e-9, "J"), "3.00 nJ"),
        (lambda: text.quantity(0, "J"), "0 nJ"),
        (lambda: text.quantity(1234.0, "parameters"), "1,234"),
        (lambda: text.quantity(0.8, "bits/byte"), "0.8000 bits/byte"),
        (lambda: text.quantity(1.97, "nats/token"), "1.9700 nats/token"),
        (lambda: text.quantity(1234.5, "tokens/s"), "1,234 tokens/s"),
        (lambda: text.quantity(12.3456, ""), "12.35"),
    ],
)
def test_numbers(write, expected):
    assert write() == expected


@pytest.mark.parametrize(
    "write", [text.count, text.fixed, text.significant, text.percent, text.duration, text.rate]
)
def test_what_is_missing_is_a_dash(write):
    assert write(None) == MISSING == "—"


@pytest.mark.parametrize("write", [text.scaled, text.quantity, text.measured, text.stat])
def test_what_is_missing_has_no_unit(write):
    assert write(None, "J") == MISSING


def test_a_measurement_has_its_interval_in_the_same_unit():
    speed = Measurement(8123, 7990, 8240, 7)
    assert text.measured(speed, "tokens/s") == "8,123 tokens/s [7,990 – 8,240], n = 7"
    assert text.measured(speed, "tokens/s", unit_shown=False) == "8,123 [7,990 – 8,240], n = 7"
    assert text.measured(Measurement.once(8123), "tokens/s") == "8,123 tokens/s"
    size = Measurement(1_000_500, 999_000, 1_002_000, 2)  # the prefixes differ: each is shown
    assert text.measured(size, "bytes") == "1.000 MB [999.0 kB – 1.002 MB], n = 2"
    below = Measurement(998_000, 997_000, 1_002_000, 2)
    assert text.measured(below, "bytes") == "998.0 kB [997.0 kB – 1.002 MB], n = 2"
    assert text.measured(Measurement(4.5, 4, 5, 3), "") == "4.500 [4.000 – 5.000], n = 3"
    samples = Stat.of([1.0, 2.0, 3.0])
    assert text.stat(samples, "ms") == "2.000 ms [1.000 – 3.000], n = 3"
    assert text.rate(samples) == "2.000 [1.000 – 3.000], n = 3"


def test_markdown_that_shows_text_as_it_is():
    assert text.escape("a*b_c `d` [e] <f> {g} h|i \\ \n j") == (
        "a\\*b\\_c \\`d\\` \\[e\\] \\<f\\> \\{g\\} h\\|i \\\\ j"
    )
    assert text.escape(12) == "12"
    assert text.code("a b\n c") == "`a b c`"
    assert text.code("a`b``c") == "```a`b``c```"
    assert text.code("`a") == "`` `a ``" and text.code("a`") == "`` a` ``"
    assert text.code("\x07") == "`\ufffd`"
    assert text.fence("a\n\n") == "```text\na\n```"
    assert text.fence("```x```` y", "sh") == "`````sh\n```x```` y\n`````"
    assert text.printable("a\tb\nc\x1b\x7f\x80é\ud800😀") == "a\tb\nc\ufffd\ufffd\ufffdé\ufffd😀"


def test_tables_lists_and_paragraphs():
    assert text.table(["a", "b"], [["1", "2"], ("3", "4")]) == (
        "| a | b |\n| :--- | ---: |\n| 1 | 2 |\n| 3 | 4 |"
    )
    assert text.table(["a", "b", "c"], [], "rlr").splitlines()[1] == "| ---: | :--- | ---: |"
    assert text.bullets(["a", "b"]) == "- a\n- b"
    assert text.paragraphs("a\n", "", "\nb") == "a\n\nb"
