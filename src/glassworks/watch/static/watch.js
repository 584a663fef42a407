// The page: asks for the state of the project every two seconds, and changes what differs. All text is set as text, never as HTML.
"use strict";

const WORDS = JSON.parse(document.body.dataset.words);
const KINDS = JSON.parse(document.body.dataset.kinds);
const GLYPHS = JSON.parse(document.body.dataset.glyphs);
const ACTIVE = ["running", "killed", "stopped"];
const EVERY = 2000, AWAY = 15000, QUIET = 15;
const by = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");

function clock(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours} h ${String(minutes).padStart(2, "0")} min` : `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function stateMark(state) {
  return element("span", { class: `state is-${state}` }, element("span", { "aria-hidden": "true" }, `${GLYPHS[state]} `), WORDS[state]);
}

// The body of a stage: facts, progress, chart, log. Parts are replaced only if their content differs, so that a reader keeps its place.
class Body {
  constructor(name) {
    this.name = name;
    this.parts = {};
    this.root = element("div", {});
    for (const part of ["why", "bars", "facts", "chart", "marks", "scores", "logs"]) {
      this.parts[part] = { node: element("div", {}), seen: "" };
      this.root.append(this.parts[part].node);
    }
  }

  put(part, content, make) {
    const known = this.parts[part], seen = JSON.stringify(content);
    if (known.seen === seen) return;
    known.seen = seen;
    known.node.replaceChildren(...make());
  }

  show(stage, details) {
    this.put("why", [stage.state, stage.why], () => (stage.why ? [element("p", { class: "why" }, stage.why)] : []));
    this.put("bars", stage.progress, () => stage.progress.map(bar));
    this.put("facts", facts(stage, details), () => (facts(stage, details).length ? [element("dl", { class: "facts" }, ...facts(stage, details).map(fact))] : []));
    if (!details) return;
    const width = Math.max(260, this.root.clientWidth || 600);
    const points = { ...details, log: 0, cost: 0, scores: 0, width };
    this.put("chart", points, () => (details.training.length ? [chart(this.name, details, width)] : []));
    this.put("marks", [details.attempts, details.resumed_after], () => marks(details));
    this.put("scores", details.scores, () => (details.scores.length ? [element("dl", { class: "facts" }, ...details.scores.map((one) => fact([one.title, `${one.value}${one.unit}`])))] : []));
    this.logs(details.log);
  }

  logs(logs) {
    const known = this.parts.logs, names = logs.map((log) => log.name).join();
    if (known.seen !== names) {
      known.seen = names;
      known.node.replaceChildren(...logs.flatMap((log) => [
        element("p", { class: "small log-name" }, `The end of logs/${log.name}`),
        element("pre", { class: "log", tabindex: "0", "aria-label": `The end of logs/${log.name}` }),
      ]));
    }
    known.node.querySelectorAll("pre").forEach((pre, place) => {
      const atEnd = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 8;
      setText(pre, logs[place].lines.join("\n") || "(empty)");
      if (atEnd) pre.scrollTop = pre.scrollHeight;
    });
  }
}

function bar(progress) {
  const share = progress.total ? Math.min(1, progress.done / progress.total) : 0;
  const label = element("label", {}, element("span", {}, progress.label), element("span", {}, `${number(progress.done)} of ${number(progress.total)} ${progress.unit}, ${(100 * share).toFixed(0)} %`));
  label.append(element("progress", { max: String(progress.total || 1), value: String(progress.done) }));
  return element("div", { class: "bar" }, label);
}

function facts(stage, details) {
  const found = [], several = stage.progress.length > 1;
  for (const one of stage.progress) {
    const of = several ? ` (${one.label})` : "";
    if (one.loss !== null) found.push([`Loss${of}`, String(one.loss)]);
    found.push([`Rate${of}`, `${one.rate < 100 ? one.rate.toFixed(1) : number(Math.round(one.rate))} ${one.unit}/s`]);
    if (one.samples !== null) found.push([`Samples${of}`, `${one.samples} /s`]);
    found.push([`Time left${of}`, clock(one.left)]);
    if (one.memory !== null) found.push([`Memory${of}`, `${one.memory} GB`]);
  }
  if (stage.jobs && ACTIVE.includes(stage.state)) found.push(["Jobs", `${stage.jobs.done} of ${stage.jobs.all} done`]);
  if (stage.quiet !== null && stage.state === "running" && stage.quiet > QUIET) found.push(["No sign of life for", clock(stage.quiet), "warn"]);
  const cost = details?.cost;
  if (cost && cost.seconds !== null && cost.seconds !== undefined) {
    found.push(["Took", clock(cost.seconds)]);
    if (cost.peak_memory_bytes) found.push(["Memory at most", `${(cost.peak_memory_bytes / 1e9).toFixed(1)} GB`]);
    if (cost.started) found.push(["Started", new Date(cost.started).toLocaleString()]);
    if (cost.host) found.push(["On", cost.host]);
  }
  return found;
}

