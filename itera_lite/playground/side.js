/** One model of the page: its file, its worker, its texts and its figures. */

import { Client, Ended } from "./client.js";
import { create, fillStrings, find } from "./dom.js";
import { Inspector } from "./inspector.js";
import { strings } from "./strings.js";
import { TokenText } from "./tokens.js";

const MOST_BYTES = 1e9; // of a file: an instance of the engine has at most 1 GiB

/**
 * What a model is opened from.
 * @typedef {{name: string, file: string | Blob, bytes: number}} Source
 */

export class Side {
  /** @type {Client | null} */
  #client = null;
  /** @type {Client | null} */
  #opening = null;
  /** @type {Source | null} */
  #source = null;
  /** @type {Promise<void>} */
  #generation = Promise.resolve();
  #isGenerating = false;
  /** @type {{prompt: string, options: any} | null} */
  #run = null;
  /** @type {{text: string, before: string} | null} */
  #wanted = null; // the newest text to score: older ones are left out
  #isScoring = false;
  /** @type {string | null} */
  #scored = null;
  /** bits per byte of the text that is scored, @type {number | null} */
  bitsPerByte = null;

  /**
   * @param {number} number of the side, for ids
   * @param {object} page
   * @param {{worker: string, wasm: string, model: Source | null}} page.parts of the file
   * @param {(text: string) => void} page.announce to screen readers
   * @param {(side: Side) => void} page.onOpen a model was opened
   * @param {() => void} page.onChange something began or ended
   * @param {(text: string) => void} page.onInsert a next token was chosen
   * @param {(side: Side) => void} page.onClose
   */
  constructor(number, page) {
    this.page = page;
    const template = find(document, "#side");
    this.element = template.content.cloneNode(true).firstElementChild;
    fillStrings(this.element);
    const part = (/** @type {string} */ selector) => find(this.element, selector);
    this.parts = {
      ...{ name: part(".model-name"), facts: part(".model-facts"), file: part("input[type=file]") },
      ...{ useOwn: part(".use-own"), close: part(".close"), about: part(".about") },
      ...{ rows: part(".about dl"), error: part(".error"), reason: part(".reason") },
      ...{ figures: part(".figures"), ending: part(".ending"), next: part(".next") },
      ...{ writing: part(".written"), scoring: part(".scored") },
    };
    this.parts.writing.dataset.empty = strings.writtenEmpty;
    this.parts.name.id = `model-${number}`;
    this.element.setAttribute("aria-labelledby", this.parts.name.id);

    const inspected = `inspected-${number}`;
    this.inspector = new Inspector(part(".inspector"), inspected);
    this.written = new TokenText(this.parts.writing, inspected, (token, index) => {
      if (!token) this.inspector.clear();
      else this.inspector.show(token, (likely) => this.#goOn(index, likely));
    });
    this.scored = new TokenText(this.parts.scoring, inspected, (token) => {
      if (!token) this.inspector.clear();
      else this.inspector.show(token, null);
    });

    this.parts.file.addEventListener("change", () => {
      const [file] = this.parts.file.files;
      if (file) this.openFile(file);
      this.parts.file.value = ""; // the same file may be chosen once more
    });
    this.parts.useOwn.addEventListener("click", () => this.openOwn());
    this.parts.close.addEventListener("click", () => page.onClose(this));
    part(".dismiss").addEventListener("click", () => this.#showError(null));
    this.#showModel();
  }

  get hasModel() {
    return this.#client !== null;
  }

  get isGenerating() {
    return this.#isGenerating;
  }

  get name() {
    return this.#source?.name ?? strings.noModel;
  }

  /** The text that `bitsPerByte` belongs to. */
  get scoredText() {
    return this.#scored;
  }

  /** Opens the model that is in the page. */
  openOwn() {
    if (this.page.parts.model) return this.open(this.page.parts.model);
  }

  /** @param {File} file */
  openFile(file) {
    return this.open({ name: file.name, file, bytes: file.size });
  }

  /**
   * Opens a model in a new worker; the old one stays in use until that has succeeded.
   * @param {Source} source
   */
  async open(source) {
    this.#opening?.end();
    this.#showError(null);
    const client = new Client(this.page.parts.worker);
    this.#opening = client;
    this.element.setAttribute("aria-busy", "true");
    this.parts.facts.textContent = strings.loading(source.name);
    try {
      if (source.bytes > MOST_BYTES) throw new Error(strings.tooLarge(source.bytes, MOST_BYTES));
      const file = typeof source.file === "string" ? source.file : await source.file.arrayBuffer();
      const loaded = await client.request("open", { wasm: this.page.parts.wasm, file });
      await this.stop();
      if (this.#opening !== client) return; // another file was opened meanwhile
      this.#client?.end();
      this.#client = client;
      this.#source = source;
      this.#clear();
      this.#showAbout(loaded);
      this.page.announce(strings.ready(source.name));
      this.page.onOpen(this);
    } catch (error) {
      if (this.#opening !== client) return;
      client.end();
      this.#showError(this.#broken(source, reasonOf(error)));
    }
    this.#opening = null;
    this.element.removeAttribute("aria-busy");
    this.#showModel();
  }

  /**
   * Goes on from a prompt, after what is running has ended.
   * @param {string} prompt
   * @param {any} options of the engine
   * @param {import("./tokens.js").Token[]} [kept] tokens that follow the prompt already
   */
  async generate(prompt, options, kept = []) {
    do await this.stop();
    while (this.#isGenerating); // another text may have begun meanwhile
    if (!this.#client) return;
    this.#generation = this.#generate(this.#client, prompt, options, kept);
    await this.#generation;
  }

  /** Ends what is being written, and waits until it has ended. */
  async stop() {
    if (this.#isGenerating) await this.#client?.request("stop");
    await this.#generation;
  }

  /**
   * Scores a text; of several that come while one is scored, only the last.
   * @param {string} text
   * @param {string} before the part of it that stands before the cursor
   */
  async score(text, before) {
    this.#wanted = { text, before };
    if (this.#isScoring) return;
    this.#isScoring = true;
    while (this.#wanted && this.#client) {
      const wanted = this.#wanted;
      this.#wanted = null;
      await this.#score(this.#client, wanted.text, wanted.before);
    }
    this.#isScoring = false;
  }

  end() {
    this.#opening?.end();
    this.#client?.end();
    this.#opening = this.#client = null;
  }

  async #generate(client, prompt, options, kept) {
    this.#run = { prompt, options };
    this.#isGenerating = true;
    this.parts.writing.classList.add("running");
    this.parts.ending.textContent = "";
    this.#showError(null);
    this.written.clear(prompt);
    this.written.add(kept);
    if (kept.length) this.written.focus(kept.length - 1); // the button that was pressed is gone
    this.page.onChange();
    /** @type {{bitsPerByte: number | null, speed: number | null, tokens: number}} */
    let figures = { bitsPerByte: null, speed: null, tokens: 0 };
    const show = ({ tokens, sums }) => {
      this.written.add(tokens);
      figures = figuresOf(sums);
      this.#showFigures(figures);
    };
    try {
      const whole = prompt + kept.map(({ text }) => text).join("");
      const ending = await client.request("generate", { prompt: whole, options }, show);
      this.parts.ending.textContent = strings.endings[ending.finishReason] ?? "";
      const { speed, bitsPerByte, tokens } = figures;
      const bits = bitsPerByte === null ? strings.none : strings.bitsPerByteValue(bitsPerByte);
      this.page.announce(strings.finished(this.name, tokens, speed ?? 0, bits));
    } catch (error) {
      this.#failed(error);
    } finally {
      this.#isGenerating = false;
      this.parts.writing.classList.remove("running");
      this.page.onChange();
    }
  }

  /** Goes on with another token than the one at `index`. */
  #goOn(index, likely) {
    if (!this.#run || !this.#client) return;
    const { tokens } = this.written;
    const chosen = { ...tokens[index], ...likely, bits: -Math.log2(likely.probability) };
    const { prompt, options } = this.#run;
    this.generate(prompt, options, [...tokens.slice(0, index), chosen]);
  }

  async #score(client, text, before) {
    try {
      if (text !== this.#scored) {
        if (text === "") this.#showScore(null);
        else this.#showScore(await client.request("score", { text }));
        this.#scored = text;
        this.page.onChange();
      }
      this.#showNext(await client.request("next", { text: before }));
    } catch (error) {
      this.#failed(error);
    }
  }

  #showScore(score) {
    this.scored.clear();
    this.bitsPerByte = score?.bitsPerByte ?? null;
    if (score) this.scored.add(score.tokens);
    this.#showFigures({
      bitsPerByte: this.bitsPerByte,
      bytes: score?.bytes ?? 0,
      tokens: score?.tokens.length ?? 0,
    });
  }

  /** The likeliest next tokens as buttons that put them into the text. */
  #showNext(likeliest) {
    const buttons = likeliest.map((likely) => {
      const name = strings.tokenName(likely);
      const share = create("small", {}, strings.probability(likely.probability));
      const action = create("span", { class: "unseen" }, strings.insert, " ");
      const button = create("button", { type: "button", class: "chip" }, action, name, " ", share);
      if (likely.text) button.addEventListener("click", () => this.page.onInsert(likely.text));
      else button.setAttribute("disabled", "");
      return create("li", {}, button);
    });
    this.parts.next.querySelector("ol").replaceChildren(...buttons);
    this.parts.next.hidden = buttons.length === 0;
  }

  #showFigures(values) {
    const score = "bytes" in values;
    const figures = [
      [strings.bitsPerByte, values.bitsPerByte, strings.bitsPerByteValue],
      score
        ? [strings.bytes, values.bytes, strings.count]
        : [strings.speed, values.speed, strings.speedValue],
      [strings.tokens, values.tokens, strings.count],
    ].map(([label, value, format]) =>
      create(
        ...["div", {}, create("dt", {}, label)],
        create("dd", {}, value === null ? strings.none : format(value)),
      ),
    );
    const target = score ? ".figures.of-score" : ".figures.of-write";
    find(this.element, target).replaceChildren(...figures);
  }

  #clear() {
    this.#run = null;
    this.#scored = null;
    this.bitsPerByte = null;
    this.written.clear();
    this.scored.clear();
    this.parts.ending.textContent = "";
    this.parts.next.hidden = true;
    this.#showFigures({ bitsPerByte: null, speed: null, tokens: 0 });
    this.#showFigures({ bitsPerByte: null, bytes: 0, tokens: 0 });
  }

