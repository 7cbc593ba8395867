"""What can be found wrong with a model card without a network.

The Hub checks the metadata of a README.md when it is pushed, and has the last word. This check
comes first, so that nothing is sent for a card that can't pass: the form of the metadata, the types
of its fields, the identifiers. Sources: the specification of the metadata
(https://github.com/huggingface/hub-docs/blob/main/modelcard.md) and the Hub's pages on licences
and model cards.
"""

from __future__ import annotations

import math
import re
from difflib import get_close_matches
from typing import Any

MAX_BYTES = 1_000_000  # our own limit: a card is read by people
_LICENSES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause
    bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
    eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0
    odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma apple-ascl apple-amlr
    fair-noncommercial-research-license intel-research h-research unknown other
"""
LICENSES = frozenset(_LICENSES.split())
_LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
_REPOSITORIES = ("base_model", "datasets")
_WORDS = ("tags", "metrics", "language", *_REPOSITORIES)  # a text, or a list of texts
_TEXTS = ("license", "license_name", "license_link", "library_name", "pipeline_tag")
RELATIONS = ("adapter", "merge", "quantized", "finetune")


def license_problem(name: str) -> str:
    """What is wrong with an identifier of a licence; empty if nothing is."""
    if name in LICENSES:
        return ""
    near = get_close_matches(name.lower(), LICENSES, n=1)
    advice = f" Did you mean '{near[0]}'?" if near else ""
    return (
        f"license '{name}' is none of the Hub's identifiers, such as mit, apache-2.0 or "
        f"cc-by-4.0.{advice} One of your own is 'other', with license_name and a LICENSE file"
    )


def card_problems(card: str) -> list[str]:
    """Everything that is wrong with a card, a sentence each; empty if nothing is."""
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    if (size := len(card.encode())) > MAX_BYTES:
        return [f"the card has {size:,} bytes: expected at most {MAX_BYTES:,}"]
    block = REGEX_YAML_BLOCK.search(card)
    if block is None:
        return ["the card has no metadata: expected YAML between two lines --- at its beginning"]
    try:
        metadata = ModelCard(card).data.to_dict()
    except Exception as error:  # of the YAML parser, and of huggingface_hub for a model-index
        reason = " ".join(str(error).split())[:200]
        return [f"the metadata between the lines --- can't be read: {reason}"]
    problems = [*_types(metadata), *_identifiers(metadata), *_model_index(metadata)]
    if not card[block.end() :].strip():
        problems.append("the card has no text after its metadata")
    return problems


def _types(metadata: dict[str, Any]) -> list[str]:
    problems = [
        f"{name} is {_shown(metadata[name])}: expected a text"
        for name in _TEXTS
        if name in metadata and not _is_word(metadata[name])
    ]
    for name in _WORDS:
        value = metadata.get(name, [])
        items = value if isinstance(value, list) else [value]
        problems += [
            f"{name} holds {_shown(item)}: expected a text, or a list of texts"
            for item in items
            if not _is_word(item)
        ]
    return problems


def _identifiers(metadata: dict[str, Any]) -> list[str]:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    problems = []
    license = metadata.get("license")
    if license is None:
        problems.append("license is missing: expected one of the Hub's identifiers, such as mit")
    elif _is_word(license):
        problems += filter(None, [license_problem(license)])
        if license == "other" and not metadata.get("license_name"):
            problems.append("license 'other' needs a license_name, and a LICENSE file or link")
    for language in _words(metadata, "language"):
        if not _LANGUAGE.fullmatch(language):
            problems.append(
                f"language '{language}': expected a code of two or three letters such as en, or "
                "code, or multilingual"
            )
    for name in _REPOSITORIES:
        for repository in _words(metadata, name):
            try:
                validate_repo_id(repository)
            except HFValidationError:
                problems.append(f"{name} '{repository}': expected a name on the Hub, OWNER/NAME")
    relation = metadata.get("base_model_relation")
    if relation is not None and relation not in RELATIONS:
        problems.append(
            f"base_model_relation {_shown(relation)}: expected one of {', '.join(RELATIONS)}"
        )
    return problems


def _model_index(metadata: dict[str, Any]) -> list[str]:
    """What huggingface_hub's own parser, which `card_problems` runs, leaves unchecked."""
    problems = []
    for model in metadata.get("model-index", []):
        if not _is_word(model.get("name")):
            problems.append("model-index has no name")
        for result in model.get("results", []):
            for part, field in (("task", "type"), ("dataset", "type"), ("dataset", "name")):
                if not _is_word(result.get(part, {}).get(field)):
                    problems.append(f"model-index: a result has no {part}.{field}")
            for metric in result.get("metrics", []):
                value = metric.get("value")
                if not _is_word(metric.get("type")):
                    problems.append("model-index: a metric has no type")
                if isinstance(value, float) and not math.isfinite(value):
                    problems.append(f"model-index: the value of {metric.get('type')} is {value}")
                if value is None or isinstance(value, bool):
                    problems.append(f"model-index: {metric.get('type')} has no value")
    return problems


def _words(metadata: dict[str, Any], name: str) -> list[str]:
    value = metadata.get(name, [])
    return [item for item in (value if isinstance(value, list) else [value]) if _is_word(item)]


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
