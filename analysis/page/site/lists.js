// Lists: tables that sort and filter, with what was chosen kept in the address.
"use strict";

const PAGE = 100;

/**
 * A table. Columns: key, label, value(row) to sort by, cell(row), number, title, first ("desc" or
 * "asc": the order of the first click).
 */
function dataTable({ caption, columns, rows, sort, prefix = "", details, onPoint, empty }) {
  const { query } = place.read();
  const asked = query.get(`${prefix}sort`) || sort || "";
  let key = asked.replace(/^-/, ""), down = asked.startsWith("-"), shown = rows, limit = PAGE;
  const body = h("tbody", {});
  const more = h("button", { type: "button", class: "more", hidden: true, onclick: () => { limit += 5 * PAGE; draw(); } });
  const heads = columns.map((column) => {
    const button = column.value && h("button", { type: "button", title: column.title, onclick: () => {
      const first = column.first ?? (column.number ? "desc" : "asc");
      down = key === column.key ? !down : first === "desc";
      key = column.key;
      place.keep({ [`${prefix}sort`]: (down ? "-" : "") + key });
      draw();
      say(`Sorted by ${column.label}, ${down ? "largest" : "smallest"} first`);
    } }, column.label, h("span", { class: "arrow", "aria-hidden": "true" }));
    return { column, element: h("th", { scope: "col", class: column.number && "number", title: button ? null : column.title }, button || column.label) };
  });
  const draw = () => {
    const column = columns.find((c) => c.key === key && c.value);
    const ordered = column ? [...shown].sort((a, b) => compare(column.value(a), column.value(b), down)) : shown;
    for (const { column: c, element } of heads)
      if (c.value) element.setAttribute("aria-sort", c.key === key ? (down ? "descending" : "ascending") : "none");
    body.replaceChildren(...ordered.slice(0, limit).map(line));
    if (!ordered.length) body.append(h("tr", {}, h("td", { colspan: columns.length + (details ? 1 : 0), class: "empty" }, empty || "Nothing matches.")));
    more.hidden = ordered.length <= limit;
    more.textContent = `Show more (${show.count(ordered.length - limit)} left)`;
  };
  const line = (row) => {
    const cells = columns.map((c) => h(c.head ? "th" : "td", { scope: c.head && "row", class: [c.number && "number", c.class].filter(Boolean).join(" ") || null, "data-label": c.label }, c.cell(row)));
    const tr = h("tr", { onpointerenter: onPoint && (() => onPoint(row)), onpointerleave: onPoint && (() => onPoint(null)),
      onfocusin: onPoint && (() => onPoint(row)), onfocusout: onPoint && (() => onPoint(null)) }, cells);
    if (!details) return tr;
    let open = null;
    const button = h("button", { type: "button", class: "open", "aria-expanded": "false", "aria-label": `Details of finding ${row.rank}`, onclick: () => {
      if (open) open.remove();
      open = open ? null : h("tr", { class: "details" }, h("td", { colspan: columns.length + 1 }, details(row)));
      if (open) tr.after(open);
      button.setAttribute("aria-expanded", String(Boolean(open)));
    } }, h("span", { "aria-hidden": "true" }));
    tr.prepend(h("td", { class: "opener" }, button));
    return tr;
  };
  draw();
  const table = h("table", { class: "data" }, h("caption", { class: "hidden" }, caption),
    h("thead", {}, h("tr", {}, details && h("td", {}), heads.map((x) => x.element))), body);
  return {
    element: h("div", { class: "listing" }, table, more),
    filter(rows_) {
      shown = rows_;
      limit = PAGE;
      draw();
    },
  };
}

/** Missing values come last, whichever way the order goes. */
function compare(a, b, down) {
  const missing = (v) => v === null || v === undefined;
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return down ? -order : order;
}

/** A field that filters, and keeps what it holds in the address. */
function field({ label, name, options, onChange, placeholder, standard = "" }) {
  const value = place.read().query.get(name) ?? standard;
  const keep = (event) => {
    place.keep({ [name]: event.target.value === standard ? "" : event.target.value });
    onChange();
  };
  const input = options
    ? h("select", { onchange: keep }, options.map(([v, text]) => h("option", { value: v, selected: v === value }, text)))
    : h("input", { type: "search", value, placeholder, autocomplete: "off", oninput: keep });
  return h("label", { class: "field" }, h("span", {}, label), input);
}

/** A class's name beside its map. */
const namedClass = (i) => h("span", { class: "named" }, thumbnail(i), classLink(i, staaData.classes.name));

/** The small picture of a class's map, out of the one that holds all. */
function thumbnail(index) {
  const columns = staaData.sheetColumns, rows = Math.ceil(staaData.classes.name.length / columns);
  const at = (i, n) => (n > 1 ? `${(100 * i) / (n - 1)}%` : "0");
  return h("span", { class: "thumb", "aria-hidden": "true", style: {
    "background-image": 'url("images/maps.png")', "background-size": `${100 * columns}% ${100 * rows}%`,
    "background-position": `${at(index % columns, columns)} ${at(Math.floor(index / columns), rows)}`,
    "aspect-ratio": `${staaData.grid[2]} / ${staaData.grid[1]}` } });
}

