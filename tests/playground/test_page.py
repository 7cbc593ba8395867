"""The page in Chromium: writes, scores, compares, with the engine's own numbers, for everybody."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from itera_lite.export.gguf import export_gguf
from itera_lite.files import gzipped
from itera_lite.playground import page as page_bytes
from tests.playground.node import run_portable
from tests.playground.tab import BOX_FILE, ENDLESS, MOST_TOKENS, Tab, greedy

AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"
PROMPT = "Once upon a time"
STORY = "One day, a dragon said: “Où est le café?” 🐉\n\nHe was sad."


def text_of(page: Any, where: str = ".written", side: int = 0) -> str:
    """The tokens' text of a side."""
    return page.evaluate(
        "([where, side]) => [...document.querySelectorAll('.side')[side]"
        ".querySelectorAll(`${where} .token`)].map((token) => token.textContent).join('')",
        [where, side],
    )


def set_control(page: Any, name: str, value: str) -> None:
    page.evaluate("document.querySelectorAll('details:not(.about)').forEach((d) => d.open = true)")
    page.fill(f"#control-{name}", value)


def begin(page: Any, prompt: str = PROMPT, **controls: object) -> None:
    """Have a text written: the same in every run, also where no seed is given."""
    page.evaluate(
        "() => { window.drawn ??= 6; crypto.getRandomValues = (values) => values.fill(++drawn); }"
    )
    for name, value in controls.items():
        set_control(page, name, str(value))
    page.fill("#prompt", prompt)
    page.click("#run")


def generate(page: Any, prompt: str = PROMPT, **controls: object) -> str:
    """The text that the first side writes."""
    begin(page, prompt, **controls)
    finished(page)
    return text_of(page)


def finished(page: Any) -> None:
    page.wait_for_function(
        "() => !document.querySelector('#run.running') &&"
        " [...document.querySelectorAll('.side:not(.empty) .ending')].every((e) => e.textContent)"
    )


def figures(page: Any, kind: str = "write", side: int = 0) -> dict[str, str]:
    shown = page.locator(".side").nth(side).locator(f".of-{kind} div")
    cells = [each.locator("dt, dd").all_inner_texts() for each in shown.all()]
    return dict(cells)


def score(page: Any, text: str) -> None:
    page.check("input[value=score]", force=True)
    page.fill("#scored-text", text)
    page.wait_for_function(
        "(text) => [...document.querySelectorAll('.side:not(.empty) .scored')].every((each) =>"
        " [...each.querySelectorAll('.token')].map((t) => t.textContent).join('') === text)",
        arg=text,
    )


def open_file(page: Any, name: str, data: bytes, side: int = 0) -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    page.locator("input[type=file]").nth(side).set_input_files(file)
    page.wait_for_function(
        "(side) => !document.querySelectorAll('.side')[side].hasAttribute('aria-busy')", arg=side
    )


