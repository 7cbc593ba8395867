/** The page: modes, prompt, the two sides, shortcuts, files that are dropped. */

import { Controls } from "./controls.js";
import { create, debounced, fillStrings, find } from "./dom.js";
import { Side } from "./side.js";
import { strings } from "./strings.js";
import { LEVELS } from "./tokens.js";

const TYPING_MS = 150; // a text is scored when nothing was typed for so long
const ANNOUNCE_MS = 1500; // a score is announced when it stayed for so long
const MOST_SCORED = 16384; // characters: a longer text would keep the worker busy for seconds

const parts = readParts();
const runButton = find(document, "#run");
const prompt = find(document, "#prompt");
const scoredText = find(document, "#scored-text");
const scoredLimit = find(document, "#scored-limit");
const compareButton = find(document, "#compare");
const verdict = find(document, "#verdict");
const status = find(document, "#status");
const controls = new Controls(find(document, "#controls"));
/** @type {Side[]} */
const sides = [];
/** @type {"write" | "score"} */
let mode = "write";

function start() {
  fillStrings(document);
  document.title = strings.title;
  prompt.value = strings.exampleTexts[0];
  scoredText.value = strings.scoredFirst;
  showExamples();
  showLegend();
  listen();
  const narrow = matchMedia("(max-width: 56rem)");
  find(document, "details.controls").open = !narrow.matches;
  addSide().openOwn();
  showState();
}

/** What the file holds beside the page: the worker's program, the engine, perhaps a model. */
function readParts() {
  const text = (/** @type {string} */ selector) => find(document, selector).textContent.trim();
  const model = find(document, "#model");
  const file = text("#model");
  return {
    worker: text("#worker"),
    wasm: text("#engine"),
    model: file ? { name: model.dataset.name, file, bytes: Number(model.dataset.bytes) } : null,
  };
}

function listen() {
  for (const input of document.querySelectorAll("input[name=mode]")) {
    input.addEventListener("change", () => setMode(/** @type {any} */ (input).value));
  }
  runButton.addEventListener("click", () => (isGenerating() ? stop() : generate()));
  compareButton.addEventListener("click", () => (sides.length > 1 ? removeSide() : addSide()));
  find(document, "#numbers").addEventListener("change", ({ target }) =>
    document.body.classList.toggle("numbers", target.checked),
  );
  scoredText.addEventListener("input", debounced(score, TYPING_MS));
  document.addEventListener(
    "selectionchange",
    debounced(() => document.activeElement === scoredText && score(), TYPING_MS),
  );
  document.addEventListener("keydown", onKey);
  listenForFiles();
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && mode === "write") {
    event.preventDefault();
    generate();
  } else if (event.key === "Escape" && isGenerating()) {
    event.preventDefault();
    stop();
  }
}

function listenForFiles() {
  const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  const mark = (/** @type {Side | null} */ target) => {
    document.body.classList.toggle("dropping", target !== null);
    for (const side of sides) side.element.classList.toggle("target", side === target);
  };
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(sideAt(event.target));
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) mark(null);
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(null);
    const file = event.dataTransfer?.files[0];
    if (file) sideAt(event.target).openFile(file);
  });
}

/** The side that an element belongs to, else the first. @param {EventTarget | null} target */
function sideAt(target) {
  return sides.find(({ element }) => element.contains(target)) ?? sides[0];
}

function addSide() {
  const side = new Side(sides.length + 1, {
    parts,
    announce,
    onChange: showState,
    onInsert: insert,
    onOpen: (opened) => {
      if (opened === sides[0]) controls.advise(opened.info.sampling);
      if (mode === "score") score();
      showState();
    },
    onClose: removeSide,
  });
  sides.push(side);
  find(document, "#sides").append(side.element);
  showState();
  return side;
}

function removeSide() {
  const side = sides.pop();
  side?.end();
  side?.element.remove();
  showState();
  compareButton.focus();
}

