// Charts by Vega: all classes at a glance, and what is taken for what.
"use strict";

/** Colours of the page, for the charts: they follow light and dark. */
function inks() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["ink", "muted", "line", "accent", "mark", "panel"].map((n) => [n, style.getPropertyValue(`--${n}`).trim()]));
}

const tip = {
  element: document.getElementById("tip"),
  /** Vega's tooltip, as text alone; titles replace the names of fields. */
  handler: (titles = {}) => (_handler, event, _item, value) => {
    if (!value) {
      tip.element.hidden = true;
      return;
    }
    tip.element.replaceChildren(...Object.entries(value).map(([key, v], i) =>
      h("div", {}, i > 0 && h("span", {}, `${titles[key] ?? key} `), i > 0 ? h("b", {}, name_(v)) : h("strong", {}, name_(v)))));
    tip.element.hidden = false;
    const { width, height } = tip.element.getBoundingClientRect();
    tip.element.style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
    tip.element.style.top = `${Math.min(event.clientY + 14, innerHeight - height - 8)}px`;
  },
};

/** A copy in which each string like "$ink" is what is given for it. */
function filled(value, given) {
  if (Array.isArray(value)) return value.map((v) => filled(v, given));
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, filled(v, given)]));
  return typeof value === "string" && value.startsWith("$") ? given[value.slice(1)] ?? value : value;
}

/**
 * Draw a chart (analysis/page/chart_specs.py); gives Vega's view, or null where the library can't be read.
 * `data` and `signals` go in by their names; `titles` are those of axes.
 */
async function drawChart(box, name, { data, signals = {}, titles = {}, low, words }) {
  const vega = await staa.charts();
  if (!vega || !box.isConnected) return null;
  const spec = { ...filled(vega.specs[name], { ...inks(), low, ...titles }), description: words };
  const view = new vega.View(
    // Expressions are interpreted, without `eval`.
    vega.parse(spec, null, { ast: true }),
    { expr: vega.expressionInterpreter, renderer: "canvas", container: box, hover: true, tooltip: tip.handler(titles) },
  );
  for (const [key, values] of Object.entries(data)) view.data(key, values);
  for (const [key, value] of Object.entries(signals)) view.signal(key, value);
  await view.runAsync();
  box.removeAttribute("aria-busy");
  return view;
}

/** Classes by two numbers; a brush chooses, a click opens, and a row that is pointed at is ringed. */
function scatter({ points, xTitle, yTitle, onBrush, onOpen, words, diagonal }) {
  const box = h("div", { class: "chart scatter", "aria-busy": "true" });
  let view = null;
  // What has findings is drawn last, above the rest.
  points = [...points].sort((a, b) => (a.findings > 0) - (b.findings > 0));
  const data = { points };
  if (diagonal) {
    const numbers = points.flatMap((p) => [p.x, p.y]);
    data.ends = [Math.min(...numbers), Math.max(...numbers)].map((v) => ({ x: v, y: v }));
  }
  const name = diagonal ? "scatter_diagonal" : "scatter";
  requestAnimationFrame(() => drawChart(box, name, { data, titles: { x: xTitle, y: yTitle }, words }).then((made) => {
    if (!made) {
      box.replaceChildren(h("p", { class: "note" }, "The charts' library isn't there (charts.js); the table says the same."));
      return;
    }
    view = made;
    if (onBrush) view.addSignalListener("brush", (_name, value) => onBrush(value.x ? value : null));
    if (onOpen) view.addEventListener("click", (_event, item) => item?.datum?.i !== undefined && onOpen(item.datum.i));
  }));
  return { element: box, pick: (i) => view?.signal("pick", i).runAsync() };
}

/** Labels against predictions, as shares of each label's clips. */
function confusionChart(pairs, names, onOpen) {
  const totals = new Map();
  pairs.label.forEach((l, i) => totals.set(l, (totals.get(l) || 0) + pairs.n[i]));
  const values = pairs.label.map((l, i) => ({ l, p: pairs.prediction[i], share: pairs.n[i] / totals.get(l), n: pairs.n[i],
    label: names[l], prediction: names[pairs.prediction[i]] })).filter((v) => v.prediction !== undefined);
  const right = values.filter((v) => v.l === v.p).reduce((sum, v) => sum + v.n, 0);
  const all = values.reduce((sum, v) => sum + v.n, 0);
  const box = h("div", { class: "chart confusion", "aria-busy": "true" });
  values.sort((a, b) => a.share - b.share);
  // A lone small square has to be told from the page; a field of large ones may fade into it.
  const few = names.length <= 40;
  const low = dark.matches ? (few ? "#23272f" : "#3a4a60") : few ? "#eef0f2" : "#bccbdd";
  const words = `Confusion matrix of ${names.length} classes: ${show.percent(all ? right / all : null, 1)} of ${show.count(all)} labelled clips lie on its diagonal. The most frequent confusions are in the table beside it.`;
  whenSeen(box, () => drawChart(box, "confusion", { data: { pairs: values }, signals: { labels: names }, low, words }).then((view) => view?.addEventListener("click", (_event, item) => item?.datum?.l !== undefined && onOpen(item.datum.l))));
  return box;
}
