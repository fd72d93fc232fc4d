/* The script of the page: it draws the charts, shows times in the viewer's zone, sorts tables, and
 * keeps a live page current. Without it, or where a part of it fails, the page still says all: each
 * chart is there as a drawing (SVG), each number in a table. It asks nobody but the page's own
 * server for anything, and text from data is only ever set as text.
 *
 * A live page, which has an element `#connection`, asks its server for
 * - `events`: server-sent events named `state`, one at the start, one at each change and one each
 *   10 seconds or so: {"version": "…", "quiet_seconds": 12.5};
 * - `fragment?…`, with the page's own query: HTML with `<main data-version="…">` and `#figures`.
 */
"use strict";

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)$/;
const SHOWN_TIME = /(\d{4}-)?\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?/;
const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;
const QUIET_SECONDS = 120;
const SILENT_SECONDS = 45; // of a connection on which a state is due each 10 seconds
const RETRY_SECONDS = 3;
const HEIGHT = 280; // pixels, of a chart whose layout has none
const NARROW = 450; // pixels, where few times fit side by side
const HELP = "← → points, ↑ ↓ lines, + − zoom, 0 shows all";
const TEXTS = new Intl.Collator("en", { numeric: true }); // a2 comes before a10
const BESIDE = document.currentScript.src; // "" in a report, where this script is inline
const LIVE = document.getElementById("connection");

const plots = new Map(); // what is drawn: the id of a figure → Plot
let figures = Promise.resolve({}); // the id of a figure → its data and layout
let plotly = null; // a promise, once the first chart comes near

/* ---- The data and the library ---- */

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";
const VALUES = new Uint8Array(128).map((_, code) => DIGITS.indexOf(String.fromCharCode(code)));

/** Return the bytes of a `<script data-encoding="gzip-base85">`, as a response. */
function unpacked(element) {
  const text = element.textContent.trim();
  const padded = text.padEnd(5 * Math.ceil(text.length / 5), "~");
  const view = new DataView(new ArrayBuffer((padded.length / 5) * 4));
  for (let at = 0; at < padded.length; at += 5) {
    let value = 0;
    for (let one = at; one < at + 5; one += 1) value = 85 * value + VALUES[padded.charCodeAt(one)];
    view.setUint32((at / 5) * 4, value);
  }
  const bytes = new Uint8Array(view.buffer, 0, Math.floor((text.length * 4) / 5));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream);
}

async function readFigures() {
  const element = document.getElementById("figures");
  if (!element) return {};
  return element.dataset.encoding ? unpacked(element).json() : JSON.parse(element.textContent);
}

/** Return a URL of Plotly: what the page brings along, or the file beside this one. */
async function plotlyUrl() {
  const element = document.getElementById("plotly");
  if (!element) return new URL("plotly-basic.min.js", BESIDE).href;
  const text = await unpacked(element).text();
  return URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
}

/** Load Plotly, which then adds no style of its own to the page: a strict policy forbids that. */
async function loadPlotly() {
  // It adds its rules to the sheet that has this name.
  document.querySelector("link[rel=stylesheet], style").id = "plotly.js-style-global";
  const script = made("script", { src: await plotlyUrl() });
  document.head.append(script);
  await new Promise((resolve, reject) => {
    script.onload = resolve;
    script.onerror = () => reject(new Error("Plotly cannot be loaded"));
  });
  if (script.src.startsWith("blob:")) URL.revokeObjectURL(script.src);
  if (!globalThis.Plotly) throw new Error("Plotly is broken");
  return globalThis.Plotly;
}

/* ---- Times ---- */

/** Return a time in the viewer's zone: "2013-01-01 14:00:00". */
function local(date) {
  const shifted = new Date(date - date.getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 19).replace("T", " ");
}

/** Return what people call the viewer's zone at a time, such as "GMT+9". */
function zoneAt(date) {
  const parts = new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts(date);
  return parts.find((part) => part.type === "timeZoneName").value;
}

/** Show all times below an element in the viewer's zone, as exactly as they were. */
function showTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const date = new Date(element.dateTime);
    if (!ISO.test(element.dateTime) || isNaN(date)) continue;
    const text = element.textContent;
    element.title = `${element.dateTime.slice(0, 19).replace("T", " ").replace("Z", "")} UTC`;
    element.textContent = text
      .replace(SHOWN_TIME, (old, year, seconds) =>
        local(date).slice(year ? 0 : 5, seconds ? 19 : 16))
      .replace("UTC", zoneAt(date));
  }
  const zone = root.querySelector("#zone");
  const names = new Set([ZONE, zoneAt(new Date())]); // UTC has one name
  if (zone) zone.textContent = ` (times are in ${[...names].join(", ")})`;
}

