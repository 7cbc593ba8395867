/**
 * Itera-Lite's engine in JavaScript: `itera.wasm` behind a few classes. Types: itera.d.ts.
 *
 *     const engine = await loadEngine(await (await fetch("itera.wasm")).arrayBuffer());
 *     const model = engine.load(new Uint8Array(await (await fetch("model.gguf")).arrayBuffer()));
 *     const text = model.start("Once upon a time");
 *     for (let step; (step = text.next()); ) console.log(step.text);
 *
 * Everything runs in the thread that calls it, in a browser or in node. Nothing is fetched.
 */

/** What the engine refuses, or can't do: the message says what was given and what was expected. */
export class IteraError extends Error {
  name = "IteraError";
}

/**
 * Compiles the engine, and checks its SIMD kernels against the portable ones, which are used where
 * they differ.
 * @param source the bytes of itera.wasm, or the response (or the promise of one) that brings them
 * @param {{kernels?: "wasm-simd128" | "portable"}} [options] kernels to use instead
 */
export async function loadEngine(source, { kernels = "" } = {}) {
  let bytes = await source;
  if (typeof Response !== "undefined" && bytes instanceof Response) {
    if (!bytes.ok) throw new IteraError(`the engine can't be fetched: status ${bytes.status}`);
    bytes = await bytes.arrayBuffer();
  }
  let module;
  try {
    module = await WebAssembly.compile(bytes);
  } catch (error) {
    throw new IteraError(
      `the engine can't be compiled: ${error.message}. Expected the bytes of itera.wasm, and a ` +
        "browser with WebAssembly SIMD (Chrome 91, Firefox 89, Safari 16.4 or newer)",
    );
  }
  const checked = new EngineInstance(module, kernels).call("check");
  const differing = checked.number();
  return new Engine(module, differing ? "portable" : checked.text());
}

/** The compiled engine. Make one with `loadEngine`. */
class Engine {
  #module;

  constructor(module, kernels) {
    this.#module = module;
    /** Those in use: "wasm-simd128" or "portable". */
    this.kernels = kernels;
  }

