// The live page: the server sends pictures and small maps, and all drawing is done here.
// The blend and the playhead are those of pipeline/stream/viewer/overlay.py.
"use strict";

const LEAST_WEIGHT = 1e-3, FASTEST = 2, SLOWEST = 0.5, LONGEST_S = 10;
const MAX_WINDOWS = 12, MAX_PICTURES = 120;
const MAX_PENDING = 40;
const FIRST_RETRY_MS = 500, LAST_RETRY_MS = 15000;
// Why it is so, the line below says.
const STATES = { live: "live", late: "late", stalled: "stalled", lost: "lost: trying again", ended: "ended" };

/** Make an element. Texts become text nodes, so no name can be markup. */
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Text that comes from data, kept apart from the direction of what is around it. */
const name_ = (text) => h("bdi", {}, text);
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
const percent = (v) => (v === null ? "" : `${(100 * v).toFixed(0)} %`);
const seconds = (v, digits = 1) => `${v.toFixed(digits)} s`;
const many = (n, one) => `${n.toLocaleString("en")} ${one}${n === 1 ? "" : "s"}`;
const now = () => performance.now() / 1000;

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Weight of a window at a time: triangular, 0 outside. */
function weightAt(window_, time) {
  if (time < window_.start_s || time > window_.end_s) return 0;
  const half = (window_.end_s - window_.start_s) / 2;
  return half > 0 ? Math.max(LEAST_WEIGHT, 1 - Math.abs(time - window_.start_s - half) / half) : 1;
}

/** Levels, 0 to 1, of all patches at a time: the weighted mean of the windows that cover it; null without any. */
function blended(windows, time) {
  let total = 0, sum = null;
  for (const window_ of windows) {
    const weight = weightAt(window_, time);
    if (!weight) continue;
    const size = window_.grid[1] * window_.grid[2];
    let nearest = 0;
    window_.step_s.forEach((t, i) => { if (Math.abs(t - time) < Math.abs(window_.step_s[nearest] - time)) nearest = i; });
    sum ??= new Float32Array(size);
    if (sum.length !== size) continue;
    for (let i = 0; i < size; i++) sum[i] += (weight * window_.bytes[nearest * size + i]) / 255;
    total += weight;
  }
  return sum && sum.map((v) => v / total);
}

/** Which moment of the stream is on display: one hop behind the newest window's end, and of a long hop 10 s. */
class Playhead {
  end = null; hop = 1; waits = true; arrived = 0; position = null; asked = 0;

  windowArrived(end, time) {
    if (this.end !== null && end > this.end) {
      this.hop = clamp(end - this.end, 0.05, LONGEST_S);
      this.waits = end - this.end <= LONGEST_S;
    } else if (this.end !== null && end < this.end) this.position = null;
    this.end = end;
    this.arrived = time;
  }

  at(time) {
    if (this.end === null) return null;
    const limit = this.waits ? this.end : Infinity;
    const target = Math.min(limit, this.end - this.hop + time - this.arrived);
    const elapsed = Math.max(0, time - this.asked);
    const position = this.position === null ? target : this.position + elapsed;
    const behind = target - position;
    if (Math.abs(behind) > Math.max(3, 2 * this.hop)) this.position = target;
    else this.position = Math.min(limit, position + clamp(behind, SLOWEST - 1, FASTEST - 1) * elapsed);
    this.asked = time;
    return this.position;
  }
}

/** Where in the picture a patch lies, in words. */
function whereInWords(row, column, rows, columns) {
  const part = (i, n, names) => names[Math.min(2, Math.floor((3 * (i + 0.5)) / n))];
  const vertical = part(row, rows, ["top", "middle", "bottom"]), horizontal = part(column, columns, ["left", "center", "right"]);
  const place = vertical === "middle" && horizontal === "center" ? "the center" : `the ${vertical} ${horizontal}`;
  return `${place}, row ${row + 1} of ${rows}, column ${column + 1} of ${columns}`;
}

/** One stream on the page. */
class Tile {
  windows = []; pictures = []; playhead = new Playhead(); newest = null; received = 0; state = null; status = null;