/** Return the times among values as the viewer's clock shows them: Plotly knows no zones. */
function localTimes(values) {
  return values.map((one) => (ISO.test(one) ? local(new Date(one)) : one));
}

/** Change a figure whose x axis has times to the viewer's zone, and say so at the axis. */
function toZone(figure) {
  const axes = Object.keys(figure.layout).filter((key) => key.startsWith("xaxis"));
  const dated = axes.map((key) => figure.layout[key]).filter((axis) => axis.type === "date");
  if (!dated.length) return;
  for (const axis of dated) {
    if (axis.range) axis.range = localTimes(axis.range);
    const title = axis.title?.text ?? "time, UTC";
    axis.title = { ...axis.title, text: title.replace("UTC", ZONE) };
  }
  for (const trace of figure.data) if (trace.x) trace.x = localTimes(trace.x);
  for (const mark of [...(figure.layout.shapes ?? []), ...(figure.layout.annotations ?? [])]) {
    for (const key of ["x", "x0", "x1"]) if (key in mark) [mark[key]] = localTimes([mark[key]]);
  }
}

/* ---- Charts ---- */

const made = (tag, more) => Object.assign(document.createElement(tag), more);

/** Return a figure as it is drawn: in the page's colours and type, and in the viewer's zone. */
function dressed(figure, revision, width) {
  const { data, layout } = structuredClone(figure);
  toZone({ data, layout });
  const style = getComputedStyle(document.documentElement);
  const [text, grid, muted, back] = ["--text", "--grid", "--muted", "--back"]
    .map((name) => style.getPropertyValue(name).trim());
  const font = { color: text, family: getComputedStyle(document.body).fontFamily, size: 13 };
  delete layout.title; // it is the caption
  for (const key of new Set(["xaxis", "yaxis", ...Object.keys(layout)])) {
    if (!/^[xy]axis\d*$/.test(key)) continue;
    const colours = { gridcolor: grid, zerolinecolor: grid, linecolor: muted, tickcolor: muted };
    const axis = { ...layout[key], automargin: true, ...colours };
    if (axis.title) axis.title = { ...axis.title, font: { size: 12 } };
    if (width < NARROW) axis.tickfont = { size: 11 };
    if (axis.type === "date" && width < NARROW) Object.assign(axis, { nticks: 4, tickangle: 0 });
    layout[key] = axis;
  }
  const shown = layout.showlegend ?? data.length > 1;
  return {
    data,
    layout: {
      ...layout,
      autosize: true,
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls
      font,
      hoverlabel: { bgcolor: back, bordercolor: muted, font, namelength: -1 },
      margin: { l: 48, r: 12, t: shown ? 40 : 12, b: 40 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      uirevision: revision,
    },
  };
}

/** A chart on the page, in place of its drawing. */
class Plot {
  constructor(element, figure, library) {
    Object.assign(this, { element, figure, library });
    this.revision = 1; // while it stays, Plotly keeps what the viewer has set
    this.at = null; // the point that the keyboard is at
    this.box = made("div", { className: "plot", tabIndex: 0, role: "application" });
    this.graph = made("div", { ariaHidden: "true" });
    this.reading = made("p", { className: "reading", ariaLive: "polite" });
    this.whole = made("button", { type: "button", textContent: "Show all", hidden: true });
    this.box.ariaRoleDescription = "chart";
    this.box.append(this.graph, this.reading, this.whole);
    this.whole.addEventListener("click", () => this.showAll());
    this.box.addEventListener("keydown", (event) => this.press(event));
    this.box.addEventListener("focus", () => this.say(HELP));
    this.box.addEventListener("blur", () => this.leave());
  }

  async draw() {
    this.element.append(this.box);
    this.element.dataset.drawn = "";
    this.graph.style.height = `${this.figure.layout.height ?? HEIGHT}px`;
    const { data, layout } = dressed(this.figure, this.revision, this.box.clientWidth);
    const config = { displayModeBar: false, doubleClick: false, responsive: true };
    await this.library.newPlot(this.graph, data, layout, config);
    this.graph.on("plotly_doubleclick", () => this.showAll());
    this.graph.on("plotly_relayout", (change) => {
      const zoomed = Object.keys(change).some((key) => /^[xy]axis\d*\.range/.test(key));
      if (zoomed) this.whole.hidden = false;
    });
    this.describe();
  }

  /** Draw it again: with new data, or as the page looks now. What is zoomed stays so. */
  async redraw(figure = this.figure) {
    this.figure = figure;
    this.graph.style.height = `${figure.layout.height ?? HEIGHT}px`;
    const { data, layout } = dressed(figure, this.revision, this.box.clientWidth);
    if (!this.whole.hidden) {
      for (const key of Object.keys(layout)) {
        const range = this.graph.layout[key]?.range;
        if (/^[xy]axis/.test(key) && range) Object.assign(layout[key], { range, autorange: false });
      }
    }
    await this.library.react(this.graph, data, layout);
    this.describe();
  }

  showAll() {
    if (document.activeElement === this.whole) this.box.focus();
    this.whole.hidden = true;
    this.revision += 1;
    return this.redraw();
  }

  /** Put the drawing back. */
  fail() {
    delete this.element.dataset.drawn;
    this.library.purge(this.graph);
    this.box.remove();
  }

  describe() {
    const caption = this.element.querySelector("figcaption").textContent;
    this.box.ariaLabel = `${caption}. ${this.figure.layout.meta?.description ?? ""}`;
  }

  say(text) {
    this.reading.textContent = text;
  }

  leave() {
    this.say("");
    this.at = null;
    this.library.Fx.unhover(this.graph);
  }

  press(event) {
    const actions = {
      ArrowLeft: () => this.go(-1),
      ArrowRight: () => this.go(1),
      ArrowUp: () => this.go(0, -1),
      ArrowDown: () => this.go(0, 1),
      "+": () => this.zoom(0.5),
      "-": () => this.zoom(2),
      0: () => this.showAll(),
      Escape: () => this.leave(),
    };
    const action = actions[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target !== this.box) return; // the button within
    event.preventDefault();
    action();
  }

  /** Return the lines that can be read: of each, its points as [number of trace, of point]. */
  lines() {
    const points = ({ x, y, hoverinfo, visible }, trace) =>
      !x || !y || hoverinfo === "skip" || visible === "legendonly"
        ? []
        : [...x.keys()].filter((at) => x[at] !== null && y[at] !== null).map((at) => [trace, at]);
    return this.graph.data.map(points).filter((line) => line.length);
  }

  /** Go along the line, at first to its last point; `turn` lines further, to the point beside. */
  go(step, turn = 0) {
    const lines = this.lines();
    if (!lines.length) return;
    const [trace, point] = this.at ?? [lines[0][0][0], Infinity];
    const old = Math.max(lines.findIndex((line) => line[0][0] === trace), 0);
    const line = lines[(old + turn + lines.length) % lines.length];
    const beside = line.findIndex((one) => one[1] >= point);
    const next = beside < 0 ? line.length - 1 : beside + step;
    this.read(line[Math.min(Math.max(next, 0), line.length - 1)]);
  }

  /** Show a point as if the mouse were there, and say what stands there. */
  read(point) {
    this.at = point;
    const [curveNumber, pointNumber] = point;
    this.library.Fx.unhover(this.graph); // or Plotly would wait before it shows the next one
    this.library.Fx.hover(this.graph, [{ curveNumber, pointNumber }]);
    const trace = this.graph.data[curveNumber];
    const shown = [...this.graph.querySelectorAll(".hoverlayer text")].map((text) => {
      const lines = [...text.querySelectorAll("tspan.line")];
      return lines.length ? lines.map((line) => line.textContent).join(", ") : text.textContent;
    });
    const beyond = `${trace.x[pointNumber]}, ${trace.y[pointNumber]}`; // of what is shown: zoomed
    this.say(shown.filter(Boolean).join(", ") || beyond);
  }

  /** Show less or more of the x axis, around the point or the middle. */
  async zoom(factor) {
    const axis = this.graph._fullLayout.xaxis;
    const [low, high] = axis.range.map((end) => axis.r2l(end));
    const point = this.at && this.graph.data[this.at[0]].x[this.at[1]];
    const place = this.at ? axis.d2l(point) : NaN;
    const middle = place >= low && place <= high ? place : (low + high) / 2;
    const half = ((high - low) * factor) / 2;
    const range = [middle - half, middle + half].map((end) => axis.l2r(end));
    await this.library.relayout(this.graph, { "xaxis.range": range });
    if (this.at) this.read(this.at); // it has moved
  }
}

/** Draw a figure in place of its drawing; if that fails, the drawing stays. */
async function draw(element) {
  const id = element.dataset.figure;
  let plot = null;
  try {
    const figure = (await figures)[id];
    plotly ??= loadPlotly();
    const library = await plotly;
    if (!figure || plots.has(id) || !element.isConnected) return;
    plot = new Plot(element, figure, library);
    plots.set(id, plot);
    await plot.draw();
  } catch (error) {
    plots.delete(id);
    plot?.fail();
    console.warn(`${id} stays a drawing: ${error.message}`);
  }
}

const nearby = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    nearby.unobserve(target);
    draw(target);
  }
}, { rootMargin: "400px" });

