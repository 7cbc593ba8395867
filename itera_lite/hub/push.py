"""Uploads a checkpoint to the Hugging Face Hub, with a model card, in one commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from itera_lite.checkpoint.folder import LAST
from itera_lite.checkpoint.hf import read_config
from itera_lite.checkpoint.weights import require_checkpoint
from itera_lite.config import ModelConfig
from itera_lite.engine.check import Checked, check
from itera_lite.errors import CheckpointError, HubError, IteraError, UsageError
from itera_lite.files import exists, folder_name
from itera_lite.hub.client import LOGIN, WEIGHTS, hub_errors, is_of_model
from itera_lite.records import Evaluation, Summary

CARD, RESULTS = "README.md", ".eval_results/itera.yaml"


@dataclass(frozen=True)
class Upload:
    """What a push would send.

    Attributes:
        files: path in the repository -> a file, or its content.
        own_card: whether the card is the folder's own README.md.
    """

    repository: str
    files: Mapping[str, Path | bytes]
    card: str
    own_card: bool
    checked: Checked


def prepare_upload(
    folder: Path,
    repository: str,
    results: Path,
    *,
    license: str | None,
    languages: tuple[str, ...],
    base_models: tuple[str, ...],
) -> Upload:
    """Check a checkpoint, and write its card; nothing is sent and no network is needed.

    A README.md of the user's in the folder is taken as the card; so is one that a push wrote, where
    there are no records to write it anew from. Only files of a model are uploaded: neither
    ``training_state`` nor anything else that lies in the folder.

    Args:
        results: folder of the records NAME_summary.json and NAME_eval.json.
        license: an identifier of the Hub; None where the folder has a card.
        languages: of the text; by default those of the folder's card, or of a named set.
        base_models: ids on the Hub; by default those of the folder's card.

    Raises:
        CheckpointError, ConfigError, ModelFileError: it isn't whole; see `check`.
        HubError: the card can't pass; lists everything that is wrong with it.
        UsageError: the folder's own card is taken, and an option is given that belongs in it.
        IteraError: a record is about another model.
    """
    from itera_lite.hub import card as cards
    from itera_lite.hub.card_check import card_problems, license_problem

    require_checkpoint(folder)
    checked = check(folder)
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted([*folder.iterdir(), *(folder / ".eval_results").glob("*.yaml")])
        if path.is_file() and is_of_model(path.relative_to(folder).as_posix())
    }
    text = ""
    if CARD in files:
        text = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    summary = evaluation = None
    if not text or cards.MARK in text:
        summary, evaluation = _records(folder, results, checked)
    own_card = bool(text) and summary is None and evaluation is None
    if own_card and (license or languages or base_models):
        raise UsageError(
            f"the card is '{folder / CARD}', which is taken as it is: write --license, --language "
            "and --base-model into it, or move it away, so that a card is written from the records"
        )
    if not own_card:
        before = cards.metadata_of(text)
        license = license or before.license
        if license is None:
            raise HubError(
                "no licence is given, and the card must name one: add --license, such as "
                "--license mit, or write your own README.md into the folder"
            )
        if problem := license_problem(license):
            raise HubError(problem)
        source = summary and summary.dataset and summary.dataset.source
        facts = cards.Facts(
            repository,
            checked,
            summary,
            evaluation,
            license,
            languages or before.languages or cards.languages_of(source),
            base_models or before.base_models,
        )
        text = cards.write_card(facts)
        files[CARD] = text.encode()
        files.pop(RESULTS, None)
        if (measured := cards.eval_results(facts)) is not None:
            files[RESULTS] = measured.encode()
    if problems := card_problems(text):
        where = f"'{folder / CARD}'" if own_card else "the card that was written"
        raise HubError(f"{where} can't pass on the Hub, so nothing is sent: {'; '.join(problems)}")
    return Upload(repository, files, text, own_card, checked)


def push(upload: Upload, *, private: bool) -> str:
    """Send what `prepare_upload` gave, as one commit; a repository is made where there is none.

    Files of weights that the repository has and the folder hasn't are removed in the same commit:
    they are of an older model. Other files there stay.

    Returns:
        The address of the commit.

    Raises:
        HubError: no token, no right, no network, or the Hub refuses the card. The repository is as
            it was before; a new one may be there, empty.
    """
    from huggingface_hub import (
        CommitOperationAdd,
        CommitOperationCopy,
        CommitOperationDelete,
        HfApi,
        ModelCard,
        get_token,
    )

    repository = upload.repository
    with hub_errors(repository):
        if get_token() is None:
            raise HubError(f"there is no token for the Hub, which a push needs. {LOGIN}")
        try:
            ModelCard(upload.card).validate()
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise HubError(f"the Hub refuses the card, so nothing is sent: {reason}") from None
        api = HfApi()
        api.create_repo(repository, private=private or None, exist_ok=True)
        there = api.list_repo_files(repository)
        old = [name for name in there if WEIGHTS.fullmatch(name) and name not in upload.files]
        operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
            *(CommitOperationAdd(name, given) for name, given in upload.files.items()),
            *(CommitOperationDelete(name) for name in old),
        ]
        info = api.create_commit(repository, operations, commit_message="Model by Itera-Lite")
    return str(info.commit_url)


def _records(
    folder: Path, results: Path, checked: Checked
) -> tuple[Summary | None, Evaluation | None]:
    """The records of this checkpoint; None where there is none.

    Raises:
        IteraError: one is damaged, or about another model.
    """
    name = folder_name(folder)
    shape = read_config(folder)
    trained = results / f"{name.removesuffix(LAST)}_summary.json"
    evaluated = results / f"{name}_eval.json"
    summary = Summary.read(trained) if exists(trained) else None
    evaluation = Evaluation.read(evaluated) if exists(evaluated) else None
    if summary is not None:
        _refuse_another(trained, summary.model.config, shape, "train")
        text = summary.dataset
        if text is not None and text.tokenizer_sha256 != checked.tokenizer_sha256:
            raise _another(trained, "has another tokenizer", "train")
    if evaluation is not None:
        _refuse_another(evaluated, evaluation.model.config, shape, "eval")
    return summary, evaluation


def _refuse_another(path: Path, found: ModelConfig | None, shape: ModelConfig, verb: str) -> None:
    if found is not None and found != shape:
        raise _another(path, "has another shape", verb)


def _another(path: Path, why: str, verb: str) -> IteraError:
    return CheckpointError(
        f"'{path}' is about another model of this name, which {why}: run `itera {verb}` again, "
        "name another folder with --results, or remove the file"
    )