  constructor(index, name) {
    this.index = index;
    this.name = name;
    this.canvas = h("canvas", { width: 640, height: 360, role: "img", "aria-label": `${name}: no picture yet` });
    this.waiting = h("p", { class: "waiting" }, "Waiting for the first picture");
    this.badge = h("span", { class: "state" }, "waiting");
    this.large = h("button", { type: "button", "aria-pressed": "false", "aria-label": `Enlarge ${name}`, onclick: () => this.enlarge() }, "Enlarge");
    this.label = h("b", {}, "–");
    this.probability = h("span", {});
    this.leading = h("span", { class: "leading" });
    this.reason = h("p", { class: "reason", hidden: true });
    this.bars = h("div", { class: "bars", role: "img", "aria-label": "No window explained yet" });
    this.marker = h("span", { class: "now", hidden: true });
    this.from = h("span", {}, "–");
    this.to = h("span", {}, "–");
    const fact = (title) => {
      const value = h("dd", {}, "–");
      return { value, element: h("div", {}, h("dt", {}, title), value) };
    };
    this.facts = { age: fact("Age"), rate: fact("Rate"), skipped: fact("Skipped"), dropped: fact("Dropped") };
    this.element = h("article", { class: "tile", "aria-labelledby": `stream-${index}` },
      h("header", {}, h("h2", { id: `stream-${index}`, title: name }, name_(name)), this.badge, this.large),
      h("div", { class: "screen" }, this.canvas, this.waiting),
      h("div", { class: "about" },
        this.reason,
        h("p", { class: "answer" }, this.label, this.probability, this.leading),
        h("div", { class: "time" }, this.bars, h("div", { class: "ticks", "aria-hidden": "true" }, this.from, h("span", {}, "weight over time"), this.to)),
        h("dl", { class: "facts" }, Object.values(this.facts).map((f) => f.element))));
    this.map = document.createElement("canvas");
  }

  enlarge() {
    const is = this.element.classList.toggle("large");
    this.large.setAttribute("aria-pressed", String(is));
  }

  takeWindow(message) {
    message.bytes = bytesOf(message.levels);
    if (this.windows.length && message.end_s < this.windows.at(-1).end_s) this.windows = [];
    this.windows = [...this.windows, message].slice(-MAX_WINDOWS);
    this.playhead.windowArrived(message.end_s, now());
    const before = this.newest && this.newest.shown.label;
    this.newest = message;
    this.received = now();
    const { shown, peak, grid } = message;
    setText(this.label, shown.label);
    this.label.title = shown.label;
    setText(this.probability, percent(shown.probability));
    setText(this.leading, shown.leading === null ? "" : `now rather ${shown.leading}, ${percent(message.top[0][1])}`);
    this.leading.title = this.leading.textContent;
    const where = whereInWords(peak.row, peak.column, grid[1], grid[2]);
    this.canvas.setAttribute("aria-label", `${this.name}: ${shown.label}; most weight at ${where}, ${peak.times_uniform.toFixed(1)} times uniform`);
    this.drawBars(message);
    if (before !== shown.label) say(`${this.name}: now ${shown.label}; most weight at ${where}`);
    this.showSkipped(message.n_skipped, message.n_frames_dropped);
  }

  drawBars({ share, step_s, start_s, end_s }) {
    const top = Math.max(...share, 1e-9), most = share.indexOf(Math.max(...share));
    if (this.bars.children.length !== share.length + 1) this.bars.replaceChildren(...share.map(() => h("i", {})), this.marker);
    share.forEach((v, i) => this.bars.children[i].style.setProperty("height", `${(100 * v) / top}%`));
    this.bars.setAttribute("aria-label", `Weight over ${seconds(end_s - start_s)}: most at ${seconds(step_s[most], 2)} of the stream, ` +
      `step ${most + 1} of ${share.length}, ${(share[most] * share.length).toFixed(1)} times uniform`);
    setText(this.from, seconds(start_s, 2));
    setText(this.to, seconds(end_s, 2));
  }

  takeStatus(message) {
    this.status = message;
    const { state, reason, rate, skipped } = message;
    this.badge.className = `state ${state in STATES ? state : ""}`;
    setText(this.badge, STATES[state] || state);
    setText(this.reason, reason);
    this.reason.hidden = !reason;
    this.element.classList.toggle("off-air", state === "lost" || state === "ended");
    setText(this.facts.rate.value, `${rate.toFixed(rate < 10 ? 1 : 0)} / s`);
    this.showSkipped(skipped, null);
    if (this.state !== null && this.state !== state) say(`${this.name} is ${STATES[state] || state}. ${reason}`);
    this.state = state;
  }

