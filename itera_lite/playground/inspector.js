/** What the model expected at the place of a token: its surprise and the likeliest tokens. */

import { create } from "./dom.js";
import { strings } from "./strings.js";

/** @typedef {import("./tokens.js").Token} Token */
/** @typedef {import("./tokens.js").Likely} Likely */

export class Inspector {
  /**
   * @param {HTMLElement} element to draw in
   * @param {string} id of the hidden sentence that describes a token to screen readers
   */
  constructor(element, id) {
    this.element = element;
    this.summary = create("p", { id, class: "unseen" });
    this.clear();
  }

  clear() {
    this.summary.textContent = "";
    const hint = create("p", { class: "hint" }, strings.pointAtToken);
    this.element.replaceChildren(this.summary, hint);
  }

  /**
   * @param {Token} token
   * @param {((likely: Likely) => void) | null} choose called with the row that is pressed
   */
  show(token, choose) {
    const surprise = strings.bits(token.bits);
    this.summary.textContent = strings.tokenSummary(surprise, token.top);
    const facts = [
      create("strong", { class: "name" }, strings.tokenName(named(token))),
      create("span", { class: "surprise" }, surprise),
    ];
    if (token.bits !== null) facts.push(create("span", {}, strings.probability(2 ** -token.bits)));
    facts.push(create("span", {}, strings.tokenId(token.id)));
    const children = [this.summary, create("p", { class: "facts" }, ...facts)];
    if (token.top.length) {
      const rows = this.#rows(token).map((likely) => row(likely, likely.id === token.id, choose));
      const label = choose ? strings.likeliestChoose : strings.likeliest;
      children.push(create("ol", { "aria-label": label }, ...rows));
    }
    this.element.replaceChildren(...children);
  }

  /** The likeliest tokens, and the token itself where it isn't one of them. @param {Token} token */
  #rows(token) {
    if (token.bits === null || token.top.some(({ id }) => id === token.id)) return token.top;
    return [...token.top, { ...named(token), probability: 2 ** -token.bits }];
  }
}

/** The token with null for its text where it ends no character. @param {Token} token */
function named(token) {
  return { ...token, text: token.text === "" && token.hex ? null : token.text };
}

/**
 * @param {Likely} likely
 * @param {boolean} isOwn whether the text went on with it
 * @param {((likely: Likely) => void) | null} choose
 */
function row(likely, isOwn, choose) {
  const name = strings.tokenName(likely);
  const bar = create("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", String(likely.probability));
  const parts = [
    create("span", { class: "name" }, name),
    bar,
    " ",
    create("span", { class: "share" }, strings.probability(likely.probability)),
  ];
  const item = create("li", isOwn ? { "aria-current": "true" } : {});
  if (choose && likely.text) {
    const action = create("span", { class: "unseen" }, strings.goOnWith, " ");
    const button = create("button", { type: "button", class: "row" }, action, ...parts);
    button.addEventListener("click", () => choose(likely));
    item.append(button);
  } else {
    item.append(create("span", { class: "row" }, ...parts));
  }
  return item;
}
