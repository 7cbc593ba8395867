/** Every word that the page shows, in one object: a translation replaces this file. */

const LOCALE = "en";

/** @param {number} value @param {number} digits of the fraction */
const number = (value, digits = 0) =>
  value.toLocaleString(LOCALE, { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** @param {number} share 0 to 1 */
const percent = (share) => {
  const hundredths = 100 * share;
  if (hundredths > 0 && hundredths < 0.1) return "< 0.1 %";
  return `${number(hundredths, hundredths < 9.95 ? 1 : 0)} %`;
};

/** @param {number} bytes */
const size = (bytes) =>
  bytes < 1e6 ? `${number(bytes / 1e3)} KB` : `${number(bytes / 1e6, bytes < 1e8 ? 1 : 0)} MB`;

/** @param {number} count */
const amount = (count) => (count < 1e6 ? number(count) : `${number(count / 1e6, 1)} M`);

/** Where it matters, white space is shown as signs. @param {string} text */
const visible = (text) =>
  text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\r", "␍").replaceAll("\t", "⇥");

/**
 * What a token stands for: its text, its bytes where they are no whole characters, or the end.
 * @param {{text: string | null, hex: string}} piece
 */
const token = ({ text, hex }) => {
  if (text === null) return `⟨${hex}⟩`;
  return text === "" ? "end of text" : visible(text);
};

export const strings = {
  title: "Itera-Lite playground",
  brand: "Itera-Lite",
  tagline: "A language model inside this page. Nothing that you type leaves it.",
  skip: "Skip to the text",

  entry: "Prompt or text",
  results: "Models and their texts",
  mode: "What to do",
  modeWrite: "Write",
  modeScore: "Score",

  prompt: "Prompt",
  promptHint: "The model goes on from here; an empty prompt begins a new text.",
  examples: "Try",
  exampleTexts: [
    "Once upon a time",
    "The little dragon",
    "“I have an idea!”",
  ],
  run: "Generate",
  runKeys: "Ctrl + Enter",
  stop: "Stop",
  stopKeys: "Esc",

  scored: "Your text",
  scoredHint: "Type or paste: each token is coloured by how much it surprises the model.",
  scoredFirst: "One day, a little girl named Lily found a shiny red ball in the library.",
  scoredLimit: (/** @type {number} */ limit) =>
    `Only the first ${number(limit)} characters are scored.`,
  nextHere: "Likeliest next at the cursor",
  insert: "Insert",

  legend: "Surprise in bits",
  atLeast: (/** @type {number} */ bits, /** @type {boolean} */ isLast) =>
    `${bits === 0.5 ? "½" : bits}${isLast ? "+" : ""}`,
  numbers: "Numbers",
  compare: "Compare two models",

  sampling: "Sampling",
  more: "More",
  reset: "Reset to the model’s advice",
  keepSeed: (/** @type {number} */ seed) => `keep ${seed}`,
  /** @type {Record<string, {label: string, hint: string, placeholder?: string}>} */
  controls: {
    temperature: {
      label: "Temperature",
      hint: "0 always takes the likeliest token; higher is more varied.",
    },
    topP: { label: "Top-p", hint: "Only the likeliest tokens that together reach this share." },
    maxTokens: { label: "Max tokens", hint: "Tokens to write at most." },
    seed: {
      label: "Seed",
      hint: "The same seed gives the same text; empty draws a new one.",
      placeholder: "new each time",
    },
    topK: { label: "Top-k", hint: "Only the k likeliest tokens; 0 means all." },
    minP: {
      label: "Min-p",
      hint: "Only tokens with at least this share of the likeliest token’s probability.",
    },
    repetitionPenalty: {
      label: "Repetition penalty",
      hint: "Above 1, tokens in the repetition window become less likely.",
    },
    repetitionWindow: {
      label: "Repetition window",
      hint: "The repetition penalty applies to so many of the last tokens.",
    },
    presencePenalty: {
      label: "Presence penalty",
      hint: "Above 0, tokens that were written already become less likely.",
    },
    frequencyPenalty: {
      label: "Frequency penalty",
      hint: "The same, once for each time that a token was written.",
    },
    stop: {
      label: "Stop texts",
      hint: "One a line; the text ends before it. \\n stands for a new line.",
      placeholder: "none",
    },
  },

  open: "Open a model…",
  openHint: "A .gguf or .gguf.gz file, chosen or dropped here; it stays on this device.",
  useOwn: "Take the model of this page",
  close: "Close",
  drop: "Drop a GGUF file on the model that it replaces",
  noModel: "No model yet",
  loading: (/** @type {string} */ name) => `Loading ${name} …`,
  ready: (/** @type {string} */ name) => `${name} is ready`,
  facts: (/** @type {number} */ parameters, /** @type {number} */ bytes) =>
    `${amount(parameters)} parameters, ${size(bytes)}`,
  broken: (
    /** @type {string} */ name,
    /** @type {string} */ reason,
    /** @type {string | null} */ kept,
  ) => `${name} can’t be used: ${reason}.${kept === null ? "" : ` ${kept} stays in use.`}`,
  failed: (/** @type {string} */ reason) => `That didn’t work: ${reason}.`,
  tooLarge: (/** @type {number} */ bytes, /** @type {number} */ limit) =>
    `it has ${size(bytes)}, a page can hold a model of ${size(limit)}`,
  dismiss: "Dismiss",
  workerFailed: "the engine’s worker couldn’t start; this browser may be too old",

  about: "About this model",
  aboutRows: {
    name: "Name",
    file: "File",
    architecture: "Architecture",
    parameters: "Parameters",
    vocabulary: "Vocabulary",
    context: "Context",
    size: "Size",
    kernels: "Kernels",
    loading: "Load time",
    note: "Note",
  },
  tokensOf: (/** @type {number} */ count) => `${number(count)} tokens`,
  sizeOf: (/** @type {number} */ bytes) => `${number(bytes)} bytes`,
  count: (/** @type {number} */ value) => number(value),
  loadTime: (/** @type {number} */ engine, /** @type {number} */ model) =>
    `${number(model)} ms (engine: ${number(engine)} ms)`,

  speed: "tokens/s",
  bitsPerByte: "bits/byte",
  tokens: "tokens",
  bytes: "bytes",
  speedValue: (/** @type {number} */ value) => number(value),
  bitsPerByteValue: (/** @type {number} */ value) => number(value, 3),
  none: "–",

  written: "Text of the model",
  scoredText: "Your text, token by token",
  writtenEmpty: "The text appears here.",
  pointAtToken: "Point at a token, or move to it with the arrow keys, to see what was likely there.",
  bits: (/** @type {number | null} */ value) =>
    value === null ? "not predicted" : `${number(value, 2)} bits`,
  bitsShort: (/** @type {number} */ value) => number(value, 1),
  probability: percent,
  tokenName: token,
  tokenId: (/** @type {number} */ id) => `token ${id}`,
  tokenSummary: (
    /** @type {string} */ surprise,
    /** @type {{text: string | null, hex: string, probability: number}[]} */ top,
  ) => `${surprise}. ${top.map((each) => `${token(each)} ${percent(each.probability)}`).join(", ")}`,
  goOnWith: "Go on with",
  likeliest: "Likeliest there",
  likeliestChoose: "Likeliest there: choose one to go on with it",

  generating: "Writing",
  finished: (
    /** @type {string} */ name,
    /** @type {number} */ tokens,
    /** @type {number} */ speed,
    /** @type {string} */ bits,
  ) => `${name}: ${number(tokens)} tokens, ${number(speed)} a second, ${bits} bits per byte.`,
  scoredStatus: (/** @type {string} */ name, /** @type {string} */ bits) =>
    `${name}: ${bits} bits per byte.`,
  endings: {
    stop: "The text ended.",
    length: "Cut at the most tokens.",
    stopped: "Stopped.",
  },
  verdict: (
    /** @type {string} */ better,
    /** @type {string} */ other,
    /** @type {number} */ share,
  ) => `${better} needs ${percent(share)} fewer bits for this text than ${other}.`,
  footer:
    "The same engine and file run on the command line, from Python and in a server: see the project’s docs.",
};