/** Draw what comes near, again what has changed, and forget what is gone. */
async function showCharts() {
  figures = readFigures();
  const now = await figures.catch(() => ({})); // who draws the first chart tells
  for (const [id, plot] of plots) {
    if (!plot.element.isConnected || !(id in now)) {
      plots.delete(id);
      plot.fail();
    } else if (JSON.stringify(plot.figure) !== JSON.stringify(now[id])) {
      plot.redraw(now[id]);
    }
  }
  for (const element of document.querySelectorAll("figure.chart:not([data-drawn])")) {
    nearby.observe(element);
  }
}

/* ---- Tables ---- */

/** Give the heads of tables buttons that sort by their column. */
function addButtons(root) {
  for (const head of root.querySelectorAll("table.sortable thead th")) {
    if (head.querySelector("button")) continue;
    const button = made("button", { type: "button" });
    button.append(...head.childNodes);
    head.append(button);
  }
}

/** Return what a cell of a column is sorted by: a number, or a text; null without either. */
function sortValue(cell, head) {
  const number = parseFloat(cell.textContent.replaceAll(",", "")); // an interval may follow
  if (head.classList.contains("number")) return isNaN(number) ? null : number;
  return cell.querySelector("time")?.dateTime ?? cell.textContent.trim();
}

/** Sort the rows of a table by the column whose head says so; what has no value comes last. */
function sortRows(table) {
  const head = table.querySelector("thead th[aria-sort]");
  if (!head) return;
  const sign = head.getAttribute("aria-sort") === "descending" ? -1 : 1;
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortValue(row.cells[head.cellIndex], head), row]);
  rows.sort(([a], [b]) => (a === null) - (b === null) || sign * (typeof a === "number" ? a - b : TEXTS.compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}

addEventListener("click", (event) => {
  const head = event.target.closest?.("table.sortable thead th");
  if (!head || !event.target.closest("button")) return;
  const next = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", next);
  sortRows(head.closest("table"));
});

/* ---- What is folded ---- */

/** Unfold the target that the address leads to. */
function unfold() {
  const part = document.getElementById(location.hash.replace("#target", "all"));
  if (part) part.open = true;
}

// A browser that knows no style for what is folded could not print it.
addEventListener("beforeprint", () => {
  if (CSS.supports("selector(::details-content)")) return;
  for (const part of document.querySelectorAll("details.part")) part.open = true;
});

/* ---- A live page ---- */

// What the viewer or this script has set, which new contents do not have.
const KEPT = new Set(["open", "aria-sort", "data-drawn", "aria-busy"]);

/** Return what tells an element from its siblings, wherever it stands among them; or "". */
function keyOf(node) {
  if (node.nodeType !== 1) return "";
  const folded = node.nodeName === "DETAILS" && node.querySelector("summary")?.textContent;
  return node.id || folded || node.ariaLabel || node.querySelector("[id]")?.id || "";
}

/** Return each new child with the old one that it stands for, or null; and the other old ones. */
function paired(old, fresh) {
  const rest = old.filter((one) => !one.classList?.contains("plot"));
  const keys = rest.map(keyOf);
  const places = new Map(); // of those that have a key, wherever they are
  keys.forEach((key, at) => key && places.set(key, [...(places.get(key) ?? []), at]));
  let next = 0; // the others are paired in order, between those that have one
  const pairs = fresh.map((child) => {
    const key = keyOf(child);
    let at = key ? places.get(key)?.shift() : next;
    if (!key) while (keys[at] === "" && rest[at].nodeName !== child.nodeName) at += 1;
    if (!rest[at] || keys[at] !== key || rest[at].nodeName !== child.nodeName) return [child, null];
    next = Math.max(next, at + 1);
    return [child, rest[at]];
  });
  const kept = new Set(pairs.map(([, partner]) => partner));
  return { pairs, gone: rest.filter((one) => !kept.has(one)) };
}

/** Make an element like another one, and leave alone what is alike: focus, scroll, what is open. */
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== 1) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !KEPT.has(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (!KEPT.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const { pairs, gone } = paired([...old.childNodes], [...fresh.childNodes]);
  for (const one of gone) one.remove(); // first, so that what stays need not move
  let place = old.firstChild;
  for (const [child, same] of pairs) {
    if (same && same === place) place = place.nextSibling;
    else old.insertBefore(same ?? child, place);
    if (same) morph(same, child);
  }
}

/** Show new contents in place of those that are shown. */
function show(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const main = document.querySelector("main");
  const contents = fresh.querySelector("main");
  showTimes(fresh);
  addButtons(fresh);
  const outside = fresh.querySelector("body > #figures");
  if (outside) document.getElementById("figures").textContent = outside.textContent;
  morph(main, contents);
  main.querySelectorAll("table.sortable").forEach(sortRows);
  showCharts();
}

let loading = null; // what stops the request that is under way

/** Load the contents of the view that the address tells. */
async function load() {
  loading?.abort();
  const stop = (loading = new AbortController());
  const main = document.querySelector("main");
  main.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(`fragment${location.search}`, { signal: stop.signal });
    if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
    show(await answer.text());
  } catch (error) {
    if (!stop.signal.aborted) problem = `cannot load: ${error.message}`;
  }
  if (loading !== stop) return;
  main.removeAttribute("aria-busy");
  loading = null;
  tellConnection();
  if (stop.again) load();
}