function fact([name, value, kind]) {
  return element("div", kind ? { class: kind } : {}, element("dt", {}, name), element("dd", {}, value));
}

function marks({ attempts, resumed_after: resumed }) {
  if (attempts.length < 2) return [];
  const items = attempts.map((one, place) => `${place ? "started again" : "started"} ${new Date(1000 * one.started).toLocaleString()} on ${one.host}`);
  const steps = resumed.length ? `; resumed after step ${resumed.map(number).join(", ")}` : "";
  return [element("p", { class: "small" }, `${attempts.length} starts${steps}:`), element("ul", { class: "small marks-list" }, ...items.map((text) => element("li", {}, text)))];
}

class Card {
  constructor(name) {
    this.title = element("h3", {}, name);
    this.state = element("p", {});
    this.host = element("p", { class: "small" });
    this.body = new Body(name);
    this.root = element("article", { "aria-label": name }, element("div", { class: "head" }, this.title, this.state, this.host), this.body.root);
  }

  show(stage, details) {
    this.root.className = `card active is-${stage.state}`;
    if (this.shown !== stage.state) this.state.replaceChildren(stateMark(stage.state));
    this.shown = stage.state;
    setText(this.host, stage.host ? `on ${stage.host}` : "");
    this.body.show(stage, details);
  }
}

// A name that may be broken after an underscore.
function breakable(name) {
  return name.split(/(?<=_)/).flatMap((part, place) => (place ? [element("wbr"), part] : [part]));
}

// The stages of each kind, in an order in which few edges cross: by the mean place of their neighbours, over some rounds.
function arranged(stages, kinds) {
  const columns = kinds.map((kind) => stages.filter((one) => one.kind === kind)), place = new Map(), near = new Map(stages.map(({ name }) => [name, []]));
  for (const { name, reads } of stages.filter(({ kind }) => kind !== "report")) for (const other of reads) near.get(name).push(other), near.get(other).push(name);
  const settle = (column) => column.forEach(({ name }, at) => place.set(name, at - column.length / 2));
  columns.forEach(settle);
  for (let round = 0; round < 8; round += 1) {
    for (const column of round % 2 ? columns.toReversed() : columns) {
      const mean = new Map(column.map(({ name }) => [name, near.get(name).reduce((sum, other) => sum + place.get(other), 0) / (near.get(name).length || 1)]));
      column.sort((a, b) => mean.get(a.name) - mean.get(b.name));
      settle(column);
    }
  }
  return columns;
}

// The stages in columns by kind. Edges are drawn behind them; a screen reader finds them with the chosen stage.
class Graph {
  constructor(root) {
    this.root = root;
    this.nodes = new Map();
    this.edges = [];
    this.seen = "";
    new ResizeObserver(() => this.place()).observe(root);
  }

  build(stages) {
    const seen = JSON.stringify(stages.map(({ name, reads }) => [name, reads]));
    if (this.seen === seen) return;
    this.seen = seen;
    this.nodes.clear();
    this.svg = drawn("svg", { "aria-hidden": "true" });
    const kinds = KINDS.filter((kind) => stages.some((one) => one.kind === kind));
    const rows = arranged(stages, kinds);
    const columns = kinds.map((kind, place) => {
      const list = element("ul", {});
      for (const stage of rows[place]) list.append(element("li", {}, this.node(stage)));
      return element("div", { class: "column", role: "group", "aria-label": kind }, element("h3", {}, kind), list);
    });
    this.root.replaceChildren(this.svg, ...columns);
    this.edges = stages.flatMap(({ name, reads }) => reads.map((from) => ({ from, to: name, path: drawn("path", {}) })));
    this.svg.append(...this.edges.map(({ path }) => path));
    this.place();
  }

  node({ name, kind }) {
    const mark = element("span", { class: "mark state", "aria-hidden": "true" }), word = element("span", { class: "hidden" }), done = element("span", { class: "done" });
    const button = element("button", { type: "button", class: "node", "aria-pressed": "false" }, mark, element("b", {}, ...breakable(name.slice(kind.length + 1).replaceAll("-", " ") || name)), word, done);
    button.addEventListener("click", () => choose(name));
    this.nodes.set(name, { button, mark, word, done });
    return button;
  }

