/** The page's side of a worker: requests, answers, and parts of an answer on the way. */

import { strings } from "./strings.js";

/** A request that got no answer because its worker was ended. */
export class Ended extends Error {}

export class Client {
  /** @type {Map<number, {resolve: Function, reject: Function, onPart?: Function}>} */
  #waiting = new Map();
  #requests = 0;
  /** @type {Worker} */
  #worker;

  /** @param {string} source of the worker: no module, which a page from the disk couldn't start */
  constructor(source) {
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    this.#worker = new Worker(url);
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#rejectAll(new Error(event.message || strings.workerFailed));
    };
  }

  /**
   * @param {string} type one of the worker's `requests`
   * @param {object} values
   * @param {(part: any) => void} [onPart]
   * @returns {Promise<any>}
   */
  request(type, values = {}, onPart) {
    return new Promise((resolve, reject) => {
      const id = ++this.#requests;
      this.#waiting.set(id, { resolve, reject, onPart });
      this.#worker.postMessage({ id, type, values });
    });
  }

  end() {
    this.#worker.terminate();
    this.#rejectAll(new Ended());
  }

  #receive({ id, part, result, error }) {
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    if (part !== undefined) {
      waiting.onPart?.(part);
      return;
    }
    this.#waiting.delete(id);
    if (error === undefined) waiting.resolve(result);
    else waiting.reject(new Error(error));
  }

  /** @param {Error} error */
  #rejectAll(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
