/** Small helpers for the document. Text goes in as text nodes: nothing is ever parsed as HTML. */

import { strings } from "./strings.js";

/**
 * A new element.
 * @param {string} tag
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 */
export function create(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * The one element that fits; a missing one is a mistake in index.html.
 * @param {ParentNode} root
 * @param {string} selector
 * @returns {any}
 */
export function find(root, selector) {
  const element = root.querySelector(selector);
  if (!element) throw new Error(`index.html has no ${selector}`);
  return element;
}

/** Put the strings where index.html names them. @param {ParentNode} root */
export function fillStrings(root) {
  const words = /** @type {Record<string, any>} */ (strings);
  for (const element of /** @type {NodeListOf<HTMLElement>} */ (root.querySelectorAll("[data-text]"))) {
    element.textContent = words[element.dataset.text ?? ""];
  }
  for (const element of /** @type {NodeListOf<HTMLElement>} */ (root.querySelectorAll("[data-label]"))) {
    element.setAttribute("aria-label", words[element.dataset.label ?? ""]);
  }
}

/** @param {() => void} action @param {number} wait in ms, after the last call */
export function debounced(action, wait) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  };
}
