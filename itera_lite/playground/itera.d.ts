/** What the engine refuses, or can't do. */
export class IteraError extends Error {}

/** Compiles the engine, and checks its SIMD kernels against the portable ones. */
export function loadEngine(
  source: BufferSource | Response | Promise<BufferSource | Response>,
  options?: { kernels?: "wasm-simd128" | "portable" },
): Promise<Engine>;

export interface Engine {
  /** Those in use; portable where the others gave other numbers here. */
  readonly kernels: "wasm-simd128" | "portable";
  /**
   * Reads a model. Throws IteraError where the file is damaged, or of another kind.
   * @param bytes a file, .gguf or .gguf.gz. They are kept and must stay as they are: after an error
   *     the file is loaded again, by itself.
   * @param options context: tokens that a text may have; by default the file's own context, at
   *     most 8,192.
   */
  load(bytes: Uint8Array, options?: { context?: number }): Model;
}

export interface Sampling {
  /** 0 always takes the most probable token. */
  temperature: number;
  /** Only the k most probable tokens; 0 means all. */
  topK: number;
  /** Only the most probable tokens that together reach this probability. */
  topP: number;
  /** Only tokens with at least this share of the most probable one's probability. */
  minP: number;
  /** Above 1, makes tokens of the last `repetitionWindow` rarer. */
  repetitionPenalty: number;
  repetitionWindow: number;
}

export interface ModelInfo {
  name: string;
  architecture: "granitehybrid" | "llama";
  parameters: number;
  vocabSize: number;
  /** Tokens that a text may have. */
  context: number;
  fileBytes: number;
  /** The token that begins every document; null if the file has none. */
  beginToken: number | null;
  /** The token that ends every document. */
  endToken: number;
  /** The file's advice. */
  sampling: Sampling;
  /** What of the file is left out, a line each. */
  notes: string[];
}

export interface Likely {
  id: number;
  /** Natural logarithm, before sampling options. */
  logProbability: number;
}

export interface Score {
  /** Of the text in UTF-8. */
  bytes: number;
  /**
   * The text's tokens, and the one that ends a document. `logProbability` is null of a first token
   * that nothing predicts; its bytes count for nothing. `top`: the likeliest in its place.
   */
  tokens: { id: number; bytes: Uint8Array; logProbability: number | null; top: Likely[] }[];
  bitsPerByte: number;
}

export interface StartOptions extends Partial<Sampling> {
  /** By default 200. */
  maxTokens?: number;
  /** Subtracted from the logit of each token that was written after the prompt; -2 to 2. */
  presencePenalty?: number;
  /** The same, as often as the token was written. */
  frequencyPenalty?: number;
  /** 0 to 2^63-1: the same seed gives the same text. By default a random one. */
  seed?: number | bigint;
  /** Texts that end the text and aren't part of it. */
  stop?: string | string[];
  /** How many of the likeliest tokens each step has. */
  top?: number;
}

export interface Step {
  /** What is ready: whole characters, and nothing of a stop text. */
  text: string;
  token: number;
  logProbability: number;
  top: Likely[];
}

export interface Stream {
  /** One more token; null where the text has ended. */
  next(): Step | null;
  /** "" until the text has ended. */
  readonly finishReason: "" | "stop" | "length";
  free(): void;
}

/** After an IteraError texts that were being written can't go on; the model can be used. */
export interface Model {
  readonly info: ModelInfo;
  tokenize(text: string): Int32Array;
  detokenize(ids: ArrayLike<number> & Iterable<number>): string;
  tokenBytes(id: number): Uint8Array;
  score(text: string, options?: { top?: number }): Score;
  /** The k likeliest tokens after a text, by default 5. */
  top(text: string, k?: number): { id: number; bytes: Uint8Array; probability: number }[];
  start(prompt?: string, options?: StartOptions): Stream;
  free(): void;
}
