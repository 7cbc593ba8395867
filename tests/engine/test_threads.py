"""Several Python threads on one object, and threads that the system refuses to start."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from itera_lite.engine import Model
from itera_lite.errors import UsageError

# Each use of one object by many threads at once; the process must live and the object stay whole.
STRESS = """
import sys, threading
import numpy as np
from itera_lite import _engine
from itera_lite.engine import Model

sys.setswitchinterval(1e-5)
model = Model.load(sys.argv[1])

def many(work, n=6):
    failures = []
    def guarded():
        try:
            work()
        except Exception as error:
            failures.append(repr(error))
    threads = [threading.Thread(target=guarded) for _ in range(n)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not failures, failures[0]

options = {"max_tokens": 60, "temperature": 1.0, "seed": 5, "ignore_end": True}
alone = model.generate("he", log_probabilities=True, **options)

for _ in range(8):
    stream = model.generate("he", stream=True, log_probabilities=True, **options)
    pieces = []
    def read():
        for piece in stream:
            pieces.append(piece)
            stream.token_ids, stream.log_probabilities, stream.finish_reason
    many(read)
    assert sorted("".join(pieces)) == sorted(alone.text)
    assert stream.token_ids == alone.token_ids
    assert stream.log_probabilities == alone.log_probabilities

    raw = model.start("he", **options)
    def advance():
        while not raw.done:
            raw.next(); raw.tokens; raw.state().length
    many(advance)
    assert raw.tokens == alone.token_ids

    streams = [model.start("he", **options) for _ in range(3)]
    many(lambda: _engine.finish(streams))
    many(lambda: _engine.finish(streams[::-1]))
    assert all(s.tokens == alone.token_ids for s in streams)

    streams = [model.start("he", **options) for _ in range(5)]
    batch = model.batch()
    def step():
        while not all(s.done for s in streams):
            batch.step(streams)
            model.batch(3).step(streams[:2])
    many(step, 3)
    assert all(s.tokens == alone.token_ids and not s.error for s in streams)

    for run in (_engine.finish, lambda streams: model.batch().run(streams, 60.0)[0]):
        streams = [model.start("he", **options) for _ in range(3)]
        texts = []
        thread = threading.Thread(target=lambda: texts.extend(run(streams)))
        thread.start()
        streams.clear()  # they go on
        thread.join()
        assert len(texts) in (0, 3)  # 0: the list was empty already
        assert all(text.decode("utf-8", "replace") == alone.text for text in texts)

    completer = model.completer()
    expected = {text: completer.complete(text) for text in ("he", "the heat", "hea")}
    def complete():
        for text, found in expected.items():
            assert completer.complete(text) == found
            assert model.token_scores(model.tokenize(text))
    many(complete)

    state = model.state()
    def use():
        for _ in range(20):
            state.feed([104]); state.fork(); state.save(); len(state)
            model.logits([105], state)
            model.generate("e", state=state, max_tokens=1)
    many(use)
    assert len(state) == 6 * 20 * 2 + (model.bos_id is not None)
    model.restore(state.save())

    sampler = _engine.Sampler(16, temperature=1.0, repetition_penalty=1.2, seed=1)
    logits = np.arange(16, dtype=np.float32) / 10
    def draw():
        for _ in range(200):
            sampler.accept(sampler.sample(logits))
    many(draw)
print("whole")
"""


def test_many_threads_on_one_object_leave_it_whole(itera_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STRESS, str(itera_file)], capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr[-2000:]


def test_one_stream_twice_is_refused(engine: Model) -> None:
    from itera_lite import _engine

    stream = engine.start("a", max_tokens=3)
    with pytest.raises(UsageError, match="one stream twice"):
        _engine.finish([stream, stream])
    assert len(_engine.finish([stream])) == 1


def test_a_fresh_state_gets_its_beginning_once(engine: Model) -> None:
    """Of several threads that read at once only the first begins the document."""
    for _ in range(20):
        state = engine.state()
        threads = [threading.Thread(target=state.feed, args=([65],)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(state) == 5
    np.testing.assert_array_equal(
        state.feed([66]), engine.logits([engine.eot_id, *[65] * 4, 66])[-1]
    )


# A stack of a gigabyte for each thread, and no room for one.
WITHOUT_THREADS = """
import resource, sys
from itera_lite.engine import Model
model = Model.load(sys.argv[1], context=128)
texts = ["the heat of the hut"] * 40
one = model.score(texts)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (400 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
import threading
try:
    threading.Thread(target=print).start()
    print("a thread could be started")
except RuntimeError:
    pass
assert model.score(texts, threads=8) == one
print("whole")
"""


def test_threads_that_cannot_be_started_are_done_without(itera_file: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'ulimit -s 1000000 && exec "$@"', "sh",
         sys.executable, "-c", WITHOUT_THREADS, str(itera_file)],
        capture_output=True,
        text=True,
        timeout=600,
    )  # fmt: skip
    if "ulimit" in done.stderr or "a thread could be started" in done.stdout:
        pytest.skip("this system doesn't allow such limits")
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr[-2000:]