/** @param {"write" | "score"} chosen */
async function setMode(chosen) {
  mode = chosen;
  document.body.dataset.mode = mode;
  for (const side of sides) side.inspector.clear();
  showState();
  await stop();
  if (mode === "score") score();
}

async function generate() {
  const options = controls.options();
  if (!options) return;
  announce(strings.generating);
  controls.offerSeed(options.seed);
  await Promise.all(sides.map((side) => side.generate(prompt.value, options)));
}

async function stop() {
  await Promise.all(sides.map((side) => side.stop()));
}

function isGenerating() {
  return sides.some((side) => side.isGenerating);
}

function score() {
  if (mode !== "score") return;
  const text = scoredText.value;
  scoredLimit.hidden = text.length <= MOST_SCORED;
  scoredLimit.textContent = strings.scoredLimit(MOST_SCORED);
  const scored = text.slice(0, MOST_SCORED);
  for (const side of sides) side.score(scored, scored.slice(0, scoredText.selectionEnd));
  announceScore();
}

/** Puts a token into the text that is scored, at the cursor. @param {string} text */
function insert(text) {
  scoredText.focus();
  scoredText.setRangeText(text, scoredText.selectionStart, scoredText.selectionEnd, "end");
  score();
}

const announceScore = debounced(() => {
  const scores = sides.filter(({ bitsPerByte }) => bitsPerByte !== null);
  if (mode !== "score" || !scores.length) return;
  announce(
    scores
      .map(({ name, bitsPerByte }) =>
        strings.scoredStatus(name, strings.bitsPerByteValue(/** @type {number} */ (bitsPerByte))),
      )
      .join(" "),
  );
}, ANNOUNCE_MS);

/** Gives a sentence to screen readers, where work begins or ends: never for each token. */
function announce(/** @type {string} */ text) {
  status.textContent = text;
}

/** Shows what may be pressed now, and which model is better. */
function showState() {
  const running = isGenerating();
  runButton.classList.toggle("running", running);
  find(runButton, ".label").textContent = running ? strings.stop : strings.run;
  find(runButton, "kbd").textContent = running ? strings.stopKeys : strings.runKeys;
  runButton.disabled = !sides.some(({ hasModel }) => hasModel);
  compareButton.setAttribute("aria-pressed", String(sides.length > 1));
  document.body.classList.toggle("comparing", sides.length > 1);
  for (const [index, side] of sides.entries()) side.parts.close.hidden = index === 0;
  showVerdict();
}

function showVerdict() {
  const scored = sides.filter(({ bitsPerByte }) => bitsPerByte !== null);
  // Where one side has scored a new text first, the verdict on the old one stays for the moment.
  if (mode === "score" && new Set(scored.map(({ scoredText }) => scoredText)).size > 1) return;
  const [best, other] = scored.sort(
    (one, two) => Number(one.bitsPerByte) - Number(two.bitsPerByte),
  );
  verdict.hidden = mode !== "score" || !other || best.bitsPerByte === other.bitsPerByte;
  if (verdict.hidden) return;
  const share = 1 - Number(best.bitsPerByte) / Number(other.bitsPerByte);
  verdict.textContent = strings.verdict(best.name, other.name, share);
}

function showExamples() {
  const buttons = strings.exampleTexts.map((text) => {
    const button = create("button", { type: "button", class: "chip" }, text);
    button.addEventListener("click", () => {
      prompt.value = text;
      generate();
    });
    return create("li", {}, button);
  });
  find(document, "#examples ol").append(...buttons);
}

function showLegend() {
  const swatches = [0, ...LEVELS].map((least, level) => {
    const words = strings.atLeast(least, level === LEVELS.length);
    const swatch = create("li", { class: "token" }, create("span", { class: "coloured" }, words));
    swatch.dataset.level = String(level);
    return swatch;
  });
  find(document, "#legend ol").append(...swatches);
}

start();