  #showModel() {
    const { name, facts, about, useOwn } = this.parts;
    name.textContent = this.name;
    const { info } = this;
    const bytes = this.#source?.bytes ?? 0;
    facts.textContent = info ? strings.facts(info.parameters, bytes) : strings.openHint;
    about.hidden = !this.info;
    const { model } = this.page.parts;
    useOwn.hidden = !model || this.#source === model;
    this.element.classList.toggle("empty", !this.info);
  }

  #showAbout({ info, kernels, engineMs, modelMs }) {
    this.info = info;
    const words = strings.aboutRows;
    const rows = [
      [words.name, info.name || strings.none],
      [words.file, this.name],
      [words.architecture, info.architecture],
      [words.parameters, strings.count(info.parameters)],
      [words.vocabulary, strings.tokensOf(info.vocabSize)],
      [words.context, strings.tokensOf(info.context)],
      [words.size, strings.sizeOf(/** @type {Source} */ (this.#source).bytes)],
      [words.kernels, kernels],
      [words.loading, strings.loadTime(engineMs, modelMs)],
      ...info.notes.map((/** @type {string} */ note) => [words.note, note]),
    ];
    this.parts.rows.replaceChildren(
      ...rows.map(([label, value]) =>
        create("div", {}, create("dt", {}, label), create("dd", {}, value)),
      ),
    );
  }

  #broken(source, reason) {
    return strings.broken(source.name, reason, this.#client ? this.name : null);
  }

  #failed(error) {
    if (!(error instanceof Ended)) this.#showError(strings.failed(reasonOf(error)));
  }

  /** @param {string | null} message */
  #showError(message) {
    this.parts.error.hidden = message === null;
    this.parts.reason.textContent = message ?? "";
  }
}

/** @param {{bits: number, bytes: number, tokens: number, seconds: number}} sums of the worker */
function figuresOf({ bits, bytes, tokens, seconds }) {
  return {
    bitsPerByte: bytes ? bits / bytes : null,
    speed: seconds ? tokens / seconds : null,
    tokens,
  };
}

/** A message without the full stop at its end. @param {unknown} error */
function reasonOf(error) {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\.$/, "");
}
