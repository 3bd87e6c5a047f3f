// Clips that move: the attribution over the playing frames, with a strip of all time steps.
"use strict";

const STEP_MS = 350;

/** A clip's attribution, decoded once: a byte a patch. */
function bytesOf(attribution) {
  return (attribution.bytes ??= Uint8Array.from(atob(attribution.map), (c) => c.charCodeAt(0)));
}

/** Frames of a clip as one picture; null where there are none. */
function stripOf(clip) {
  if (!clip.picture) return Promise.resolve(null);
  return (clip.strip ??= new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = clip.picture;
  }));
}

/** One time step's map as a small canvas, for the large one to enlarge. */
function mapCanvas(attribution, step, overFrames) {
  const [, rows, columns] = attribution.grid;
  const bytes = bytesOf(attribution);
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const value = bytes[step * rows * columns + i];
    const [r, g, b] = colorAt(value);
    // Colour and opacity both follow the value, so that a frame shows where it is hardly looked at.
    pixels.data.set([r, g, b, overFrames ? 217 * (value / 255) : 255], 4 * i);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** Draw a time step: the frame, and the attribution over it. */
function drawStep(canvas, clip, attribution, strip, step, opacity) {
  const context = canvas.getContext("2d");
  context.globalAlpha = 1;
  context.fillStyle = "#000004";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (strip) {
    const [width, height] = clip.size;
    context.drawImage(strip, step * width, 0, width, height, 0, 0, canvas.width, canvas.height);
  }
  context.globalAlpha = strip ? opacity : 1;
  context.imageSmoothingEnabled = Boolean(strip);
  context.drawImage(mapCanvas(attribution, step, Boolean(strip)), 0, 0, canvas.width, canvas.height);
}

function canvasFor(clip, attribution, side) {
  const [width, height] = clip.size || [attribution.grid[2], attribution.grid[1]];
  const scale = side / Math.max(width, height);
  return h("canvas", { width: Math.round(width * scale), height: Math.round(height * scale), role: "img" });
}

const stepTime = (clip, step) =>
  clip.seconds && clip.seconds[step] !== null ? `${clip.seconds[step].toFixed(2)} s` : `frame ${clip.frames[step]}`;

/** What a clip's attribution shows, in words. */
function clipWords(clip, attribution) {
  const [steps, rows, columns] = attribution.grid;
  const [step, row, column] = attribution.peak;
  return `Clip ${clip.video}: most weight at ${stepTime(clip, step)} (step ${step + 1} of ${steps}) in row ${row + 1} ` +
    `of ${rows}, column ${column + 1} of ${columns}, ${show.times(attribution.top)} uniform`;
}

/** Shares of time steps as bars. */
function shareBars(attribution) {
  const top = Math.max(1, ...attribution.share);
  return h("div", { class: "shares", "aria-hidden": "true" },
    attribution.share.map((v) => h("i", { style: { height: `${(100 * v) / top}%` } })));
}

/** The answer to a clip, in one line. */
function answerOf(clip) {
  const probability = show.percent(clip.probability);
  if (clip.correct === null) return h("span", { class: "answer" }, name_(clip.prediction), ` ${probability}`);
  return clip.correct
    ? h("span", { class: "answer right" }, h("b", {}, "right "), name_(clip.prediction), ` ${probability}`)
    : h("span", { class: "answer wrong" }, h("b", {}, "wrong "), name_(clip.label), " taken for ", name_(clip.prediction), ` ${probability}`);
}

/** A clip in a list: still at its peak, it plays while it is pointed at or focused. */
function clipCard(clip) {
  const canvas = canvasFor(clip, clip, 224);
  const peak = clip.share.indexOf(Math.max(...clip.share));
  canvas.setAttribute("aria-label", clipWords(clip, clip));
  let timer = null, step = peak;
  const draw = () => stripOf(clip).then((strip) => drawStep(canvas, clip, clip, strip, step, 1));
  const play = () => {
    if (still.matches || timer) return;
    timer = setInterval(() => {
      if (!canvas.isConnected) return stop();
      step = (step + 1) % clip.grid[0];
      draw();
    }, STEP_MS);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    step = peak;
    draw();
  };
  const card = h("a", { class: "clip", href: place.to(`clip/${clip.row}`), onpointerenter: play, onpointerleave: stop, onfocus: play, onblur: stop },
    canvas, shareBars(clip), h("span", { class: "id" }, name_(clip.video)), answerOf(clip));
  return whenSeen(card, draw);
}

/** The clip's view: one or two attributions over the same playing frames. */
function player(clip, otherName) {
  const shown = [{ attribution: clip, name: otherName ? "this run" : null }];
  if (clip.other) shown.push({ attribution: clip.other, name: otherName });
  const n = clip.grid[0];
  const stepOf = (attribution, step) => Math.min(attribution.grid[0] - 1, Math.floor((step * attribution.grid[0]) / n));
  let step = clip.share.indexOf(Math.max(...clip.share)), timer = null, opacity = 1, strip = null;
  const screens = shown.map(({ attribution, name }) => {
    const canvas = canvasFor(clip, attribution, 448);
    canvas.setAttribute("aria-label", (name ? `In ${name}: ` : "") + clipWords(clip, attribution));
    return { attribution, canvas, figure: h("figure", {}, name && h("figcaption", {}, name_(name),
      attribution !== clip && h("span", {}, " ", name_(attribution.prediction), ` ${show.percent(attribution.probability)}`)), canvas) };
  });
  const time = h("output", {});
  const slider = h("input", { type: "range", min: 0, max: n - 1, step: 1, value: step, "aria-label": "Time step",
    oninput: () => { pause(); go(Number(slider.value)); } });
  const button = h("button", { type: "button", onclick: () => (timer ? pause() : play()) }, "Play");
  const frames = Array.from({ length: n }, (_, i) => {
    const small = canvasFor(clip, clip, 112);
    small.setAttribute("aria-hidden", "true");
    small.removeAttribute("role");
    const share = clip.share[i], top = Math.max(1, ...clip.share);
    return { small, button: h("button", { type: "button", class: "frame", onclick: () => { pause(); go(i); },
      "aria-label": `Step ${i + 1}, ${stepTime(clip, i)}: ${show.times(share)} uniform` }, small,
      h("span", { class: "share" }, h("i", { style: { width: `${(100 * share) / top}%` } })),
      h("span", { class: "when" }, stepTime(clip, i)), h("span", { class: "much" }, show.times(share))) };
  });
  const go = (to) => {
    step = to;
    slider.value = step;
    slider.setAttribute("aria-valuetext", `${stepTime(clip, step)}, ${show.times(clip.share[step])} uniform`);
    time.textContent = `${stepTime(clip, step)} · ${show.times(clip.share[step])}`;
    for (const { attribution, canvas } of screens) drawStep(canvas, clip, attribution, strip, stepOf(attribution, step), opacity);
    frames.forEach((f, i) => f.button.setAttribute("aria-current", i === step ? "step" : "false"));
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  };
  const play = () => {
    button.textContent = "Pause";
    timer = setInterval(() => (button.isConnected ? go((step + 1) % n) : pause()), STEP_MS);
  };
  const drawFrames = () => frames.forEach(({ small }, i) => drawStep(small, clip, clip, strip, i, opacity));
  const see = clip.picture && h("label", {}, "Overlay ", h("input", { type: "range", min: 0, max: 1, step: 0.05, value: 1,
    oninput: (event) => { opacity = Number(event.target.value); go(step); drawFrames(); } }));
  stripOf(clip).then((image) => {
    strip = image;
    go(step);
    drawFrames();
    // Who asks for less motion starts it himself.
    if (!still.matches) play();
  });
  return h("div", { class: "player" },
    h("div", { class: `screens n${screens.length}` }, screens.map((s) => s.figure)),
    h("div", { class: "controls" }, button, slider, time, see),
    h("div", { class: "filmstrip", role: "group", "aria-label": "All time steps" }, frames.map((f) => f.button)));
}
