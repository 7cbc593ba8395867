"""`Completer`: the likeliest words that go on from a text while it is typed."""

from __future__ import annotations

from itera_lite import _engine
from itera_lite.engine.arguments import bytes_of, whole
from itera_lite.engine.results import Completion

MOST_COMPLETIONS = 100


class Completer:
    """Completes a text that is being typed. Make one with `Model.completer`.

    It keeps the states after the last words, so that a keystroke reads only what is new; a text
    that goes on from none of them is read from its beginning, in as long as that takes. Several
    threads may share one: one at a time works on it.
    """

    def __init__(self, model: _engine.Model) -> None:
        self._completer = _engine.Completer(model)

    def complete(self, prefix: str | bytes, k: int = 5, *, lines: bool = False) -> list[Completion]:
        """The ``k`` likeliest words that go on from ``prefix``, the likeliest first.

        A word is a run of letters, digits, underscores and bytes above 127. Where the prefix ends
        in one, it is completed; else the next one is given, with the spaces before it if they
        aren't typed yet. Tokens don't end where typing does: those of the last word or mark are
        taken back, and all tokens whose bytes agree with what was typed are followed. A word
        counts as whole where the next token ends it. What would add nothing to the prefix is left
        out.

        Args:
            prefix: the text before the cursor. Of one longer than the context, the end counts.
            k: completions at most, 1 to 100; fewer where the search finds no more.
            lines: complete the line, not the word, which takes several times as long. For text
                with short lines, such as code: of a long paragraph, the likeliest lines are those
                that end early, and improbable.

        Raises:
            UsageError: for ``k`` out of its range; for an empty prefix where no token begins a
                document of this model.
        """
        found = self._completer.complete(
            bytes_of(prefix), whole("k", k, 1, MOST_COMPLETIONS), bool(lines)
        )
        return [Completion(text.decode("utf-8", "replace"), p) for text, p in found]
