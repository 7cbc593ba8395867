/** A text as tokens: coloured by surprise, one stop of the Tab key, arrow keys from token to token. */

import { create } from "./dom.js";
import { strings } from "./strings.js";

/**
 * @typedef {{id: number, text: string | null, hex: string, probability: number}} Likely
 * @typedef {{id: number, text: string, hex: string, bits: number | null, top: Likely[]}} Token
 */

/** The least bits of the colours 1 to 5; the legend shows them. */
export const LEVELS = [0.5, 1, 2, 4, 8];

/** @param {number | null} bits */
export function levelOf(bits) {
  return bits === null ? 0 : LEVELS.filter((least) => bits >= least).length;
}

export class TokenText {
  /** @type {Token[]} */
  #tokens = [];
  /** @type {HTMLElement[]} */
  #spans = [];
  #chosen = -1; // the one that has the keyboard's focus, or had it last

  /**
   * @param {HTMLElement} element that holds the text
   * @param {string} describedBy id of the words about the token in focus
   * @param {(token: Token | null, index: number) => void} show called for the token pointed at
   */
  constructor(element, describedBy, show) {
    this.element = element;
    this.describedBy = describedBy;
    this.show = show;
    element.addEventListener("mouseover", (event) => this.#showAt(this.#indexOf(event.target)));
    element.addEventListener("mouseleave", () => this.#showAt(this.#chosen));
    element.addEventListener("focusin", (event) => this.#choose(this.#indexOf(event.target)));
    element.addEventListener("keydown", (event) => this.#move(event));
  }

  get tokens() {
    return this.#tokens;
  }

  /** Takes every token away. @param {string} before text that stands in front, uncoloured */
  clear(before = "") {
    this.#tokens = [];
    this.#spans = [];
    this.#chosen = -1;
    this.element.replaceChildren();
    if (before) this.element.append(create("span", { class: "before" }, before));
    this.show(null, -1);
  }

  /** @param {Token[]} tokens */
  add(tokens) {
    const spans = tokens.map((token, index) => this.#span(token, this.#spans.length + index));
    if (!this.#spans.length && spans.length) spans[0].tabIndex = 0;
    this.#tokens.push(...tokens);
    this.#spans.push(...spans);
    this.element.append(...spans);
  }

  /** Gives a token the keyboard's focus. @param {number} index */
  focus(index) {
    this.#choose(index);
    this.#spans[index].focus();
  }

  /** @param {Token} token @param {number} index */
  #span(token, index) {
    const [, space, rest] = /** @type {string[]} */ (/^(\s*)([^]*)$/.exec(token.text));
    const coloured = create("span", { class: "coloured" }, rest || space);
    const span = create("span", { class: "token", tabindex: "-1" }, rest ? space : "", coloured);
    span.dataset.index = String(index);
    span.dataset.level = String(levelOf(token.bits));
    if (token.bits !== null) span.dataset.bits = strings.bitsShort(token.bits);
    if (token.text === "") span.dataset.sign = token.hex ? "part" : "end";
    else if (/^\s*\n\s*$/.test(token.text)) span.dataset.sign = "line";
    return span;
  }

  /** @param {EventTarget | null} target */
  #indexOf(target) {
    const token = target instanceof Element ? target.closest(".token") : null;
    return token instanceof HTMLElement ? Number(token.dataset.index) : -1;
  }

  /** @param {number} index */
  #showAt(index) {
    if (index >= 0) this.show(this.#tokens[index], index);
  }

  /** @param {number} index */
  #choose(index) {
    if (index < 0) return;
    const before = this.#spans[Math.max(0, this.#chosen)];
    before.tabIndex = -1;
    before.removeAttribute("aria-describedby");
    this.#chosen = index;
    this.#spans[index].tabIndex = 0;
    this.#spans[index].setAttribute("aria-describedby", this.describedBy);
    this.#showAt(index);
  }

  /** @param {KeyboardEvent} event */
  #move(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.#chosen < 0) return;
    const last = this.#spans.length - 1;
    /** @type {Record<string, () => number>} */
    const targets = {
      ArrowRight: () => Math.min(last, this.#chosen + 1),
      ArrowLeft: () => Math.max(0, this.#chosen - 1),
      ArrowDown: () => this.#onNextLine(1),
      ArrowUp: () => this.#onNextLine(-1),
      Home: () => 0,
      End: () => last,
    };
    const target = targets[event.key]?.();
    if (target === undefined) return;
    event.preventDefault();
    this.focus(target);
  }

  /** The token on the line below or above that is nearest. @param {1 | -1} step */
  #onNextLine(step) {
    const word = (/** @type {number} */ index) => /** @type {HTMLElement} */ (this.#spans[index].lastChild);
    const { offsetTop: top, offsetLeft: left } = word(this.#chosen);
    let best = this.#chosen;
    let line = null;
    for (let i = this.#chosen + step; i >= 0 && i < this.#spans.length; i += step) {
      const { offsetTop, offsetLeft } = word(i);
      if (offsetTop === top) continue;
      line ??= offsetTop;
      if (offsetTop !== line) break;
      const isNearer = Math.abs(offsetLeft - left) < Math.abs(word(best).offsetLeft - left);
      if (best === this.#chosen || isNearer) best = i;
    }
    return best;
  }
}