  showSkipped(skipped, dropped) {
    const put = (fact, n, what) => {
      setText(fact.value, many(n, what));
      fact.element.classList.toggle("some", n > 0);
    };
    if (skipped !== null) put(this.facts.skipped, skipped, "window");
    if (dropped !== null) put(this.facts.dropped, dropped, "frame");
  }

  takePicture(time, bitmap) {
    if (this.pictures.length && time < this.pictures.at(-1).time) this.forget();
    this.pictures.push({ time, bitmap });
    while (this.pictures.length > MAX_PICTURES) this.pictures.shift().bitmap.close();
    this.waiting.hidden = true;
  }

  forget() {
    for (const { bitmap } of this.pictures) bitmap.close();
    this.pictures = [];
  }

  /** Draw the moment that is due. */
  draw(opacity) {
    if (this.newest) {
      const age = this.newest.age_s + now() - this.received;
      setText(this.facts.age.value, seconds(age));
    }
    const due = this.playhead.at(now());
    if (!this.pictures.length) return;
    let picture = this.pictures[0];
    if (due === null) picture = this.pictures.at(-1);
    else for (const one of this.pictures) if (one.time <= due) picture = one;
    this.showMarker(picture.time);
    // What was played isn't needed again.
    while (this.pictures.length > 1 && this.pictures[1].time < picture.time) this.pictures.shift().bitmap.close();
    const key = `${picture.time} ${this.newest && this.newest.window} ${opacity}`;
    if (key === this.drawn) return;
    this.drawn = key;
    const { width, height } = picture.bitmap;
    const scale = Math.max(1, Math.round(960 / width));
    if (this.canvas.width !== width * scale || this.canvas.height !== height * scale) {
      this.canvas.width = width * scale;
      this.canvas.height = height * scale;
    }
    const context = this.canvas.getContext("2d");
    context.globalAlpha = 1;
    context.drawImage(picture.bitmap, 0, 0, this.canvas.width, this.canvas.height);
    const levels = blended(this.windows, picture.time);
    if (!levels) return;
    this.paintMap(levels);
    context.globalAlpha = opacity;
    context.drawImage(this.map, 0, 0, this.canvas.width, this.canvas.height);
  }

