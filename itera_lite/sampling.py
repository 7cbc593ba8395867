"""Default options of sampling, and those of a checkpoint (``generation_config.json``)."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from itera_lite.errors import CheckpointError, IteraWarning
from itera_lite.files import exists, read_object


@dataclass(frozen=True)
class SamplingDefaults:
    """Options of sampling where the user gives none; without a file's advice, the values below.

    Attributes:
        temperature: divides the logits; 0 always takes the most probable token.
        top_k: only the k most probable tokens; 0 means all.
        top_p: only the most probable tokens that together reach this probability; 1 means all.
        min_p: only tokens with this share of the most probable one's probability; 0 means all.
        repetition_penalty: above 1, tokens that stand in the text become less probable.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0


DEFAULTS = SamplingDefaults()
REPETITION_WINDOW = 64  # tokens that a repetition penalty looks back

# transformers' other fields, with the values that change nothing. For another value, and for a
# field that is neither here nor below, the user is warned.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    name: values
    for values, names in (
        (
            (1,),
            "encoder_repetition_penalty guidance_scale length_penalty num_beam_groups num_beams "
            "num_return_sequences typical_p",
        ),
        (
            (0,),
            "diversity_penalty encoder_no_repeat_ngram_size epsilon_cutoff eta_cutoff min_length "
            "min_new_tokens no_repeat_ngram_size penalty_alpha",
        ),
        (([],), "bad_words_ids begin_suppress_tokens stop_strings suppress_tokens"),
        (([], {}), "sequence_bias"),
        ((False,), "early_stopping remove_invalid_values renormalize_logits"),
        ((0.4,), "assistant_confidence_threshold"),
    )
    for name in names.split()
}
# Fields that don't change the distribution, or that are options of the verbs
_HARMLESS = """
    bos_token_id eos_token_id pad_token_id decoder_start_token_id max_length max_new_tokens max_time
    output_attentions output_hidden_states output_logits output_scores return_dict_in_generate
    cache_implementation use_cache transformers_version
""".split()


def read_generation_config(checkpoint: Path) -> SamplingDefaults:
    """The options in ``generation_config.json``; without the file, the defaults.

    A field that is null counts as left out, and ``do_sample: false`` means greedy decoding. A
    field that would change the text and that isn't supported is named in an `IteraWarning`.

    Raises:
        CheckpointError: the file is damaged, or a value is out of its range.
    """
    path = checkpoint / "generation_config.json"
    if not exists(path):
        return DEFAULTS
    raw = read_object(path, CheckpointError)
    given = {name: value for name, value in raw.items() if value is not None}

    def number(name: str, least: float, most: float, expected: str) -> float:
        value = given.get(name, getattr(DEFAULTS, name))
        usable = isinstance(value, int | float) and not isinstance(value, bool)
        if not (usable and least <= value <= most):  # NaN isn't
            raise CheckpointError(f"'{path}': {name} is {value!r}, expected {expected}")
        return value

    tiny = 5e-324
    sampling = SamplingDefaults(
        temperature=number("temperature", 0, 1e6, "a number, 0 (greedy) or more"),
        top_k=_whole(number("top_k", 0, 2**31 - 1, "a whole number, 0 (all) or more"), path),
        top_p=number("top_p", tiny, 1, "a number, more than 0, at most 1 (all)"),
        min_p=number("min_p", 0, 1, "a number from 0 (all) to 1"),
        repetition_penalty=number("repetition_penalty", tiny, 1e6, "a number, more than 0"),
    )
    do_sample = given.get("do_sample", True)
    if not isinstance(do_sample, bool):
        raise CheckpointError(f"'{path}': do_sample is {do_sample!r}, expected true or false")
    if not do_sample:
        sampling = replace(sampling, temperature=0.0)
    _warn_of_unsupported(given, path)
    return sampling


def _whole(value: float, path: Path) -> int:
    if value != int(value):
        raise CheckpointError(f"'{path}': top_k is {value!r}, expected a whole number")
    return int(value)


def _warn_of_unsupported(given: dict[str, Any], path: Path) -> None:
    known = {*SamplingDefaults.__dataclass_fields__, "do_sample", *_HARMLESS}
    left_out = [
        f"{name}={json.dumps(value)}"
        for name, value in given.items()
        if name not in known and not name.startswith("_") and value not in _NEUTRAL.get(name, ())
    ]
    if left_out:
        warnings.warn(
            f"'{path}': left out, for no such sampling is supported: {', '.join(left_out)}",
            IteraWarning,
            stacklevel=3,
        )
