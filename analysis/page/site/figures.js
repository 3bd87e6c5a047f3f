// Maps, profiles and small marks: what is drawn by hand, each with its meaning in words.
"use strict";

const palette = { colors: null };

/** Colour of a level from 0 to 255 as [red, green, blue]. */
function colorAt(level) {
  const at = 3 * Math.max(0, Math.min(255, Math.round(level)));
  return [0, 1, 2].map((i) => palette.colors.charCodeAt(at + i));
}

function gradient() {
  const stops = Array.from({ length: 17 }, (_, i) => `rgb(${colorAt((255 * i) / 16).join(" ")})`);
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

/** The legend of a scale by quantiles: values at five places. */
function legend(values, kind) {
  const bar =
    kind === "difference"
      ? h("div", { class: "bar difference" })
      : h("div", { class: "bar", style: { background: gradient() } });
  const texts =
    kind === "difference"
      ? [-values[4], -values[3], 0, values[3], values[4]].map((v) => `${v > 0 ? "+" : ""}${v.toFixed(2)}`)
      : values.map((v) => v.toFixed(2));
  return h("div", { class: "legend", "aria-hidden": "true" }, bar,
    h("div", { class: "ticks" }, texts.map((text) => h("span", {}, text))),
    h("small", {}, { difference: "difference, in times uniform", clip: "times uniform within the time step that has most; darker in the others" }[kind] || "times uniform; equally many patches between ticks"));
}

/** What a mean map shows, in words. */
function mapWords(name, map) {
  const most = `${show.times(map.most.value)} uniform ${where(map.most)}`;
  return map.nearlyUniform
    ? `Mean map of ${name}: nearly uniform, from ${show.times(map.least)} to ${most}`
    : `Mean map of ${name}: most weight ${most}; least ${show.times(map.least)}`;
}

function differenceWords(name, difference, other) {
  return `Mean map of ${name} less ${other}: most gained ${signed(difference.most.value)} uniform ` +
    `${where(difference.most)}; most lost ${signed(difference.least)}`;
}

/** Captions of a mean map and a mean profile: attention says where a model looks, evidence what it read,
 * LibraGrad what was shown to it. */
const mapTitle = () => (staaData.classSpecific ? "Where evidence is" : "Where it looks");
const profileTitle = () => {
  if (!staaData.classSpecific) return "When it looks";
  return staaData.timesWeigh ? "When evidence was shown" : "When evidence was read";
};

const signed = (v) => `${v > 0 ? "+" : ""}${v.toFixed(2)}×`;
const where = (most) => `in row ${most.y}, column ${most.x} (${most.where})`;

/** A map with its caption and legend. */
function mapFigure({ title, source, alt, values, kind, note }) {
  const [, rows, columns] = staaData.grid;
  return h("figure", { class: `map ${kind || ""}` },
    h("figcaption", {}, title),
    h("img", { src: source, alt, width: columns, height: rows, style: { "aspect-ratio": `${columns} / ${rows}` } }),
    values && legend(values, kind),
    note && h("p", { class: "note" }, note));
}

/** Maps of a class: its mean, its difference from all clips', on the shared scales or on its own. */
function classMaps(name, data, otherName) {
  const legends = staaData.legend;
  const box = h("div", { class: "maps" });
  let own = data.nearlyUniform;
  const draw = () => {
    const pick = (map) => (own ? map.ownMap : map.map);
    const near = data.nearlyUniform
      ? `Nearly uniform: all of it lies between ${show.times(data.least)} and ${show.times(data.most.value)}.`
      : null;
    const figures = [
      mapFigure({ title: mapTitle(), source: pick(data), alt: mapWords(name, data),
        values: own ? data.ownLegend : legends.map, note: near }),
      mapFigure({ title: "More and less than in all clips", source: pick(data.difference),
        alt: differenceWords(name, data.difference, "that of all clips"), kind: "difference",
        values: own ? null : legends.difference,
        note: `Most gained: ${signed(data.difference.most.value)} ${where(data.difference.most)}.` }),
    ];
    if (data.other) {
      figures.push(mapFigure({ title: `The map of ${otherName}`, source: pick(data.other),
        alt: `In ${otherName}: ${mapWords(name, data.other)}`, values: own ? data.other.ownLegend : legends.map }));
      if (data.other.difference)
        figures.push(mapFigure({ title: `${otherName} less this run`, source: pick(data.other.difference),
          alt: differenceWords(name, data.other.difference, "that of this run"), kind: "difference",
          values: own ? null : legends.difference }));
    }
    box.replaceChildren(...figures);
  };
  const button = (label, value) =>
    h("button", { type: "button", "aria-pressed": String(own === value), onclick: (event) => {
      own = value;
      for (const b of event.target.parentNode.querySelectorAll("button"))
        b.setAttribute("aria-pressed", String(b === event.target));
      draw();
    } }, label);
  draw();
  return h("div", {}, h("div", { class: "toggle", role: "group", "aria-label": "Scale of the maps" },
    h("span", {}, "Scale"), button("shared by all classes", false), button("its own", true)), box);
}

/** Profile in time, with the interval of the mean and the spread over clips, as vector drawing. */
function profileFigure(name, profile, other, otherName) {
  const width = 560, height = 230, left = 44, right = 12, top = 14, bottom = 40;
  const n = profile.mean.length;
  const x = profile.seconds || profile.mean.map((_, i) => i + 1);
  const upper = Math.max(1.5, ...profile.mean.map((m, i) => m + (profile.std?.[i] || 0)), ...(other?.mean || []));
  const span = x[n - 1] - x[0] || 1;
  const px = (i) => left + ((width - left - right) * (n === 1 ? 0.5 : (x[i] - x[0]) / span));
  const py = (v) => top + (height - top - bottom) * (1 - v / (1.05 * upper));
  const line = (values) => values.map((v, i) => `${i ? "L" : "M"}${px(i).toFixed(1)},${py(v).toFixed(1)}`).join("");
  const band = (low, high) =>
    `${line(high)}${low.map((_, i) => `L${px(n - 1 - i).toFixed(1)},${py(low[n - 1 - i]).toFixed(1)}`).join("")}Z`;
  const unit = profile.seconds ? "s" : "time step";
  const at = (i) => (profile.seconds ? `${x[i].toFixed(2)} s` : `step ${x[i]}`);
  const peak = profile.mean.indexOf(Math.max(...profile.mean));
  const words = `Temporal profile of ${name}: most weight at ${at(peak)}, ${show.times(profile.mean[peak])} uniform` +
    (profile.low ? ` (95 % interval ${show.times(profile.low[peak])} to ${show.times(profile.high[peak])})` : "") +
    `; least ${show.times(Math.min(...profile.mean))}` +
    (other ? `. In ${otherName} most at ${at(other.mean.indexOf(Math.max(...other.mean)))}` : "");
  const steps = upper > 4 ? Math.ceil(upper / 4) : upper > 2 ? 1 : 0.5;
  const ticks = [];
  for (let v = 0; v <= 1.05 * upper; v += steps) ticks.push(v);
  const every = Math.ceil(n / 10);
  const svg = h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words, class: "profile" },
    ticks.map((v) => [
      h("line", { class: "grid", x1: left, x2: width - right, y1: py(v), y2: py(v) }),
      h("text", { x: left - 6, y: py(v) + 4, "text-anchor": "end" }, `${v}×`),
    ]),
    profile.std && h("path", { class: "spread", d: band(
      profile.mean.map((m, i) => Math.max(0, m - profile.std[i])), profile.mean.map((m, i) => m + profile.std[i])) }),
    profile.low && h("path", { class: "interval", d: band(profile.low, profile.high) }),
    h("line", { class: "uniform", x1: left, x2: width - right, y1: py(1), y2: py(1) }),
    other && h("path", { class: "line other", d: line(other.mean) }),
    h("path", { class: "line", d: line(profile.mean) }),
    profile.mean.map((m, i) => h("circle", { cx: px(i), cy: py(m), r: 3.2 },
      h("title", {}, `${at(i)}: ${show.times(m)} uniform`))),
    x.map((v, i) => i % every === 0 && h("text", { x: px(i), y: height - bottom + 17, "text-anchor": "middle" },
      profile.seconds ? v.toFixed(span < 3 ? 2 : 1) : v)),
    h("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle", class: "title" }, unit));
  return h("figure", { class: "profile" }, h("figcaption", {}, profileTitle()), svg,
    h("p", { class: "key" },
      h("span", { class: "k mean" }, "mean"), profile.low && h("span", { class: "k interval" }, "95 % interval of the mean"),
      profile.std && h("span", { class: "k spread" }, "± 1 std of clips"), h("span", { class: "k uniform" }, "uniform"),
      other && h("span", { class: "k other" }, name_(otherName))));
}