  place() {
    const frame = this.root.getBoundingClientRect();
    for (const { from, to, path } of this.edges) {
      const [a, b] = [from, to].map((name) => this.nodes.get(name)?.button.getBoundingClientRect());
      if (!a || !b) continue;
      const y1 = a.top + a.height / 2 - frame.top, y2 = b.top + b.height / 2 - frame.top;
      const [x1, x2] = [a.right - frame.left, b.left - frame.left], bend = Math.max(16, Math.min(60, Math.abs(x2 - x1) / 2));
      path.setAttribute("d", `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`);
    }
  }

  show(stages, chosen) {
    this.build(stages);
    for (const stage of stages) {
      const { button, mark, word, done } = this.nodes.get(stage.name);
      button.className = `node is-${stage.state}`;
      mark.className = `mark state is-${stage.state}`;
      setText(mark, GLYPHS[stage.state]);
      const share = stage.progress.length ? stage.progress[0].done / (stage.progress[0].total || 1) : 0;
      setText(word, `, ${stage.kind}, ${WORDS[stage.state]}${share ? `, ${(100 * share).toFixed(0)} %` : ""}`);
      done.style.width = `${100 * Math.min(1, share)}%`;
      button.setAttribute("aria-pressed", String(stage.name === chosen));
    }
    for (const { from, to, path } of this.edges) path.setAttribute("class", from === chosen || to === chosen ? "near" : "");
  }
}

const cards = new Map();
const graph = new Graph(by("graph"));
let chosen = null, chosenBody = null, last = null;

function relations(title, names) {
  if (!names.length) return [];
  const buttons = names.map((name) => {
    const button = element("button", { type: "button" }, name);
    button.addEventListener("click", () => choose(name));
    return button;
  });
  return [element("div", { class: "relations" }, element("span", { class: "small" }, title), ...buttons)];
}

function choose(name) {
  chosen = name;
  chosenBody = new Body(name);
  const stages = last.stages, stage = stages.find((one) => one.name === name);
  const readers = stages.filter((one) => one.reads.includes(name)).map((one) => one.name);
  by("details").hidden = false;
  by("stage").textContent = name;
  chosenState = element("p", {});
  by("chosen").replaceChildren(chosenState, ...relations("Reads", stage.reads), ...relations("Read by", readers), chosenBody.root);
  graph.show(stages, chosen);
  by("details").focus({ preventScroll: true });
  by("details").scrollIntoView({ block: "nearest" });
  showChosen();
}

let chosenState = null;

async function ask(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(30000) });
  if (response.status === 404) return null;
  if (!response.ok) throw new Error((await response.text()).trim() || `the server says ${response.status}`);
  return response.json();
}

async function showChosen() {
  const name = chosen;
  if (!name) return;
  const details = await ask(`/stages/${encodeURIComponent(name)}`).catch(() => null);
  const stage = last.stages.find((one) => one.name === name);
  if (name !== chosen || !stage) return;
  if (chosenState.dataset.state !== stage.state) chosenState.replaceChildren(stateMark(stage.state));
  chosenState.dataset.state = stage.state;
  if (!ACTIVE.includes(stage.state)) return chosenBody.show(stage, details);
  chosenBody.show({ ...stage, progress: [], quiet: null, jobs: null, why: "Its progress is shown above." }, details && { ...details, training: [], log: [] });
}

async function look() {
  const state = await ask("/state");
  const active = state.stages.filter((one) => ACTIVE.includes(one.state));
  const details = await Promise.all(active.map((one) => ask(`/stages/${encodeURIComponent(one.name)}`)));
  last = state;
  const words = Object.entries(state.counts).filter(([, count]) => count).map(([name, count]) => `${count} ${WORDS[name]}`);
  setText(by("headline"), words.join(", ") || "no stages");
  document.title = `${state.counts.running ? `${GLYPHS.running} ${state.counts.running} · ` : ""}${state.project} – glassworks watch`;
  setText(by("updated"), `Read at ${new Date(1000 * state.time).toLocaleTimeString()}`);
  by("message").hidden = !state.message;
  setText(by("message"), state.message || "");
  by("idle").hidden = active.length > 0;
  for (const name of [...cards.keys()]) {
    if (active.some((one) => one.name === name)) continue;
    cards.get(name).root.remove();
    cards.delete(name);
  }
  active.forEach((stage, place) => {
    if (!cards.has(stage.name)) {
      const card = new Card(stage.name);
      cards.set(stage.name, card);
      by("active").insertBefore(card.root, by("active").children[place] || null);
    }
    cards.get(stage.name).show(stage, details[place]);
  });
  graph.show(state.stages, chosen);
  await showChosen();
}

async function loop() {
  try {
    await look();
  } catch (error) {
    by("message").hidden = false;
    setText(by("message"), error instanceof TypeError || error.name === "TimeoutError" ? "The server does not answer. The page goes on asking." : `The page shows an old state: ${error.message}`);
  }
  setTimeout(loop, document.hidden ? AWAY : EVERY);
}

loop();