  /**
   * Reads a model.
   * @param {Uint8Array} bytes a file, .gguf or .gguf.gz; not to be changed while the model is used
   * @param {{context?: number}} [options] tokens that a text may have; by default the file's
   *     own context, at most 8,192
   */
  load(bytes, { context = 0 } = {}) {
    if (!(bytes instanceof Uint8Array)) {
      throw new IteraError("a model is loaded from a Uint8Array: expected the bytes of a GGUF file");
    }
    wholeNumber("context", context, 0, 1 << 24);
    return new LoadedModel(() => new EngineInstance(this.#module, this.kernels), bytes, context);
  }
}

/** A model. Make one with `Engine.load`; `free` gives its memory back. */
class LoadedModel {
  #make;
  #bytes;
  #context;
  #instance = null;

  constructor(make, bytes, context) {
    this.#make = make;
    this.#bytes = bytes;
    this.#context = context;
    this.info = this.#open();
  }

  /** The ids of a text's tokens. */
  tokenize(text) {
    const found = this.#call("tokenize", [textOf(text)]);
    return Int32Array.from({ length: found.number() }, () => found.number());
  }

  /** The text of ids; a character that is cut in two becomes U+FFFD. */
  detokenize(ids) {
    return this.#call("detokenize", [ids.length, ...ids]).text();
  }

  /** The bytes of one token; none of a control token. */
  tokenBytes(id) {
    return this.#call("detokenize", [1, id]).bytes();
  }

  /**
   * How probable the model finds a text: each token's log-probability, and the bits per byte of
   * all. The token that ends a document is scored, too, as the last.
   */
  score(text, { top = 0 } = {}) {
    wholeNumber("top", top, 0, 2 ** 31);
    const found = this.#call("score", [textOf(text), top]);
    const bytes = found.number();
    const tokens = Array.from({ length: found.number() }, () => {
      const token = { id: found.number(), bytes: found.bytes(), logProbability: found.number() };
      if (Number.isNaN(token.logProbability)) token.logProbability = null; // nothing predicts it
      return { ...token, top: found.likeliest() };
    });
    let [nats, scored] = [0, bytes];
    for (const token of tokens) {
      if (token.logProbability === null) scored -= token.bytes.length;
      else nats -= token.logProbability;
    }
    return { bytes, tokens, bitsPerByte: scored ? nats / Math.LN2 / scored : 0 };
  }

  /** The k likeliest tokens after a text. */
  top(text, k = 5) {
    wholeNumber("k", k, 1, 2 ** 31);
    return this.#call("top", [textOf(text), k])
      .likeliest()
      .map(({ id, logProbability }) => ({
        id,
        bytes: this.tokenBytes(id),
        probability: Math.exp(logProbability),
      }));
  }

  /** Begins a text that goes on from a prompt. Options that aren't given are the file's advice. */
  start(prompt = "", options = {}) {
    const advice = this.info.sampling;
    const penalised = options.repetitionPenalty !== undefined;
    const known = {
      maxTokens: 200,
      ...advice,
      repetitionWindow: penalised ? 64 : advice.repetitionWindow,
      presencePenalty: 0,
      frequencyPenalty: 0,
      seed: randomSeed(),
      stop: [],
      top: 0,
    };
    for (const name of Object.keys(options)) {
      if (!(name in known)) {
        throw new IteraError(`no option '${name}': expected ${Object.keys(known).join(", ")}`);
      }
      if (options[name] !== undefined) known[name] = options[name];
    }
    for (const name of ["maxTokens", "topK", "repetitionWindow", "top"]) {
      wholeNumber(name, known[name], name === "top" ? 0 : -(2 ** 31), 2 ** 31 - 1);
    }
    const real = ["temperature", "topP", "minP", "repetitionPenalty"];
    for (const name of [...real, "presencePenalty", "frequencyPenalty"]) {
      if (typeof known[name] !== "number") {
        throw new IteraError(`${name}=${known[name]}: expected a number`);
      }
    }
    const stops = (Array.isArray(known.stop) ? known.stop : [known.stop]).map(textOf);
    const opened = this.#call("start", [
      textOf(prompt),
      known.maxTokens,
      known.temperature,
      known.topK,
      known.topP,
      known.minP,
      known.repetitionPenalty,
      known.repetitionWindow,
      known.presencePenalty,
      known.frequencyPenalty,
      ...seedHalves(known.seed),
      known.top,
      stops.length,
      ...stops,
    ]);
    return new TextStream(this.#instance, opened.number());
  }

  /** Gives the memory back. The model, and texts that it writes, can't be used after that. */
  free() {
    this.#make = null;
    this.#instance?.close("the model was freed: load it again");
    this.#instance = this.#bytes = null;
  }

  #call(name, values) {
    if (!this.#make) throw new IteraError("the model was freed: load it again");
    if (!this.#instance || this.#instance.closed) this.#open();
    return this.#instance.call(name, values);
  }

  /** Loads the file into a new instance: at first, and after an error, which ends an instance. */
  #open() {
    const instance = this.#make();
    const found = instance.call("load", [this.#bytes, this.#context]);
    this.#instance = instance;
    const [name, architecture] = [found.text(), found.text()];
    const [parameters, vocabSize, context, fileBytes, beginToken, endToken] = found.numbers(6);
    const [temperature, topK, topP, minP, repetitionPenalty, repetitionWindow] = found.numbers(6);
    return {
      ...{ name, architecture, parameters, vocabSize, context, fileBytes, endToken },
      beginToken: beginToken < 0 ? null : beginToken,
      sampling: { temperature, topK, topP, minP, repetitionPenalty, repetitionWindow },
      notes: Array.from({ length: found.number() }, () => found.text()),
    };
  }
}

/** A text that is being written. Make one with `LoadedModel.start`; `free` gives its memory back. */
class TextStream {
  #instance;
  #place;
  /** "stop" or "length" once the text has ended, before that "". */
  finishReason = "";

  constructor(instance, place) {
    this.#instance = instance;
    this.#place = place;
  }

  /**
   * Writes one more token. `text` is what is ready: it may be empty where a character isn't whole
   * yet or a stop text may have begun.
   */
  next() {
    if (this.finishReason) return null;
    if (this.#instance === null) throw new IteraError("the text was freed: start it again");
    const found = this.#instance.call("next", [this.#place]);
    const [token, logProbability] = found.numbers(2);
    const top = found.likeliest();
    this.finishReason = ["", "length", "stop"][found.number()];
    const step = { text: found.text(), token, logProbability, top };
    const ended = found.number() === 1; // the token is the one that ends a document
    if (this.finishReason) this.free();
    return ended && !step.text ? null : step;
  }

  /** Gives the memory back; a text that has ended has done so. */
  free() {
    if (this.#instance !== null && !this.#instance.closed) {
      this.#instance.call("release", [this.#place]);
    }
    this.#instance = null;
  }
}

/** One instance of the engine. After an error it is closed: its objects may be half changed. */
class EngineInstance {
  static #encoder = new TextEncoder();
  static #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  /** Why it can't be called any more, or null. */
  closed = null;
  #exports;
  #messages = "";

  constructor(module, kernels) {
    const imports = { itera: {}, wasi_snapshot_preview1: this.#system(kernels) };
    imports.itera.raise = (at, bytes) => {
      throw new IteraError(EngineInstance.#decoder.decode(this.#memory(at, bytes)));
    };
    for (const { module: from, name } of WebAssembly.Module.imports(module)) {
      imports[from] ??= {};
      imports[from][name] ??= () => {
        throw new IteraError(`the engine called '${name}', which isn't there: this is a bug`);
      };
    }
    this.#exports = new WebAssembly.Instance(module, imports).exports;
    this.#exports._initialize();
  }

  /** Calls an export with numbers and texts; returns what reads its results. */
  call(name, values = []) {
    if (this.closed) throw new IteraError(this.closed);
    const parts = values.map((value) =>
      typeof value === "string" ? EngineInstance.#encoder.encode(value) : value,
    );
    const size = (part) => (typeof part === "number" ? 8 : 8 + Math.ceil(part.length / 8) * 8);
    try {
      let at = this.#exports.arguments(parts.reduce((sum, part) => sum + size(part), 0));
      const numbers = new DataView(this.#exports.memory.buffer);
      for (const part of parts) {
        const isNumber = typeof part === "number";
        numbers.setFloat64(at, isNumber ? part : part.length, true);
        if (!isNumber) this.#memory(at + 8, part.length).set(part);
        at += size(part);
      }
      this.#exports[name]();
      return new ResultReader(this.#exports.memory.buffer, this.#exports.result());
    } catch (error) {
      this.close(`an error ended this text: start it again (${error.message})`);
      if (error instanceof IteraError) throw error;
      const messages = this.#messages && `; ${this.#messages.trim()}`;
      throw new IteraError(`the engine stopped: ${error.message}${messages}`, { cause: error });
    }
  }

  close(reason) {
    this.closed ??= reason;
    this.#exports = null;
  }

  #memory(at, bytes) {
    return new Uint8Array(this.#exports.memory.buffer, at, bytes);
  }

  /** What the C library asks of the system. */
  #system(kernels) {
    const view = () => new DataView(this.#exports.memory.buffer);
    const variables = kernels ? [EngineInstance.#encoder.encode(`ITERA_ISA=${kernels}\0`)] : [];
    return {
      fd_write: (_file, pieces, count, written) => {
        let total = 0;
        for (let i = 0; i < count; i++) {
          const at = view().getUint32(pieces + 8 * i, true);
          const bytes = view().getUint32(pieces + 8 * i + 4, true);
          this.#messages += EngineInstance.#decoder.decode(this.#memory(at, bytes));
          total += bytes;
        }
        view().setUint32(written, total, true);
        return 0;
      },
      environ_sizes_get: (count, bytes) => {
        view().setUint32(count, variables.length, true);
        view().setUint32(bytes, variables.reduce((sum, each) => sum + each.length, 0), true);
        return 0;
      },
      environ_get: (pointers, texts) => {
        for (const each of variables) {
          view().setUint32(pointers, texts, true);
          this.#memory(texts, each.length).set(each);
          pointers += 4;
          texts += each.length;
        }
        return 0;
      },
      clock_time_get: (_clock, _precision, result) => {
        view().setBigUint64(result, BigInt(Math.round(performance.now() * 1e6)), true);
        return 0;
      },
      random_get: (at, bytes) => {
        globalThis.crypto.getRandomValues(this.#memory(at, bytes));
        return 0;
      },
      proc_exit: (code) => {
        throw new IteraError(`the engine stopped with code ${code}. ${this.#messages}`.trim());
      },
    };
  }
}

/** Reads the results of a call, in order; texts and bytes are copies. */
class ResultReader {
  static #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #view;
  #at;

  constructor(buffer, at) {
    this.#view = new DataView(buffer);
    this.#at = at;
  }

  number() {
    this.#at += 8;
    return this.#view.getFloat64(this.#at - 8, true);
  }

  numbers(n) {
    return Array.from({ length: n }, () => this.number());
  }

  bytes() {
    const length = this.number();
    const start = this.#at;
    this.#at += Math.ceil(length / 8) * 8;
    return new Uint8Array(this.#view.buffer.slice(start, start + length));
  }

  text() {
    return ResultReader.#decoder.decode(this.bytes());
  }

  likeliest() {
    return Array.from({ length: this.number() }, () => ({
      id: this.number(),
      logProbability: this.number(),
    }));
  }
}

function textOf(value) {
  if (typeof value !== "string") throw new IteraError(`expected a text, not ${typeof value}`);
  return value;
}

function wholeNumber(name, value, least, most) {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new IteraError(`${name}=${value}: expected a whole number from ${least} to ${most}`);
  }
}

function randomSeed() {
  const [low, high] = globalThis.crypto.getRandomValues(new Uint32Array(2));
  return (BigInt(high >>> 1) << 32n) | BigInt(low);
}

/** The lower and the upper 32 bits of a seed, a whole number or a BigInt from 0 to 2^63-1. */
function seedHalves(seed) {
  const whole = typeof seed === "bigint" || Number.isSafeInteger(seed) ? BigInt(seed) : -1n;
  if (whole < 0n || whole >= 1n << 63n) {
    throw new IteraError(`seed=${seed}: expected a whole number from 0 to 2^63-1`);
  }
  return [Number(whole & 0xffffffffn), Number(whole >> 32n)];
}