/** Where a class lies among all classes, score by score. */
function scoreStrips(index, other) {
  const classes = staaData.classes;
  const names = ["accuracy", "probability", "class_agreement", "entropy", "gini", "border_mass", "center_mass",
    "first_frame_mass", "last_frame_mass", "movement", "stillness", "peak_mass"].filter((k) => classes[k]);
  const rows = names.map((key) => {
    const all = classes[key].filter((v) => v !== null);
    const low = Math.min(...all), high = Math.max(...all), value = classes[key][index];
    const at = (v) => `${(100 * (v - low)) / (high - low || 1)}%`;
    const below = all.filter((v) => v < value).length;
    const before = other?.[key]?.[index];
    return h("tr", {},
      h("th", { scope: "row", title: staaData.describe[key] }, show.label(key)),
      h("td", { class: "number" }, key === "accuracy" ? show.percent(value) : show.number(value)),
      h("td", { class: "strip", "aria-hidden": "true" }, value !== null && all.length > 1 && h("div", {},
        all.length <= 800 && all.map((v) => h("i", { style: { left: at(v) } })), h("b", { style: { left: at(value) } }))),
      h("td", { class: "number" }, value === null || all.length < 2 ? "–" : `${Math.round((100 * below) / (all.length - 1))} %`),
      other && h("td", { class: "number" }, key === "accuracy" ? show.percent(before) : show.number(before)));
  });
  return h("table", { class: "scores" }, h("caption", {}, "Among all classes"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Mean of its clips"), h("th", { scope: "col", class: "number" }, "Value"),
      h("td", { class: "strip", "aria-hidden": "true" }, "lowest to highest class"),
      h("th", { scope: "col", class: "number" }, "Classes below"),
      other && h("th", { scope: "col", class: "number" }, "Other run"))),
    h("tbody", {}, rows));
}

/** An effect with its interval, drawn small. */
function intervalMark(value, low, high, reference = null) {
  if (low === null || high === null || low === undefined) return null;
  const from = Math.min(0, low, value, reference ?? 0), to = Math.max(0, high, value, reference ?? 0);
  const x = (v) => 4 + (132 * (v - from)) / (to - from || 1);
  return h("svg", { viewBox: "0 0 140 18", class: "interval-mark", "aria-hidden": "true" },
    h("line", { class: "zero", x1: x(0), x2: x(0), y1: 1, y2: 17 }),
    h("line", { class: "range", x1: x(low), x2: x(high), y1: 9, y2: 9 }),
    reference !== null && h("circle", { class: "reference", cx: x(reference), cy: 9, r: 3 }),
    h("circle", { class: "value", cx: x(value), cy: 9, r: 4 }));
}
