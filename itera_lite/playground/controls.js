/** The controls of sampling, made from a table; their names are those of the engine's options. */

import { create, find } from "./dom.js";
import { strings } from "./strings.js";

/**
 * @typedef {object} Control
 * @property {string} name option of the engine
 * @property {"range" | "number" | "lines"} kind
 * @property {Record<string, string>} [limits] attributes of the input
 * @property {number | ""} [start] value where the model gives no advice
 */

/** @type {Control[]} */
const MAIN = [
  { name: "temperature", kind: "range", limits: { min: "0", max: "2", step: "0.01" }, start: 0.8 },
  { name: "topP", kind: "range", limits: { min: "0.01", max: "1", step: "0.01" }, start: 0.95 },
  { name: "maxTokens", kind: "number", limits: { min: "1", max: "100000", required: "" }, start: 200 },
  { name: "seed", kind: "number", limits: { min: "0", max: String(Number.MAX_SAFE_INTEGER) }, start: "" },
];

/** @type {Control[]} */
const MORE = [
  { name: "topK", kind: "number", limits: { min: "0", max: "1000000", required: "" }, start: 0 },
  { name: "minP", kind: "range", limits: { min: "0", max: "1", step: "0.01" }, start: 0 },
  {
    ...{ name: "repetitionPenalty", kind: "range", start: 1 },
    limits: { min: "0.5", max: "2", step: "0.01" },
  },
  {
    ...{ name: "repetitionWindow", kind: "number", start: 64 },
    limits: { min: "0", max: "1048576", required: "" },
  },
  {
    ...{ name: "presencePenalty", kind: "range", start: 0 },
    limits: { min: "-2", max: "2", step: "0.05" },
  },
  {
    ...{ name: "frequencyPenalty", kind: "range", start: 0 },
    limits: { min: "-2", max: "2", step: "0.05" },
  },
  { name: "stop", kind: "lines", start: "" },
];

export class Controls {
  /** @type {Record<string, any>} */
  #inputs = {};
  /** @type {Record<string, number>} */
  #advice = {};
  #seedButton = create("button", { type: "button", class: "link", hidden: "" });

  /** @param {HTMLFormElement} form */
  constructor(form) {
    this.form = form;
    find(form, ".main").append(...MAIN.map((control) => this.#row(control)));
    find(form, ".more").append(...MORE.map((control) => this.#row(control)));
    find(form, ".reset").addEventListener("click", () => this.reset());
    form.addEventListener("input", () => this.#showValues());
    this.reset();
  }

  /** Takes a model's advice, and shows it. @param {Record<string, number>} sampling */
  advise(sampling) {
    this.#advice = sampling;
    for (const [name, value] of Object.entries(sampling)) {
      const input = this.#inputs[name];
      if (input?.type !== "range") continue;
      input.min = String(Math.min(Number(input.min), value)); // a file may advise what is rare
      input.max = String(Math.max(Number(input.max), value));
    }
    this.reset();
  }

  /** Sets every control to the model's advice, or to its usual value. */
  reset() {
    for (const { name, start } of [...MAIN, ...MORE]) {
      this.#inputs[name].value = String(this.#advice[name] ?? start);
    }
    this.#showValues();
  }

  /** Shows the seed of a text, as a button that keeps it. @param {number} seed */
  offerSeed(seed) {
    this.#seedButton.hidden = this.#inputs.seed.value === String(seed);
    this.#seedButton.textContent = strings.keepSeed(seed);
    this.#seedButton.onclick = () => {
      this.#inputs.seed.value = String(seed);
      this.#seedButton.hidden = true;
      this.#inputs.seed.focus();
    };
  }

  /**
   * The options for the engine; null, and a message at the control, where one is out of its range.
   * A seed that isn't given is drawn.
   * @returns {Record<string, any> | null}
   */
  options() {
    const invalid = this.form.querySelector(":invalid");
    if (invalid) {
      const groups = [invalid.closest("details"), this.form.closest("details")];
      for (const group of groups) if (group) group.open = true;
      this.form.reportValidity();
      return null;
    }
    const options = Object.fromEntries(
      [...MAIN, ...MORE].map(({ name, kind }) => {
        const { value } = this.#inputs[name];
        return [name, kind === "lines" ? linesOf(value) : value === "" ? null : Number(value)];
      }),
    );
    options.seed ??= crypto.getRandomValues(new Uint32Array(1))[0];
    return options;
  }

  /** @param {Control} control */
  #row({ name, kind, limits = {} }) {
    const { label, hint, placeholder = "" } = strings.controls[name];
    const id = `control-${name}`;
    const common = { id, name, "aria-describedby": `${id}-hint`, autocomplete: "off" };
    const input =
      kind === "lines"
        ? create("textarea", { ...common, rows: "2", placeholder, spellcheck: "false" })
        : create("input", { ...common, type: kind, placeholder, ...limits });
    this.#inputs[name] = input;
    const head = create("div", { class: "head" }, create("label", { for: id }, label));
    if (kind === "range") head.append(create("output", { for: id }));
    if (name === "seed") head.append(this.#seedButton);
    return create(
      ...["div", { class: `control ${kind}` }, head, input],
      create("p", { id: `${id}-hint`, class: "hint" }, hint),
    );
  }

  #showValues() {
    for (const output of /** @type {NodeListOf<HTMLOutputElement>} */ (
      this.form.querySelectorAll("output")
    )) {
      output.value = this.#inputs[output.htmlFor.value.replace("control-", "")].value;
    }
  }
}

/** A text a line; `\n`, `\t` and `\\` stand for what can't be typed in one. @param {string} text */
export function linesOf(text) {
  /** @type {Record<string, string>} */
  const signs = { n: "\n", t: "\t", r: "\r", "\\": "\\" };
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.replace(/\\([ntr\\])/g, (_, sign) => signs[sign]));
}