const KINDS = {
  logo: "Logo or border", static: "A still would do", first_last_frames: "First or last frames", centre_only: "Centre only",
  unlike_class: "Unlike its class", strategies: "Several strategies", other_when_wrong: "Other when wrong", label_suspect: "Label suspect",
  near_duplicate: "Near duplicates", off_object: "Misses the object", attention_sink: "Attention sink", drift: "Drift",
};
const kindName = (kind) => KINDS[kind] || show.label(kind);

function proofBadge(state) {
  const marks = { confirmed: "✓", "not confirmed": "✗", "not tried": "·", "not applicable": "–" };
  return h("span", { class: `proof ${state.replace(" ", "-")}` }, h("span", { "aria-hidden": "true" }, `${marks[state]} `), state);
}

/** What a finding is about: classes link to their pages, videos to their clips. */
function subjectOf(finding) {
  if (!finding.subject.length) return "the whole dataset";
  const names = staaData.classes.name;
  return finding.subject.flatMap((text, i) => {
    const index = finding.scope === "clip" ? -1 : names.indexOf(text);
    const clip = finding.examples.find((e) => e.video_id === text);
    const shown = index >= 0 ? classLink(index, names) : clip ? h("a", { href: place.to(`clip/${clip.row}`) }, name_(text)) : name_(text);
    return i ? [", ", shown] : [shown];
  });
}

/** The proof of a finding, in words and drawn. */
function proofOf(finding) {
  const proof = finding.proof;
  if (proof.note) return h("p", {}, proofBadge(proof.state), ` ${proof.note}`);
  if (proof.state === "not tried")
    return finding.kind === "label_suspect"
      ? h("p", {}, proofBadge(proof.state), " No second model has tried it yet: ", h("code", {}, "jobs.audit --second-model RUN"), " does.")
      : h("p", {}, proofBadge(proof.state), " No intervention has tried it yet: ", h("code", {}, "jobs.audit --verify"), " does.");
  if (proof.state === "not applicable") return h("p", {}, proofBadge(proof.state), " No intervention on frames can prove a finding of this kind.");
  const [what, beside] = finding.kind === "static" ? ["one frame was repeated", "shuffled frames"]
    : ["what it names was taken away", "a random part of that size"];
  return h("div", { class: "proven" }, proofBadge(proof.state), h("p", {},
    `When ${what}, the class's probability changed by ${show.number(proof.change)}` +
    (proof.random_change !== null ? `, for ${beside} by ${show.number(proof.random_change)}` : "") +
    (proof.low !== null ? ` (95 % interval of the difference ${show.number(proof.low)} to ${show.number(proof.high)})` : "") +
    `, over ${many(proof.n_clips, "clip")}.`), intervalMark(proof.change, proof.low, proof.high, proof.random_change));
}

/** All that is known of a finding, with its clips. */
function findingDetails(finding) {
  const clips = h("div", { class: "clips" });
  exampleClips(finding).then((found) => clips.replaceChildren(...found.map(clipCard)));
  const effect = finding.low === null ? show.number(finding.effect)
    : `${show.number(finding.effect)} (95 % interval ${show.number(finding.low)} to ${show.number(finding.high)})`;
  return h("div", { class: "finding-details" },
    h("p", { class: "check" }, finding.check),
    h("dl", { class: "facts" },
      h("div", {}, h("dt", {}, finding.effect_name), h("dd", {}, effect, " ", intervalMark(finding.effect, finding.low, finding.high))),
      h("div", {}, h("dt", {}, "p, and q over all tests of the kind"), h("dd", {}, `${show.small(finding.p)}, ${show.small(finding.q)}`)),
      h("div", {}, h("dt", {}, "videos"), h("dd", {}, show.count(finding.n)))),
    proofOf(finding), clips);
}

/** The clips that show a finding, as far as the page has them. */
async function exampleClips(finding) {
  const rows = finding.examples.map((e) => e.row);
  return (await Promise.all(rows.map(clipOf))).filter(Boolean);
}

/** A clip of the page by its row; null where the page doesn't have it. */
async function clipOf(row) {
  const index = await staa.load("clips");
  const at = index.row.indexOf(row);
  if (at < 0) return null;
  const data = await classData(index.class[at]);
  return data?.clips.find((clip) => clip.row === row) || null;
}

const classData = (index) => staa.load(index < 0 ? "class-none" : `class-${index}`).catch(() => null);

/** A finding as a card of the overview. */
function findingCard(finding, rank) {
  const clips = h("div", { class: "clips three" });
  whenSeen(clips, () => exampleClips(finding).then((found) => clips.replaceChildren(...found.slice(0, 3).map(clipCard))));
  return h("article", { class: "card finding", "aria-label": `Finding ${rank}: ${kindName(finding.kind)}` },
    h("header", {}, h("span", { class: "kind" }, kindName(finding.kind)), proofBadge(finding.proof.state)),
    h("h3", {}, subjectOf(finding)), h("p", {}, finding.seen), h("p", { class: "check" }, finding.check), clips);
}
