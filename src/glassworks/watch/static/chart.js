// The losses of a training as an SVG figure, with marks at the steps after which it was resumed or ended.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function drawn(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function round(span, count) {
  const raw = span / count, power = 10 ** Math.floor(Math.log10(raw));
  return power * [1, 2, 5, 10].find((one) => one * power >= raw);
}

function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const step = round(high - low, count), found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(Number(at.toPrecision(6)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const one of [1, 2, 5]) {
      const at = one * 10 ** power;
      if (at >= low && at <= high) found.push(Number(at.toPrecision(3)));
    }
  }
  return found.length > 7 ? found.filter((at) => /^1|^0\.0*1/.test(String(at))) : found;
}

const short = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3))));

function chart(name, { training, validation, resumed_after: resumed, ended_at: ended, steps }, width) {
  const height = Math.max(150, Math.min(260, width * 0.34)), left = 42, right = 10, top = 18, bottom = 22;
  const losses = [...training, ...validation].map(([, loss]) => loss);
  let low = Math.min(...losses), high = Math.max(...losses);
  const logarithmic = low > 0 && high / low > 8;
  if (high === low) [low, high] = [low - 0.5, high + 0.5];
  const last = Math.max(steps || 0, ...training.map(([step]) => step), ...validation.map(([step]) => step), 1);
  const scale = logarithmic ? Math.log : (value) => value;
  const x = (step) => left + (step / last) * (width - left - right);
  const y = (loss) => top + (1 - (scale(loss) - scale(low)) / (scale(high) - scale(low))) * (height - top - bottom);
  const line = (points) => points.map(([step, loss], place) => `${place ? "L" : "M"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`).join("");

  const now = training.at(-1), held = validation.at(-1);
  const says = [`Loss of ${name}: ${short(now[1])} at step ${Math.round(now[0]).toLocaleString("en")}`];
  if (held) says.push(`validation ${short(held[1])} at step ${Math.round(held[0]).toLocaleString("en")}`);
  for (const step of resumed) says.push(`resumed after step ${step.toLocaleString("en")}`);
  if (ended !== null) says.push(`ended at step ${Math.round(ended).toLocaleString("en")}`);
  const image = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${says.join("; ")}.` });
  for (const at of logarithmic ? logTicks(low, high) : ticks(low, high, 4)) {
    image.append(drawn("line", { class: "grid", x1: left, x2: width - right, y1: y(at), y2: y(at) }));
    image.append(drawn("text", { class: "axis", x: left - 6, y: y(at) + 4, "text-anchor": "end" }, short(at)));
  }
  for (const at of ticks(0, last, Math.max(2, Math.floor(width / 110)))) {
    const anchor = x(at) > width - 34 ? "end" : "middle";
    image.append(drawn("text", { class: "axis", x: x(at), y: height - 5, "text-anchor": anchor }, at.toLocaleString("en")));
  }
  const mark = (step, kind, text) => {
    const end = x(step) > width * 0.7;
    image.append(drawn("line", { class: kind, x1: x(step), x2: x(step), y1: top - 6, y2: height - bottom }));
    image.append(drawn("text", { class: `mark-label ${kind === "ended" ? "bad" : ""}`, x: x(step) + (end ? -4 : 4), y: top - 6, "text-anchor": end ? "end" : "start" }, text));
  };
  for (const step of resumed) mark(step, "resumed", `resumed after ${step.toLocaleString("en")}`);
  image.append(drawn("path", { class: "training", d: line(training) }));
  if (validation.length) {
    image.append(drawn("path", { class: "validation", d: line(validation) }));
    for (const [step, loss] of validation) if (validation.length < 40) image.append(drawn("circle", { class: "dot", cx: x(step), cy: y(loss), r: 2.4 }));
  }
  if (ended !== null) mark(ended, "ended", "ended here");
  const keys = [element("span", { class: "key-training" }, `training loss ${short(now[1])}`)];
  if (held) keys.push(element("span", { class: "key-validation" }, `validation loss ${short(held[1])}`));
  keys.push(element("span", {}, `by step${logarithmic ? ", on a logarithmic scale" : ""}`));
  return element("figure", { class: "chart" }, image, element("figcaption", {}, ...keys));
}