const form = document.getElementById("view");

/** Have the address say what the form says. */
function viewChanged() {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of new FormData(form)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  history.pushState(null, "", `?${query}`);
  load();
}

/** Have the form say what the address says. */
function viewCameBack() {
  const query = new URLSearchParams(location.search);
  for (const field of form.elements) {
    if (!field.name) continue;
    const options = [...(field.options ?? [])];
    const usual = options.find((option) => option.defaultSelected) ?? options[0];
    field.value = query.get(field.name) ?? usual?.value ?? "";
  }
  load();
}

let source = null; // of events
let heard = 0; // when the last event came, in milliseconds
let lost = null; // when the connection was lost
let quietSince = null; // when the run last changed, by this clock
let problem = ""; // what keeps new contents away

function connect() {
  source?.close();
  heard = Date.now();
  source = new EventSource(`events${location.search}`);
  source.addEventListener("state", (event) => {
    const { version, quiet_seconds: quiet } = JSON.parse(event.data);
    heard = Date.now();
    lost = null;
    quietSince = heard - quiet * 1000;
    problem = "";
    const stale = String(version) !== document.querySelector("main").dataset.version;
    if (stale && loading) loading.again = true; // what comes may be older
    else if (stale && !document.hidden) load();
    tellConnection();
  });
  source.addEventListener("error", () => {
    lost ??= Date.now();
    tellConnection();
  });
}

