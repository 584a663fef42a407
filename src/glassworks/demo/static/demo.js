// The forms of the page: sends them, and shows the events of the answer, one JSON object a line. All text is set as text, never as HTML.
"use strict";

const MAX_BYTES = Number(document.body.dataset.maxBytes);
const RATE = 16000;

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

class Panel {
  constructor(section) {
    this.section = section;
    this.kind = section.dataset.kind;
    this.form = section.querySelector("form");
    this.output = section.querySelector(".output");
    this.status = section.querySelector(".status");
    this.stop = section.querySelector(".stop");
    this.submit = section.querySelector(".primary");
    this.input = section.querySelector('input[type="file"]');
    this.turns = [];
    this.recorded = null;
    this.example = null;
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    this.stop.addEventListener("click", () => this.abort?.abort());
    this.form.querySelector(".renew")?.addEventListener("click", () => this.renew());
    for (const button of this.form.querySelectorAll(".example")) button.addEventListener("click", () => this.choose(button));
    this.input?.addEventListener("change", () => { this.forget(); this.preview(this.input.files[0]); });
    this.form.querySelector(".clear")?.addEventListener("click", () => { this.input.value = ""; this.forget(); this.preview(null); });
    this.form.querySelector("textarea")?.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && this.kind === "chat") { event.preventDefault(); this.form.requestSubmit(); }
    });
    const record = this.form.querySelector(".record");
    if (record && navigator.mediaDevices?.getUserMedia && window.MediaRecorder) {
      record.hidden = false;
      record.addEventListener("click", () => this.record(record));
    }
  }

  forget() {
    this.example = this.recorded = null;
    for (const button of this.form.querySelectorAll(".example")) button.setAttribute("aria-pressed", "false");
  }

  choose(button) {
    this.forget();
    button.setAttribute("aria-pressed", "true");
    for (const [name, text] of Object.entries(JSON.parse(button.dataset.texts))) this.form.elements[name].value = text;
    if (this.input) this.input.value = "";
    this.preview(null);
    if (button.dataset.number !== undefined) {
      this.example = button.dataset.number;
      const picture = button.querySelector("img");
      if (this.form.elements.text && this.kind === "retrieve") this.form.elements.text.value = "";
      this.show(picture ? element("img", { src: picture.src, alt: button.textContent.trim() }) : null);
    }
    this.submit.focus();
  }

  preview(file) {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = file ? URL.createObjectURL(file) : null;
    if (!file) return this.show(null);
    const sound = file.type.startsWith("audio/");
    this.show(sound ? element("audio", { src: this.url, controls: true }) : element("img", { src: this.url, alt: file.name || "the chosen image" }), true);
  }

  show(medium, chosen = false) {
    const place = this.form.querySelector(".preview");
    if (!place) return;
    place.replaceChildren(...(medium ? [medium] : []));
    place.hidden = !medium;
    this.form.querySelector(".clear").hidden = !(medium || chosen);
  }

  async record(button) {
    if (this.recorder) return this.recorder.stop();
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      const parts = [];
      this.recorder = new MediaRecorder(stream);
      this.recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
      this.recorder.addEventListener("stop", async () => {
        for (const track of stream.getTracks()) track.stop();
        this.recorder = null;
        button.textContent = "Record";
        button.setAttribute("aria-pressed", "false");
        try {
          this.forget();
          this.input.value = "";
          this.recorded = await wave(new Blob(parts));
          this.preview(this.recorded);
          this.status.textContent = "The recording is ready to send.";
        } catch (error) {
          this.fail(`The recording does not decode: ${error.message}`);
        }
      });
      this.recorder.start();
      button.textContent = "Stop recording";
      button.setAttribute("aria-pressed", "true");
    } catch (error) {
      this.fail(`There is no microphone: ${error.message}`);
    }
  }

  renew() {
    this.abort?.abort();
    this.turns = [];
    this.form.querySelector(".turns").replaceChildren();
    this.output.replaceChildren();
    this.form.elements.text.focus();
  }

  fail(message) {
    this.output.append(element("p", { class: "error" }, message));
  }

  note(message) {
    this.output.append(element("p", { class: "note" }, message));
  }

  body() {
    const body = new FormData();
    for (const field of this.form.elements) {
      if (field.name && field.type !== "file") body.append(field.name, field.value);
    }
    const file = this.recorded || this.input?.files[0];
    if (file && file.size > MAX_BYTES) throw new Error(`The file is larger than ${MAX_BYTES / 2 ** 20} MiB.`);
    if (file) body.append("file", file, "upload");
    else if (this.example !== null) body.append("example", this.example);
    if (this.kind === "chat") body.append("messages", JSON.stringify(this.turns));
    return body;
  }

  begin() {
    this.output.replaceChildren();
    if (this.kind === "chat") {
      this.asked = this.form.elements.text.value;
      this.text = turn(this.form.querySelector(".turns"), "You", this.asked, "mine");
      this.text = turn(this.form.querySelector(".turns"), "Model", "", "");
      this.form.elements.text.value = "";
      return;
    }
    this.text = element("p", { class: "answer" });
    if (this.kind === "generate") this.text.append(element("span", { class: "given" }, this.form.elements.text.value));
    if (this.kind !== "retrieve") this.output.append(this.text);
  }

  async send() {
    if (this.abort) return;
    let body;
    try {
      body = this.body();
    } catch (error) {
      this.output.replaceChildren();
      return this.fail(error.message);
    }
    this.abort = new AbortController();
    this.submit.disabled = true;
    this.stop.hidden = false;
    this.status.textContent = "Sending …";
    this.begin();
    this.answered = "";
    this.failed = false;
    const live = this.kind === "chat" ? this.form.querySelector(".turns") : this.output;
    live.setAttribute("aria-busy", "true");
    try {
      const response = await fetch(this.form.getAttribute("action"), { method: "POST", body, signal: this.abort.signal });
      if (!response.ok) throw new Error((await response.text()).trim() || `The server says ${response.status}.`);
      for await (const event of events(response)) this.take(event);
      this.status.textContent = this.failed ? "" : "Done.";
    } catch (error) {
      const stopped = error.name === "AbortError";
      this.status.textContent = stopped ? "Stopped." : "";
      this.failed = !stopped;
      if (!stopped) this.fail(error instanceof TypeError ? "The server does not answer." : error.message);
    }
    live.setAttribute("aria-busy", "false");
    if (this.kind === "chat") this.endTurn();
    this.abort = null;
    this.submit.disabled = false;
    this.stop.hidden = true;
  }

  endTurn() {
    if (this.failed) {
      const turns = this.form.querySelector(".turns");
      turns.lastElementChild?.remove();
      turns.lastElementChild?.remove();
      this.form.elements.text.value = this.asked;
    } else if (this.form.querySelector(".turns").children.length) {
      this.turns.push({ role: "user", content: this.asked }, { role: "assistant", content: this.answered });
    }
    this.form.elements.text.focus();
  }

  take(event) {
    if ("ahead" in event) {
      const count = event.ahead;
      this.status.textContent = count ? `${count} ${count === 1 ? "request is" : "requests are"} before yours.` : "";
    }
    if (event.begun) this.status.textContent = "Working …";
    if (event.note) this.note(event.note);
    if (event.error) { this.failed = true; this.fail(event.error); }
    if (event.text) { this.answered += event.text; this.text.append(event.text); }
    if (event.points) this.points(event);
    if (event.maps) this.maps(event);
    if (event.groups) this.groups(event.groups);
  }

  points(event) {
    const places = event.points.map(([x, y]) => `${x} % from the left and ${y} % from the top`);
    this.output.append(element("img", { class: "drawn", src: event.picture, alt: `The image with a cross at ${places.join("; ")}.` }));
  }

  maps({ maps, picture }) {
    const image = element("img", { class: "drawn", src: picture, alt: "The image as the model sees it." });
    const buttons = maps.map(({ word, picture: map }) => {
      const button = element("button", { type: "button", "aria-pressed": "false" }, word || "·");
      const on = () => {
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        image.src = map;
        image.alt = `Where the model looked when it chose the word “${word}”: bright parts of the image.`;
      };
      for (const kind of ["click", "focus", "mouseenter"]) button.addEventListener(kind, on);
      return button;
    });
    this.text.hidden = true;
    const list = element("ul", { class: "words", "aria-label": "Words of the caption" }, ...buttons.map((button) => element("li", {}, button)));
    this.output.append(list, image, element("p", { class: "small" }, "Choose a word. Bright: where the model looked when it chose the word."));
    buttons[0]?.click();
  }

  groups(groups) {
    for (const { word, cards } of groups) {
      const list = element("ul", { class: "gallery" });
      cards.forEach((card, place) => {
        const name = card.texts[0] || "(no text)";
        const item = element("li", {});
        if (card.picture) item.append(element("img", { src: card.picture, alt: name }));
        if (card.sound) item.append(element("audio", { src: card.sound, controls: true, preload: "none", "aria-label": name }));
        const head = element("p", { class: "true" }, element("span", { class: "who" }, `${place + 1} · ${card.similarity.toFixed(3)}`), name);
        item.append(element("div", { class: "captions" }, head, element("p", {}, element("span", { class: "who" }, `${card.key}, ${card.split}`))));
        list.append(item);
      });
      this.output.append(element("h3", {}, `Nearest ${word}`), list);
    }
  }
}

function turn(list, who, text, kind) {
  const content = element("p", { class: "answer" }, text);
  list.append(element("li", { class: kind }, element("span", { class: "who" }, who), content));
  return content;
}

// A recording as a WAV file, 16 bit, mono, since browsers record in formats that the server does not read.
async function wave(blob) {
  const context = new AudioContext({ sampleRate: RATE });
  const sound = (await context.decodeAudioData(await blob.arrayBuffer())).getChannelData(0);
  await context.close();
  const view = new DataView(new ArrayBuffer(44 + 2 * sound.length));
  const letters = (at, text) => [...text].forEach((letter, place) => view.setUint8(at + place, letter.charCodeAt(0)));
  letters(0, "RIFF");
  view.setUint32(4, 36 + 2 * sound.length, true);
  letters(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  letters(36, "data");
  view.setUint32(40, 2 * sound.length, true);
  sound.forEach((value, place) => view.setInt16(44 + 2 * place, Math.round(32767 * Math.max(-1, Math.min(1, value))), true));
  return new Blob([view], { type: "audio/wav" });
}

for (const section of document.querySelectorAll(".panel")) new Panel(section);