  paintMap(levels) {
    const [, rows, columns] = this.newest.grid;
    this.map.width = columns;
    this.map.height = rows;
    const context = this.map.getContext("2d"), pixels = context.createImageData(columns, rows);
    for (let i = 0; i < levels.length; i++) {
      const color = 3 * Math.round(255 * levels[i]);
      // Colour and opacity both follow the level, so that the picture shows where it is hardly looked at.
      pixels.data.set([page.palette[color], page.palette[color + 1], page.palette[color + 2], 255 * page.opacity * levels[i]], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
  }

  showMarker(time) {
    const window_ = this.newest;
    this.marker.hidden = !window_ || time < window_.start_s || time > window_.end_s;
    if (!this.marker.hidden) this.marker.style.setProperty("left", `${(100 * (time - window_.start_s)) / (window_.end_s - window_.start_s || 1)}%`);
  }
}

const page = { tiles: [], palette: new Uint8Array(768), opacity: 0.85, isPaused: false, alarmed: null };
const byId = (id) => document.getElementById(id);

/** Say something to who listens instead of looking. */
function say(text) {
  byId("said").textContent = text;
}

function takeHello(message) {
  page.palette = bytesOf(message.palette);
  page.opacity = message.opacity;
  const names = page.tiles.map((tile) => tile.name);
  if (JSON.stringify(names) !== JSON.stringify(message.streams)) {
    page.tiles.forEach((tile) => tile.forget());
    page.tiles = message.streams.map((name, index) => new Tile(index, name));
    byId("tiles").replaceChildren(...page.tiles.map((tile) => tile.element));
  } else {
    // The server was started again, or we were away: what is here belongs to another clock.
    for (const tile of page.tiles) {
      tile.windows = [];
      tile.playhead = new Playhead();
      tile.forget();
    }
  }
  for (const tile of page.tiles) tile.element.classList.remove("off-air");
  byId("tiles").classList.toggle("one", page.tiles.length === 1);
  showAlarms([]);
}

const amount = (v) => (typeof v === "number" ? String(Number(v.toPrecision(3))) : String(v));

function showAlarms(alarms) {
  const list = byId("alarm-list");
  byId("alarms").hidden = !alarms.length;
  setText(byId("n-alarms"), alarms.length ? String(alarms.length) : "");
  list.replaceChildren(...alarms.toReversed().map((alarm) => {
    const about = [
      alarm.stream && ["stream", alarm.stream], alarm.class && ["class", alarm.class], alarm.score && ["score", alarm.score.replaceAll("_", " ")],
      alarm.effect !== undefined && alarm.effect !== null && ["effect", `${amount(alarm.effect)}${alarm.effect_unit ? ` ${alarm.effect_unit}` : ""}`],
      alarm.from_window !== undefined && ["windows", `${alarm.from_window} to ${alarm.to_window}`],
      Array.isArray(alarm.before) && ["before, see windows", alarm.before.join(", ")],
      Array.isArray(alarm.after) && ["after, see windows", alarm.after.join(", ")],
      Array.isArray(alarm.also) && alarm.also.length && ["also", alarm.also.map((score) => score.replaceAll("_", " ")).join(", ")],
    ].filter(Boolean);
    return h("li", {}, name_(alarm.said || alarm.kind || "alarm"), h("small", {}, about.map(([what, value], i) => [i ? " · " : "", `${what} `, name_(value)])));
  }));
  // Not by their number, which stays once the server lets go of the oldest, nor again after a break.
  const newest = alarms.length ? JSON.stringify(alarms.at(-1)) : page.alarmed;
  if (newest !== page.alarmed) byId("alarmed").textContent = `Alarm: ${alarms.at(-1).said || alarms.at(-1).kind || ""}`;
  page.alarmed = newest;
}

async function take(data) {
  if (typeof data !== "string") {
    const header = new DataView(data), index = header.getUint32(0, true), time = header.getFloat64(4, true);
    const bitmap = await createImageBitmap(new Blob([data.slice(12)], { type: "image/jpeg" }));
    if (page.isPaused || !page.tiles[index]) bitmap.close();
    else page.tiles[index].takePicture(time, bitmap);
    return;
  }
  const message = JSON.parse(data);
  if (message.kind === "hello") takeHello(message);
  else if (message.kind === "alarms") showAlarms(message.alarms);
  else if (message.kind === "status") page.tiles[message.stream].takeStatus(message);
  else if (message.kind === "window" && !page.isPaused) page.tiles[message.stream].takeWindow(message);
}

/** Connect, and when the connection is lost try again, more and more slowly. */
function connect(retry = FIRST_RETRY_MS) {
  const line = byId("connection");
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
  socket.binaryType = "arraybuffer";
  // Messages are taken one after the other, as they came, although pictures decode in the background.
  let taken = Promise.resolve(), n_pending = 0;
  socket.onopen = () => {
    line.className = "connection";
    setText(line, "Connected");
    retry = FIRST_RETRY_MS;
  };
  socket.onmessage = ({ data }) => {
    // A browser that is behind leaves out pictures.
    if (typeof data !== "string" && n_pending > MAX_PENDING) return;
    n_pending += 1;
    taken = taken.then(() => take(data)).catch((error) => console.error(error)).finally(() => { n_pending -= 1; });
  };
  socket.onclose = () => {
    // All pages of a server that restarts come back, though not at once.
    const wait = retry * (0.75 + 0.5 * Math.random());
    line.className = "connection off";
    setText(line, `Not connected: trying again in ${seconds(wait / 1000)}. If the server wants a token, open its address with the token.`);
    page.tiles.forEach((tile) => tile.element.classList.add("off-air"));
    setTimeout(() => connect(Math.min(LAST_RETRY_MS, 2 * retry)), wait);
  };
}

function draw() {
  if (!page.isPaused) {
    const opacity = Number(byId("overlay").value);
    for (const tile of page.tiles) tile.draw(opacity);
  }
  requestAnimationFrame(draw);
}

byId("pause").addEventListener("click", (event) => {
  page.isPaused = !page.isPaused;
  event.target.setAttribute("aria-pressed", String(page.isPaused));
});
connect();
requestAnimationFrame(draw);
