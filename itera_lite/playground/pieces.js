/** The text of tokens, whose bytes may begin or end inside a character. */

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * A token alone: its text, or null where its bytes are no whole characters.
 * @param {Uint8Array} bytes
 * @returns {{text: string | null, hex: string}}
 */
export function pieceOf(bytes) {
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0").toUpperCase()).join(" ");
  try {
    return { text: strict.decode(bytes), hex };
  } catch {
    return { text: null, hex };
  }
}

/** Tokens one after another: a character that is cut in two belongs to the token that ends it. */
export class Pieces {
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  /** @param {Uint8Array} bytes */
  add(bytes) {
    return this.#decoder.decode(bytes, { stream: true });
  }
}

/**
 * Gives tokens out as far as the text goes that the engine has released: it holds back what may be
 * the beginning of a stop text, and a stop text is no part of the text.
 */
export class Aligned {
  #pieces = new Pieces();
  #decoded = 0; // characters of all tokens added
  #released = 0; // characters of the engine's text
  /** @type {{token: any, end: number}[]} */
  #held = [];

  /**
   * @param {any} token with its bytes as `raw`
   * @param {string} text that the engine released with it
   * @returns {any[]} tokens whose `text` is released as a whole
   */
  add({ raw, ...token }, text) {
    const own = this.#pieces.add(raw);
    this.#decoded += own.length;
    this.#released += text.length;
    this.#held.push({ token: { ...token, text: own }, end: this.#decoded });
    const ready = this.#held.findIndex(({ end }) => end > this.#released);
    return this.#held.splice(0, ready < 0 ? this.#held.length : ready).map((each) => each.token);
  }

  /** What is left at the end: a token that reaches into the stop text is cut. */
  rest() {
    return this.#held
      .splice(0)
      .map(({ token, end }) => {
        const beyond = Math.max(0, end - this.#released);
        return { ...token, text: token.text.slice(0, token.text.length - beyond), beyond };
      })
      .filter(({ text, beyond }) => text !== "" || beyond === 0)
      .map(({ beyond, ...token }) => token);
  }
}
