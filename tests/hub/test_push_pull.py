"""Models are pushed to, and pulled from, a small server that stands in for the Hub."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from itera_lite.checkpoint.folder import load_checkpoint, save_checkpoint
from itera_lite.errors import HubError, OutputError
from itera_lite.hub.client import hub_errors
from tests.hub.conftest import Commands
from tests.hub_stand_in import READ, WRITE, Hub, Repository, running

NAME = "itera_lite_test"
PUSH = ["push", f"checkpoints/{NAME}", "me/stories", "--license", "mit"]
PULL = ["pull", "me/stories"]
SENT = {
    *("README.md", ".eval_results/itera.yaml", "config.json", "generation_config.json"),
    *("model.safetensors", "model-f32.gguf.gz", "model-f16.gguf"),
    *("tokenizer.json", "tokenizer_config.json"),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def whole(place: Callable[[str], Path]) -> Path:
    return place(NAME)


def test_what_is_pulled_is_what_was_pushed(
    hub: Hub, itera: Commands, whole: Path, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "other", *load_checkpoint(whole))
    dry, pushed, pulled, taken, replaced = itera(
        [*PUSH, "--dry-run"],
        (PUSH, WRITE),
        PULL,
        PULL,
        [*PULL, "--overwrite", "--out", "other"],
    )
    assert dry.code == 0, dry.err
    assert dry.out.startswith("---\n") and "\nlicense: mit\n" in dry.out
    assert pushed.code == 0, pushed.err
    sent = hub.models["me/stories"].files
    assert set(sent) == SENT
    assert not hub.models["me/stories"].private
    assert sent["README.md"].decode() + "\n" == dry.out
    (commit,) = hub.models["me/stories"].commits
    assert pushed.out.strip().endswith(f"/me/stories/commit/{commit[0]}")
    for name, content in contents(whole).items():
        ours = name != "notes.txt" and not name.startswith("training_state")
        assert (name in sent) == ours
        assert sent.get(name, content) == content
    assert pulled.code == 0, pulled.err
    assert contents(tmp_path / "checkpoints" / "stories") == sent
    assert "tensors" in pulled.out and "all finite" in pulled.out
    assert taken.code == 2 and "holds a model already: --overwrite" in taken.err
    assert replaced.code == 0, replaced.err
    assert contents(tmp_path / "other") == sent
    assert not list(tmp_path.rglob(".*.pull"))
    # Nothing was asked of the stand-in before the dry run had ended
    assert hub.requests[0] == "POST /api/validate-yaml"


def test_a_pull_into_the_folder_here_leaves_others_alone(
    hub: Hub, itera: Commands, whole: Path, tmp_path: Path
) -> None:
    hub.models["me/stories"] = Repository()
    hub.models["me/stories"].commit(contents(whole))
    (here := tmp_path / "stories").mkdir()
    number = here.stat().st_ino
    old, other = (tmp_path / f".{name}.{'0' * 12}.pull" for name in ("stories", "stories.v2"))
    old.mkdir()
    other.mkdir()
    (pulled,) = Commands(itera.variables, here)([*PULL, "--out", "."])
    assert pulled.code == 0, pulled.err
    assert set(contents(here)) == SENT - {"README.md", ".eval_results/itera.yaml"}
    assert here.stat().st_ino == number, "a shell that is in it sees the model"
    assert list(tmp_path.glob(".*.pull")) == [other], "its pull may be running"


def test_a_second_push_replaces_what_is_older_and_keeps_what_isnt_ours(
    hub: Hub, itera: Commands, whole: Path
) -> None:
    old = {"model-q4_0.gguf": b"old", "images/plot.png": b"mine", "README.md": b"old"}
    hub.models["me/stories"] = Repository(private=True)
    first = hub.models["me/stories"].commit(old)
    pushed, same, at_first = itera(
        (PUSH, WRITE), (PUSH, WRITE), (["pull", f"me/stories:{first}", "--out", "old"], READ)
    )
    assert pushed.code == same.code == 0, pushed.err + same.err
    files = hub.models["me/stories"].files
    assert set(files) == SENT | {"images/plot.png"}
    assert hub.models["me/stories"].private, "a push doesn't change who may see it"
    assert at_first.code == 1 and "model-q4_0.gguf" in at_first.err  # which is no GGUF file
    assert not (itera.folder / "old").exists() and not list(itera.folder.glob(".old*"))


def test_a_card_of_ones_own_is_taken_and_checked(hub: Hub, itera: Commands, whole: Path) -> None:
    own = "---\nlicense: apache-2.0\nlanguage: en\n---\n\n# Mine\n"
    (whole / "README.md").write_text(own)
    plain = PUSH[:3]
    (good,) = itera(([*plain, "--private"], WRITE))
    assert good.code == 0, good.err
    assert hub.models["me/stories"].files["README.md"].decode() == own
    assert hub.models["me/stories"].private
    hub.requests.clear()
    (whole / "README.md").write_text(own.replace("apache-2.0", "apache"))
    (bad,) = itera((plain, WRITE))
    assert bad.code == 1
    assert "license 'apache' is none of the Hub's identifiers" in bad.err
    assert "nothing is sent" in bad.err and hub.requests == []
    (whole / "README.md").unlink()
    hub.refusal = '"license" must be one of [mit]'
    without, refused = itera((plain, WRITE), ([*plain, "--license", "mit"], WRITE))
    assert without.code == 1 and "add --license" in without.err
    assert refused.code == 1 and 'the Hub refuses the card, so nothing is sent: "license"' in (
        refused.err
    )
    assert hub.requests == ["POST /api/validate-yaml"]


def test_errors_name_what_to_do(hub: Hub, itera: Commands, whole: Path, tmp_path: Path) -> None:
    hub.models["me/empty"] = Repository()
    hub.models["me/empty"].commit({"notes.txt": b"nothing"})
    hub.models["me/bert"] = Repository()
    bert = b'{"model_type": "bert"}'
    hub.models["me/bert"].commit({"config.json": bert, "model.safetensors": b"large"})
    (tmp_path / "checkpoints" / "mine").mkdir()
    (tmp_path / "checkpoints" / "mine" / "diary.txt").write_text("dear")
    cases: list[tuple[list[str] | tuple[list[str], str], int, str]] = [
        (PUSH, 1, "no token for the Hub, which a push needs. Set HF_TOKEN, or run: hf auth"),
        ((PUSH, "hf_wrong"), 1, "the Hub doesn't accept the token (Invalid credentials"),
        ((PUSH, READ), 1, "this token may not do that with 'me/stories'"),
        ([*PUSH[:2], "stories"], 2, "'stories': expected a model on the Hub, OWNER/NAME"),
        ([*PUSH[:2], "me/sto ries"], 2, "the Hub allows letters, digits"),
        ([*PUSH[:2], "me/a--b"], 2, "no '--' or '..'"),
        ([*PUSH[:2], "me/stories:v1"], 2, "leave out ':v1'"),
        ([*PUSH[:4], "mti"], 1, "Did you mean 'mit'?"),
        ([*PUSH, "--base-model", "tiny"], 2, "'tiny': expected a model on the Hub"),
        (["push", "nowhere", "me/stories"], 1, "no checkpoint at 'nowhere'"),
        (["pull", "me/nothing"], 1, "there is no model 'me/nothing' on the Hub, or it is private"),
        (["pull", "me/empty:v9"], 1, "'me/empty' has no revision 'v9' on the Hub"),
        (["pull", "me/empty"], 1, "holds neither a config.json nor a GGUF file"),
        (["pull", "me/bert"], 1, "model_type='bert'"),
        (["pull", "me/empty:"], 2, "OWNER/NAME:revision"),
        (["pull", "me/mine"], 2, "'checkpoints/mine' holds something that Itera-Lite didn't write"),
    ]  # fmt: skip
    before = contents(tmp_path)
    for (_, code, told), done in zip(cases, itera(*(case[0] for case in cases)), strict=True):
        assert (done.code, done.out) == (code, ""), (told, done.err)
        assert told in done.err and "Traceback" not in done.err
    now = contents(tmp_path)
    assert {name: now[name] for name in now if not name.startswith("hf/")} == before
    assert not [line for line in hub.requests if "commit" in line or "lfs" in line]


def test_no_network(itera: Commands, whole: Path) -> None:
    with running(Hub()) as address:
        pass  # nobody listens there any more
    itera.variables["HF_ENDPOINT"] = address
    offline = {**itera.variables, "HF_HUB_OFFLINE": "1"}
    for done in itera((PUSH, WRITE), PULL):
        assert done.code == 1 and "the Hub can't be reached for 'me/stories'" in done.err
    (done,) = Commands(offline, itera.folder)(PULL)
    assert done.code == 1 and "HF_HUB_OFFLINE is set" in done.err


def test_files_that_arrive_altered_are_refused(hub: Hub, itera: Commands, whole: Path) -> None:
    hub.altered = "tokenizer.json"
    pushed, pulled = itera((PUSH, WRITE), PULL)
    assert pushed.code == 0, pushed.err
    assert pulled.code == 1
    assert "'tokenizer.json' of 'me/stories' didn't arrive as the Hub lists it" in pulled.err
    assert not (itera.folder / "checkpoints" / "stories").exists()
    assert not list(itera.folder.rglob(".*.pull"))


def test_an_interrupted_pull_goes_on(hub: Hub, itera: Commands, whole: Path) -> None:
    (pushed,) = itera((PUSH, WRITE))
    assert pushed.code == 0, pushed.err
    hub.stall_at = "model.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-m", "itera_lite", *PULL],
        env=itera.variables,
        cwd=itera.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert hub.stalled.wait(600)
    finally:
        process.kill()
        process.wait()
    checkpoints = itera.folder / "checkpoints"
    assert not (checkpoints / "stories").exists(), "nothing half-written under its name"
    (work,) = checkpoints.glob(".stories.*.pull")
    assert (work / "config.json").is_file() and not (work / "model.safetensors").exists()
    hub.stall_at = None
    hub.requests.clear()
    (pulled,) = itera(PULL)
    assert pulled.code == 0, pulled.err
    assert contents(checkpoints / "stories") == hub.models["me/stories"].files
    assert not list(checkpoints.glob(".*"))
    got = [line.split("/")[-1] for line in hub.requests if "GET /me/stories/resolve" in line]
    assert "config.json" not in got, "what was there isn't sent again"
    assert any(line.startswith("model.safetensors") for line in got)


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.ENOSPC, OutputError, "can't be written: "),
        (errno.ECONNREFUSED, HubError, "the Hub can't be reached for 'me/stories'"),
    ],
)
def test_a_full_disk_is_not_the_network(number: int, kind: type[Exception], told: str) -> None:
    """Errors of the system in the Hub's client, which names no file."""
    pytest.importorskip("huggingface_hub")
    with pytest.raises(kind, match=f"{told}.*{os.strerror(number)}"), hub_errors("me/stories"):
        raise OSError(number, os.strerror(number))
