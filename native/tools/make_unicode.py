"""Writes the kind of every code point according to the `tokenizers` package, for the engine (C++)
and for the C export.

GPT-2's pre-tokenizer distinguishes letters, numbers and white space. Which is which depends on the
Unicode version of the regex engine, so the package itself is asked, whose splits the engine has to
repeat: after a letter, a number or a sign, a code point stays in the piece exactly when it is of
the same kind; white space never stays.

    python native/tools/make_unicode.py

writes native/text/unicode.h and itera_lite/export/c/unicode.h, of which the wheel has the latter.
Run it again when the pinned version of `tokenizers` changes; a test compares the two files.
"""

from pathlib import Path

import tokenizers
from tokenizers import pre_tokenizers

KINDS = ("Other", "Letter", "Number", "Space")
SAMPLES = {"!": 0, "a": 1, "5": 2}  # a sample of the kinds that grow
BLOCK = 1 << 14

ROOT = Path(__file__).parents[2]
C_HEADER = """\
/* The kind of each code point in GPT-2's pre-tokenizer. Made by native/tools/make_unicode.py from
   tokenizers {version}; don't edit. A run of one kind begins at `entry >> 2`, the kind is
   `entry & 3`; ascending, the first is 0. */
static const uint32_t char_runs[{count}] = {{
{rows}
}};
"""
HEADER = """\
// The kind of each code point in GPT-2's pre-tokenizer. Made by tools/make_unicode.py from
// tokenizers {version}; don't edit.
#pragma once

#include <cstdint>

namespace itera {{

enum class CharKind : uint8_t {{ Other, Letter, Number, Space }};

// A run of one kind begins at `entry >> 2`, the kind is `entry & 3`; ascending, the first is 0.
inline constexpr uint32_t kCharRuns[{count}] = {{
{rows}
}};

}}  // namespace itera
"""


def kinds() -> list[int]:
    """The kind of each code point from 0 to 0x10FFFF; surrogates count as Other."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    result = [3] * 0x110000
    result[0xD800:0xE000] = [0] * 0x800
    for start in range(0, 0x110000, BLOCK):
        points = [p for p in range(start, start + BLOCK) if not 0xD800 <= p < 0xE000]
        for sample, kind in SAMPLES.items():
            text = "".join(f"{sample}{chr(point)}\n" for point in points)
            begins = {begin for _, (begin, _) in splitter.pre_tokenize_str(text)}
            for index, point in enumerate(points):
                if 3 * index + 1 not in begins:
                    result[point] = kind
    return result


def main() -> None:
    runs: list[tuple[int, int]] = []
    for point, kind in enumerate(kinds()):
        if not runs or runs[-1][1] != kind:
            runs.append((point, kind))
    words = [f"0x{point << 2 | kind:06x}," for point, kind in runs]
    rows = "\n".join("    " + " ".join(words[i : i + 9]) for i in range(0, len(words), 9))
    for header, file in (
        (HEADER, "native/text/unicode.h"),
        (C_HEADER, "itera_lite/export/c/unicode.h"),
    ):
        text = header.format(version=tokenizers.__version__, count=len(runs), rows=rows)
        (ROOT / file).write_text(text)


if __name__ == "__main__":
    main()