@pytest.fixture(scope="module")
def other_model(tiny_pair: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small Transformer with random weights."""
    file = tmp_path_factory.mktemp("other") / "other.gguf"
    return export_gguf(tiny_pair["transformer_test"], "f16", file).path.read_bytes()


def test_the_greedy_text_is_the_native_engines(tab: Any) -> None:
    written = generate(tab, temperature=0, maxTokens=150)
    assert written == greedy(PROMPT, 150)
    shown = figures(tab)
    assert float(shown["tokens/s"].replace(",", "")) > 0
    assert 0 < float(shown["bits/byte"]) < 2
    assert shown["tokens"] == str(tab.locator(".written .token").count())


def test_the_text_streams(endless: Any) -> None:
    """It comes in many pieces, and the page answers meanwhile. Screen readers hear of the
    beginning and the end, not of every token."""
    endless.evaluate(
        "() => { const count = (name, selector) => { window[name] = 0;"
        " new MutationObserver(() => { window[name] += 1; }).observe("
        "document.querySelector(selector), {childList: true}); };"
        " count('pieces', '.written'); count('announced', '#status'); }"
    )
    begin(endless, **ENDLESS, maxTokens=MOST_TOKENS)
    endless.wait_for_function("() => window.pieces > 4")
    assert endless.evaluate("document.querySelector('#run.running') !== null")
    endless.keyboard.press("Escape")
    finished(endless)
    assert endless.evaluate("window.announced") == 2


@pytest.mark.parametrize("way", ["button", "key"])
def test_stop(endless: Any, way: str) -> None:
    begin(endless, **ENDLESS, maxTokens=MOST_TOKENS)
    endless.wait_for_function("() => document.querySelectorAll('.written .token').length > 20")
    if way == "button":
        endless.click("#run")
    else:
        endless.keyboard.press("Escape")
    finished(endless)
    assert endless.inner_text(".ending") == "Stopped."
    written = text_of(endless)
    endless.wait_for_timeout(100)
    assert text_of(endless) == written, "nothing comes after the stop"
    assert generate(endless, maxTokens=10), "the model can be used again"


def test_of_two_texts_at_once_the_later_is_written(endless: Any) -> None:
    """Ctrl+Enter twice, while another text is being written."""
    begin(endless, **ENDLESS, maxTokens=MOST_TOKENS)
    endless.wait_for_function("() => document.querySelectorAll('.written .token').length > 20")
    set_control(endless, "presencePenalty", "0")
    set_control(endless, "maxTokens", "40")
    endless.fill("#prompt", PROMPT)
    endless.evaluate(
        "() => { for (let i = 0; i < 2; i++) document.dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'Enter', ctrlKey: true})); }"
    )
    endless.wait_for_function(
        "() => document.querySelector('.before').textContent.startsWith('Once')"
    )
    finished(endless)
    assert text_of(endless) == greedy(PROMPT, 40)


def test_a_seed_gives_the_same_text_again(tab: Any) -> None:
    first = generate(tab, maxTokens=40)
    tab.click("#controls .link")
    assert generate(tab) == first
    assert generate(tab, seed=int(tab.input_value("#control-seed")) + 1) != first


def test_a_stop_text_ends_the_text_before_it(tab: Any) -> None:
    whole = generate(tab, temperature=0, maxTokens=100)
    cut = whole.index(".") + 1
    stop = whole[cut - 4 : cut + 3]
    assert generate(tab, stop=stop.replace("\n", "\\n")) == whole[: cut - 4]
    assert tab.inner_text(".ending") == "The text ended."


def test_the_models_advice_is_set_again(tab: Any) -> None:
    advised = tab.evaluate("document.querySelector('#control-temperature').value")
    for name, value in (("temperature", "1.5"), ("topK", "3"), ("stop", "x"), ("seed", "4")):
        set_control(tab, name, value)
    tab.click(".reset")
    values = [tab.input_value(f"#control-{name}") for name in ("temperature", "topK", "stop")]
    assert values == [advised, "0", ""]
    assert tab.input_value("#control-seed") == ""


def test_a_wrong_control_is_told_and_nothing_begins(tab: Any) -> None:
    set_control(tab, "maxTokens", "0")
    tab.click("#run")
    assert tab.evaluate("document.activeElement.id") == "control-maxTokens"
    assert text_of(tab) == ""


def test_scores_are_the_engines(tab: Any) -> None:
    """Bits per byte and each token's bits; characters that tokens cut are whole in the text."""
    native = """
(score,) = Model.load(given["path"]).score(given["text"], log_probabilities=True)
result = score.bits_per_byte, score.log_probabilities
"""
    expected, log_probabilities = run_portable(native, path=str(BOX_FILE), text=STORY)
    bits = [-value / math.log(2) for value in log_probabilities]
    score(tab, STORY)
    assert float(figures(tab, "score")["bits/byte"]) == pytest.approx(expected, abs=6e-4)
    shown = tab.eval_on_selector_all(".scored .token", "all => all.map(t => t.dataset.bits)")
    assert [float(each) for each in shown] == pytest.approx(bits, abs=0.051)


def test_typing_is_scored_live(tab: Any) -> None:
    score(tab, "Once upon a time")
    tab.focus("#scored-text")
    tab.keyboard.press("End")
    tab.keyboard.type(", there was", delay=10)
    tab.wait_for_function(
        "() => document.querySelector('.scored').textContent === 'Once upon a time, there was'"
    )
    # The likeliest tokens come after the score.
    tab.wait_for_function(
        "() => document.querySelector('.next button').textContent.includes('␣a ')"
    )
    tab.locator(".next button").first.click()
    assert tab.input_value("#scored-text") == "Once upon a time, there was a"


def test_colour_and_numbers_show_the_surprise(tab: Any) -> None:
    score(tab, "Once upon a time there was a hippopotamus.")
    tokens = tab.eval_on_selector_all(
        ".scored .token[data-bits]", "all => all.map(t => [+t.dataset.bits, +t.dataset.level])"
    )
    bounds = [0.5, 1, 2, 4, 8]
    for bits, level in tokens:
        near = any(abs(bits - bound) <= 0.051 for bound in bounds)
        assert near or level == sum(bits >= bound for bound in bounds)
    assert len({level for _, level in tokens}) > 2
    tab.check("#numbers")
    content = "getComputedStyle(document.querySelector('.scored .token'), '::after').content"
    assert re.fullmatch(r'"\d+\.\d"', tab.evaluate(content))


def test_the_likeliest_tokens_are_shown_and_can_be_taken(tab: Any) -> None:
    written = generate(tab, temperature=0, maxTokens=30)
    token = tab.locator(".written .token").nth(10)
    token.hover()
    shares = tab.locator(".inspector .share").all_inner_texts()
    values = [0.05 if share.startswith("<") else float(share.split()[0]) for share in shares]
    assert len(values) == 5 and values == sorted(values, reverse=True)
    own = tab.locator(".inspector li[aria-current] .name").inner_text()
    assert own == token.text_content().replace(" ", "␣"), "greedy: the first is the token"

    token.click()
    other = tab.locator(".inspector li:not([aria-current]) button").first
    name = other.locator(".name").inner_text()
    kept = "".join(tab.locator(".written .token").all_text_contents()[:10])
    other.click()
    finished(tab)
    again = text_of(tab)
    assert again.startswith(kept + name.replace("␣", " "))
    assert again != written and len(again) > len(kept) + len(name)


def test_a_broken_file_is_told_and_the_model_stays(tab: Any) -> None:
    data = BOX_FILE.read_bytes()
    open_file(tab, "cut.gguf", data[: len(data) // 2])
    told = tab.inner_text(".error")
    assert told.startswith("cut.gguf can’t be used: ")
    assert f"{BOX_FILE.name} stays in use." in told
    open_file(tab, "notes.txt", b"no model at all")
    assert "notes.txt can’t be used" in tab.inner_text(".error")
    assert tab.inner_text(".model-name") == BOX_FILE.name
    assert generate(tab, temperature=0, maxTokens=20) == greedy(PROMPT, 20)
    assert not tab.is_visible(".error")


def test_an_error_of_the_engine_is_told_and_the_model_goes_on(tab: Any) -> None:
    """A prompt that is longer than the context."""
    tab.fill("#prompt", "word " * 70_000)
    tab.click("#run")
    tab.wait_for_selector(".error:not([hidden])")
    assert "context" in tab.inner_text(".error")
    assert generate(tab, temperature=0, maxTokens=20) == greedy(PROMPT, 20)


@pytest.mark.parametrize("ending", [".gguf", ".gguf.gz"])
def test_a_file_of_ones_own(tab: Any, other_model: bytes, ending: str) -> None:
    packed = gzipped(other_model) if ending.endswith("gz") else other_model
    open_file(tab, "own" + ending, packed)
    assert tab.inner_text(".model-name") == "own" + ending
    tab.click(".about summary")
    about = tab.inner_text(".about")
    for told in ("llama", "wasm-simd128", f"{len(packed):,} bytes", " ms"):
        assert told in about
    assert generate(tab, maxTokens=20)
    tab.click(".use-own")
    tab.wait_for_function(
        "(n) => document.querySelector('.model-name').textContent === n", arg=BOX_FILE.name
    )


def test_a_file_is_dropped(tab: Any, other_model: bytes) -> None:
    tab.evaluate(
        "(bytes) => { const transfer = new DataTransfer();"
        " transfer.items.add(new File([new Uint8Array(bytes)], 'dropped.gguf'));"
        " for (const type of ['dragover', 'drop']) document.querySelector('.text').dispatchEvent("
        "new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true})); }",
        list(other_model),
    )
    tab.wait_for_function(
        "() => document.querySelector('.model-name').textContent === 'dropped.gguf'"
    )


def test_two_models(tab: Any, other_model: bytes) -> None:
    """Both write from one prompt and score one text, each with its own figures."""
    tab.click("#compare")
    open_file(tab, "other.gguf", other_model, side=1)
    assert generate(tab, temperature=0, maxTokens=40) == greedy(PROMPT, 40)
    assert text_of(tab, side=1) not in ("", text_of(tab))
    for side in (0, 1):
        shown = figures(tab, side=side)
        assert all(re.search(r"\d", value) for value in shown.values()), shown

    score(tab, "Once upon a time there was a dog.")
    tab.wait_for_selector("#verdict:not([hidden])")
    better, other = (float(figures(tab, "score", side)["bits/byte"]) for side in (0, 1))
    assert better < other
    percent = round(100 * (1 - better / other))
    assert re.match(
        rf"{BOX_FILE.name} needs {percent}(\.\d)? % fewer bits", tab.inner_text("#verdict")
    )
    tab.click("#compare")
    assert tab.locator(".side").count() == 1 and not tab.is_visible("#verdict")


def test_the_verdict_belongs_to_the_text_that_both_have_scored(
    tab: Any, other_model: bytes
) -> None:
    """The second model is slower with the second text."""
    verdict = "document.querySelector('#verdict').textContent"
    scored = "(text) => document.querySelector('.scored').textContent === text"
    tab.click("#compare")
    open_file(tab, "other.gguf", other_model, side=1)
    score(tab, "Once upon a time there was a dog.")
    before = tab.evaluate(verdict)
    tab.evaluate(
        "() => { const post = Worker.prototype.postMessage; let first; window.held = [];"
        " Worker.prototype.postMessage = function (data) {"
        " first ??= this;"
        " if (this === first || data.type !== 'score') post.call(this, data);"
        " else window.held.push(() => post.call(this, data)); }; }"
    )
    other = "Zebras quantise turbulent paradoxes."
    tab.fill("#scored-text", other)
    tab.wait_for_function(scored, arg=other)
    assert tab.evaluate(verdict) == before
    tab.wait_for_function("() => window.held.length")
    tab.evaluate("() => { for (const send of window.held) send(); }")
    score(tab, other)
    bits = [float(figures(tab, "score", side)["bits/byte"]) for side in (0, 1)]
    percent = round(100 * (1 - min(bits) / max(bits)))
    after = tab.evaluate(verdict)
    assert after != before and re.search(rf" {percent}(\.\d)? %", after)


def test_keyboard_alone(tab: Any) -> None:
    set_control(tab, "temperature", "0")
    tab.focus("#prompt")
    tab.keyboard.press("Control+A")
    tab.keyboard.type("The little dragon")
    tab.keyboard.press("Control+Enter")
    finished(tab)
    status = tab.inner_text("#status")
    assert re.search(r"\d tokens, .* bits per byte", status)

    def focused() -> Any:
        return tab.evaluate("document.activeElement.dataset.index ?? ''")

    for _ in range(40):
        tab.keyboard.press("Tab")
        if focused():
            break
    assert focused() == "0", "one stop of Tab for the whole text"
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert focused() == "2"
    line = "document.activeElement.lastChild.offsetTop"
    first = tab.evaluate(line)
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate(line) > first
    tab.keyboard.press("ArrowUp")
    assert tab.evaluate(line) == first
    tab.keyboard.press("End")
    last = tab.locator(".written .token").count() - 1
    assert int(focused()) == last
    tab.keyboard.press("Home")
    described = tab.evaluate(
        "document.getElementById(document.activeElement.getAttribute('aria-describedby'))"
        ".textContent"
    )
    assert re.match(r"\d+\.\d\d bits\. ", described)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.closest('.inspector') !== null")
    tab.keyboard.press("Enter")  # goes on with the likeliest
    finished(tab)


def test_a_texts_signs_are_no_html(tab: Any) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    generate(tab, prompt=evil, maxTokens=3)
    score(tab, evil)
    open_file(tab, "<b>evil</b>.gguf", b"nothing")
    assert tab.locator("img, main script, main b").count() == 0
    assert "<b>evil</b>.gguf" in tab.inner_text(".error")


def test_a_page_without_a_model_asks_for_one(
    browser: Any, tmp_path: Path, other_model: bytes
) -> None:
    file = tmp_path / "empty.html"
    file.write_bytes(page_bytes(None))
    opened = Tab(browser, file)
    page = opened.page
    assert page.is_disabled("#run")
    assert page.inner_text(".model-name") == "No model yet"
    open_file(page, "other.gguf", other_model)
    assert generate(opened.ready(), maxTokens=5)
    opened.close()


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: make programs")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, page_file: Path, scheme: str) -> None:
    """In all states: before and after writing, at a token, with an error, two models, scoring."""
    opened = Tab(browser, page_file, color_scheme=scheme)
    page = opened.ready()
    page.evaluate(AXE.read_text())

    def check(state: str) -> None:
        found = page.evaluate("async () => (await axe.run()).violations")
        problems = [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]
        assert problems == [], state

    check("start")
    generate(page, maxTokens=60)
    page.locator(".written .token").nth(5).click()
    page.locator(".about summary").click()
    check("written")
    page.click("#compare")
    open_file(page, "broken.gguf", b"nothing", side=1)
    check("two sides and an error")
    page.locator(".use-own").nth(1).click()
    page.wait_for_function("() => !document.querySelector('.side.empty')")
    page.check("#numbers")
    score(page, STORY)
    page.locator(".scored .token").nth(3).click()
    check("scored")
    opened.close()


@pytest.mark.parametrize("width", [360, 700])
def test_no_sideways_scrolling(browser: Any, page_file: Path, width: int) -> None:
    opened = Tab(browser, page_file, viewport={"width": width, "height": 740})
    page = opened.ready()

    def check() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    check()
    generate(page, maxTokens=60)
    page.locator(".written .token").nth(5).click()
    page.locator(".about summary").click()
    check()
    page.click("#compare")
    page.locator(".use-own").nth(1).click()
    page.wait_for_function("() => !document.querySelector('.side.empty')")
    score(page, "w" * 300)
    check()
    opened.close()


def test_dark_and_still(browser: Any, page_file: Path) -> None:
    """The user's wishes for dark colours and no movement are followed."""
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    for scheme, motion in (("light", "no-preference"), ("dark", "reduce")):
        opened = Tab(browser, page_file, color_scheme=scheme, reduced_motion=motion)
        page = opened.ready()
        assert (page.evaluate(lightness) < 60) == (scheme == "dark")
        animation = page.evaluate(
            "() => { const text = document.querySelector('.written');"
            " text.classList.add('running');"
            " return getComputedStyle(text, '::after').animationName; }"
        )
        assert (animation == "none") == (motion == "reduce")
        opened.close()
