// Charts by Vega-Lite: all classes at a glance, and what is taken for what.
"use strict";

/** Colours of the page, for the charts: they follow light and dark. */
function inks() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["ink", "muted", "line", "accent", "mark", "panel"].map((n) => [n, style.getPropertyValue(`--${n}`).trim()]));
}

const tip = {
  element: document.getElementById("tip"),
  /** Vega's tooltip, as text alone. */
  handle: (_handler, event, _item, value) => {
    if (!value) {
      tip.element.hidden = true;
      return;
    }
    tip.element.replaceChildren(...Object.entries(value).map(([key, v], i) =>
      h("div", {}, i > 0 && h("span", {}, `${key} `), i > 0 ? h("b", {}, name_(v)) : h("strong", {}, name_(v)))));
    tip.element.hidden = false;
    const { width, height } = tip.element.getBoundingClientRect();
    tip.element.style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
    tip.element.style.top = `${Math.min(event.clientY + 14, innerHeight - height - 8)}px`;
  },
};

function chartConfig() {
  const ink = inks();
  const axis = { domainColor: ink.line, gridColor: ink.line, tickColor: ink.line, labelColor: ink.muted, titleColor: ink.muted,
    titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12.5, gridOpacity: 0.6 };
  return { background: null, font: "system-ui, sans-serif", axis, view: { stroke: null }, legend: { labelColor: ink.muted, titleColor: ink.muted, titleFontWeight: "normal" } };
}

/** Embed a chart; gives Vega's view, or null where the library can't be read. */
async function embed(box, spec, words) {
  const vegaEmbed = await staa.vega();
  if (!vegaEmbed || !box.isConnected) return null;
  const { view } = await vegaEmbed(box, { $schema: "https://vega.github.io/schema/vega-lite/v6.json", ...spec, description: words, config: chartConfig() },
    // Without `eval`, and without a style sheet of the library's own.
    { ast: true, actions: false, defaultStyle: false, renderer: "canvas", tooltip: tip.handle });
  box.removeAttribute("aria-busy");
  return view;
}

/** Classes by two numbers; a brush chooses, a click opens, and a row that is pointed at is ringed. */
function scatter({ points, xTitle, yTitle, onBrush, onOpen, words, diagonal }) {
  const box = h("div", { class: "chart scatter", "aria-busy": "true" });
  let view = null;
  const ink = inks();
  // What has findings is drawn last, above the rest.
  points = [...points].sort((a, b) => (a.findings > 0) - (b.findings > 0));
  const share = points.map((p) => p.x).concat(points.map((p) => p.y));
  const ends = [Math.min(...share), Math.max(...share)];
  const position = { x: { field: "x", type: "quantitative", title: xTitle, axis: { tickCount: 7 }, scale: { zero: false, nice: true, padding: 10 } },
    y: { field: "y", type: "quantitative", title: yTitle, scale: { zero: false, nice: true, padding: 10 } } };
  const spec = {
    width: "container", height: 400, autosize: { type: "fit", contains: "padding" },
    data: { values: points }, params: [{ name: "pick", value: -1 }],
    layer: [
      diagonal && { data: { values: [{ x: ends[0], y: ends[0] }, { x: ends[1], y: ends[1] }] }, mark: { type: "line", strokeDash: [4, 4], color: ink.muted, strokeWidth: 1 }, encoding: position },
      { params: [{ name: "brush", select: { type: "interval" } }],
        mark: { type: "circle", cursor: "pointer" },
        encoding: { ...position,
          size: { field: "n", type: "quantitative", legend: null, scale: { range: [30, 220], zero: true } },
          color: { condition: { test: "datum.findings > 0", value: ink.mark }, value: ink.accent },
          opacity: { condition: { param: "brush", value: 0.8 }, value: 0.12 },
          tooltip: [{ field: "name", title: "class" }, { field: "x", title: xTitle, format: ".3~f" }, { field: "y", title: yTitle, format: ".3~f" },
            { field: "n", title: "clips" }, { field: "findings", title: "findings" }] } },
      { mark: { type: "point", size: 320, strokeWidth: 2.5, color: ink.ink, filled: false }, encoding: { ...position, opacity: { condition: { test: "datum.i === pick", value: 1 }, value: 0 } } },
    ].filter(Boolean),
  };
  requestAnimationFrame(() => embed(box, spec, words).then((made) => {
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
  const few = names.length <= 40;
  const ink = inks();
  const axis = (field, title, orient) => few
    ? { field, type: "ordinal", title, sort: null, scale: { domain: names.map((_, i) => i) }, axis: { labelExpr: "labels[datum.value]", labelLimit: 110, labelAngle: orient === "x" ? -40 : 0, grid: false } }
    : { field, type: "quantitative", title: `${title} (index of the class)`, scale: { domain: [-1, names.length], nice: false, reverse: field === "l" }, axis: { grid: false } };
  const spec = {
    width: "container", height: few ? 30 * names.length + 130 : 560, autosize: { type: "fit", contains: "padding" },
    params: [{ name: "labels", value: names }],
    data: { values: values.sort((a, b) => a.share - b.share) },
    mark: few ? { type: "rect", cursor: "pointer" } : { type: "square", size: Math.max(9, (440 / names.length) ** 2), opacity: 1, cursor: "pointer" },
    encoding: {
      x: axis("p", "Prediction", "x"), y: axis("l", "Label", "y"),
      color: { field: "share", type: "quantitative", title: "share of the label", scale: { type: "sqrt", domain: [0, 1], range: [dark.matches ? (few ? "#23272f" : "#3a4a60") : few ? "#eef0f2" : "#bccbdd", ink.accent] }, legend: { format: ".0%", orient: "top", gradientLength: 160 } },
      tooltip: [{ field: "label", title: "label" }, { field: "prediction", title: "taken for" }, { field: "n", title: "clips" }, { field: "share", title: "share", format: ".1%" }],
    },
  };
  const words = `Confusion matrix of ${names.length} classes: ${show.percent(all ? right / all : null, 1)} of ${show.count(all)} labelled clips lie on its diagonal. The most frequent confusions are in the table beside it.`;
  whenSeen(box, () => embed(box, spec, words).then((view) => view?.addEventListener("click", (_event, item) => item?.datum?.l !== undefined && onOpen(item.datum.l))));
  return box;
}
