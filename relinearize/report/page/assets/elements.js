// Building blocks: elements, numbers, scales, the tooltip. Text always goes in as text, never as markup.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function make(namespace, tag, attributes, children) {
  const node = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) node.append(child);
  return node;
}
const el = (tag, attributes, ...children) => make(null, tag, attributes, children);
const svg = (tag, attributes, ...children) => make("http://www.w3.org/2000/svg", tag, attributes, children);
const MISSING = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const whole = (value) => (isNumber(value) ? Math.round(value).toLocaleString("en-US") : MISSING);
const percent = (value, digits = 2) => (isNumber(value) ? value.toFixed(digits) : MISSING);
const signed = (value, digits = 2) => (isNumber(value) ? (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(digits) : MISSING);
function share(kept, total) {
  const value = (100 * kept) / total;
  return value >= 10 || value === 0 ? value.toFixed(1) + " %" : value.toPrecision(2) + " %";
}
function short(count) {
  for (const [size, letter] of [[1e6, "M"], [1e3, "K"]]) {
    if (count >= size * 0.9995) return Number((count / size).toPrecision(3)) + letter;
  }
  return String(Number(count.toPrecision(3)));
}
function duration(seconds) {
  if (seconds < 59.95) return seconds.toFixed(1) + " s";
  const rounded = Math.round(seconds), minutes = Math.round(seconds / 60);
  if (rounded < 3600) return Math.floor(rounded / 60) + " min " + (rounded % 60) + " s";
  return Math.floor(minutes / 60) + " h " + (minutes % 60) + " min";
}
const compact = (value) => {
  if (!isNumber(value)) return MISSING;
  const size = Math.abs(value);
  if (size >= 10000) return short(value);
  return size !== 0 && size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(4)));
};

const significant = (value) => (isNumber(value) ? (value >= 100 ? whole(value) : String(Number(value.toPrecision(3)))) : MISSING);

function spread(values) {
  const known = values.filter(isNumber);
  if (!known.length) return null;
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  if (known.length === 1) return { mean, std: null, n: 1 };
  const squares = known.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, std: Math.sqrt(squares / (known.length - 1)), n: known.length };
}
const spreadText = (value, digits = 2) =>
  value ? value.mean.toFixed(digits) + (value.std === null ? "" : " ± " + value.std.toFixed(digits)) : MISSING;

function grouped(items, keyOf) { // key -> its items, in their order
  const groups = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(item);
  }
  return groups;
}

function linearTicks(low, high, most) {
  const raw = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw || 1));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw) || power;
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}
function logTicks(low, high, most) {
  let ticks = [];
  for (const steps of [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    ticks = [];
    for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade++)
      for (const step of steps) {
        const value = Number((step * 10 ** decade).toPrecision(12));
        if (value >= low && value <= high) ticks.push(value);
      }
    if (ticks.length <= most) return ticks;
  }
  const every = Math.ceil(ticks.length / most);
  return ticks.filter((_, index) => index % every === 0);
}
function scale(low, high, from, to, log) {
  const f = log ? (value) => Math.log10(Math.max(value, low)) : (value) => value;
  const a = f(low), b = f(high);
  return (value) => from + ((f(value) - a) / (b - a || 1)) * (to - from);
}

function segments(options, value, choose, label) {
  return el("div", { class: "segments", role: "group", "aria-label": label },
    options.map(([key, text]) => el("button", { type: "button", "aria-pressed": String(key === value), onclick: () => choose(key) }, text)));
}

// Attributes of what is opened by a click or by Enter.
const opening = (open) => ({ tabindex: 0, onclick: open, onkeydown: (event) => { if (event.key === "Enter") open(); } });
const grid = (attributes, head, rows) => el("table", attributes, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows));

// Sortable tables. direction: 1 up, -1 down, 0 where the rows do not stand in this column's order.
const sortingHead = (column, direction, sort, ...content) => el("th", {
  class: column.text ? "text" : null, scope: "col", ...opening(sort), title: column.hint || null, "aria-sort": direction ? (direction > 0 ? "ascending" : "descending") : null,
}, content);
const inOrder = (of, direction, ofEqual) => (a, b) => {
  const [left, right] = [of(a), of(b)];
  if (left === right) return ofEqual(a, b);
  if (left === null || left === undefined) return 1; // unknown values last, in either direction
  if (right === null || right === undefined) return -1;
  return (left < right ? -1 : 1) * direction;
};

const tip = {
  show(event, ...content) {
    const box = $("tip");
    box.replaceChildren(...content.flat(Infinity).filter((part) => part !== null));
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    const right = event.clientX + 16 + width < innerWidth;
    box.style.left = Math.max(6, right ? event.clientX + 14 : event.clientX - width - 14) + "px";
    box.style.top = Math.max(6, Math.min(event.clientY + 12, innerHeight - height - 6)) + "px";
  },
  hide() { $("tip").hidden = true; },
  rows: (pairs) => el("table", {}, el("tbody", {}, pairs.filter(Boolean).map(([name, value]) => el("tr", {}, el("td", {}, name), el("td", {}, value))))),
};
const KINDS = { test: "test", test_last: "last-epoch test", holdout: "hold-out" };
const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
const tinted = (colour, strength) => `rgba(${rgb(colour)},${strength.toFixed(3)})`;
const dot = (colour) => el("span", { class: "dot", style: { background: colour } });