/** Say in `#connection` whether what is shown is current. */
function tellConnection() {
  if (!lost && quietSince === null) return; // nothing was heard yet
  const quiet = (Date.now() - quietSince) / 1000;
  const minutes = Math.floor(quiet / 60);
  const length = minutes < 120 ? `${minutes} minutes` : `${Math.floor(minutes / 60)} hours`;
  const state = lost ? "lost" : problem ? "stale" : quiet > QUIET_SECONDS ? "quiet" : "live";
  const text = {
    lost: `reconnecting since ${local(new Date(lost)).slice(11)}`,
    stale: `not current: ${problem}`,
    quiet: `the run has been quiet for ${length}`,
    live: "live",
  }[state];
  LIVE.dataset.state = state;
  if (LIVE.textContent !== text) LIVE.textContent = text; // it is read aloud
}

/** Look after the connection, which can end without a word: a proxy, a laptop that slept. */
function tick() {
  const silent = (Date.now() - heard) / 1000;
  const ended = source.readyState === EventSource.CLOSED && silent > RETRY_SECONDS;
  if (silent > SILENT_SECONDS) lost ??= heard;
  if (ended || silent > SILENT_SECONDS) connect();
  tellConnection();
}

function goLive() {
  connect();
  setInterval(tick, RETRY_SECONDS * 1000);
  document.addEventListener("visibilitychange", () => document.hidden || connect());
  addEventListener("popstate", () => form && viewCameBack());
  form?.addEventListener("change", viewChanged);
  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    viewChanged();
  });
}

showTimes(document);
addButtons(document);
showCharts();
unfold();
addEventListener("hashchange", unfold);
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => plots.forEach((plot) => plot.redraw()));
if (LIVE) goLive();
