/**
 * The worker of one model: it loads the engine and the file, generates and scores.
 *
 * A worker has one model for all its life. Another file gets a worker of its own, so a broken one
 * changes nothing for the model in use.
 */

import { loadEngine } from "./itera.js";
import { Aligned, pieceOf, Pieces } from "./pieces.js";

const TOP = 5; // likeliest tokens that are kept for each place
const REPORT_MS = 16; // between reports of a generation: a frame of the screen

/** @type {any} */
let model;
let stopped = false;
/** @type {Map<number, {text: string | null, hex: string}>} */
const piecesById = new Map();

const requests = { open, generate, stop, score, next };

self.onmessage = async ({ data: { id, type, values } }) => {
  try {
    const report = (/** @type {unknown} */ part) => self.postMessage({ id, part });
    self.postMessage({ id, result: await requests[type](values, report) });
  } catch (error) {
    self.postMessage({ id, error: error instanceof Error ? error.message : String(error) });
  }
};

/**
 * @param {{wasm: string, file: string | ArrayBuffer}} values base64 of the gzipped engine; a model,
 *   also in base64 where it comes from the page
 */
async function open({ wasm, file }) {
  const engineBytes = await gunzip(fromBase64(wasm));
  const bytes = typeof file === "string" ? fromBase64(file) : new Uint8Array(file);
  const begin = performance.now();
  const engine = await loadEngine(engineBytes);
  const loaded = performance.now();
  model = engine.load(bytes);
  return {
    info: model.info,
    kernels: engine.kernels,
    engineMs: loaded - begin,
    modelMs: performance.now() - loaded,
  };
}

/**
 * Writes until the text ends, or `stop` is asked for.
 * @param {{prompt: string, options: object}} values
 * @param {(part: {tokens: object[], sums: object}) => void} report
 */
async function generate({ prompt, options }, report) {
  stopped = false;
  const stream = model.start(prompt, { ...options, top: TOP });
  const aligned = new Aligned();
  const sums = { bits: 0, bytes: 0, tokens: 0, seconds: 0 };
  try {
    for (let going = true; going && !stopped; ) {
      const begin = performance.now();
      const tokens = [];
      while (going && performance.now() - begin < REPORT_MS) {
        const step = stream.next();
        going = step !== null;
        if (!step) break;
        const token = described(step.token, step);
        const raw = model.tokenBytes(step.token);
        sums.tokens += 1;
        sums.bytes += raw.length;
        sums.bits += token.bits ?? 0;
        tokens.push(...aligned.add({ ...token, raw }, step.text));
      }
      sums.seconds += (performance.now() - begin) / 1e3;
      report({ tokens, sums });
      await messages();
    }
    report({ tokens: aligned.rest(), sums });
    return { finishReason: stopped ? "stopped" : stream.finishReason };
  } finally {
    stream.free();
  }
}

function stop() {
  stopped = true;
}

/** @param {{text: string}} values */
function score({ text }) {
  const { bytes, tokens, bitsPerByte } = model.score(text, { top: TOP });
  const pieces = new Pieces();
  return {
    bytes,
    bitsPerByte,
    tokens: tokens.map((each) => ({ ...described(each.id, each), text: pieces.add(each.bytes) })),
  };
}

/** The likeliest tokens after a text. @param {{text: string}} values */
function next({ text }) {
  return likeliest(text).map(({ id, bytes, probability }) => ({ id, ...pieceOf(bytes), probability }));
}

/** @param {string} text @returns {{id: number, bytes: Uint8Array, probability: number}[]} */
function likeliest(text) {
  try {
    return model.top(text, TOP);
  } catch (error) {
    if (text === "") return []; // a file may name no token that begins a text
    throw error;
  }
}

/** A token as the page shows it. @param {number} id @param {any} values of the engine */
function described(id, { logProbability, top = [] }) {
  return {
    id,
    ...named(id),
    bits: logProbability === null ? null : -logProbability / Math.LN2,
    top: top.map((each) => ({
      id: each.id,
      ...named(each.id),
      probability: Math.exp(each.logProbability),
    })),
  };
}

/** @param {number} id */
function named(id) {
  let piece = piecesById.get(id);
  if (!piece) piecesById.set(id, (piece = pieceOf(model.tokenBytes(id))));
  return piece;
}

/** Lets the messages that have come be read, such as `stop`. @returns {Promise<void>} */
function messages() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** @param {string} text */
function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/**
 * Not through a Blob: WebKit reads none in the worker of a page from the disk.
 * @param {Uint8Array<ArrayBuffer>} bytes
 */
async function gunzip(bytes) {
  const stream = new DecompressionStream("gzip");
  const writer = stream.writable.getWriter();
  writer.write(bytes);
  writer.close();
  return new Uint8Array(await new Response(stream.readable).arrayBuffer());
}
