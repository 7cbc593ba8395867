"""What all the tests share: one thread, no network, no window, a cache of their own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before torch, matplotlib and huggingface_hub are imported: they read it only then.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Token shards go to a folder of this test run, and the user's own sets are not seen."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITERA_CACHE", str(folder))
        patch.delenv("ITERA_DATA", raising=False)
        yield folder
