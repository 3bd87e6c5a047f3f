// The views, one for each path of the address, and the way between them.
"use strict";

let staaData = null;

const SHOWN = ["accuracy", "entropy", "class_agreement", "border_mass", "center_mass", "first_frame_mass"];
const shortName = (url) => url.replace(/\/+$/, "").split("/").pop();

/** Rows of the table of classes: those that have clips, or had some that failed. */
function classRows() {
  const c = staaData.classes;
  return c.name.map((_, i) => i).filter((i) => c.n[i] + c.failed[i] > 0);
}

function scoreOptions() {
  return Object.keys(staaData.classes).filter((k) => !["name", "failed", "peak"].includes(k)).map((k) => [k, k === "n" ? "clips" : show.label(k)]);
}

function classColumns(numbers) {
  const c = staaData.classes;
  const n_times = staaData.grid[0];
  return [
    { key: "name", label: "Class", head: true, class: "name", value: (i) => c.name[i], cell: namedClass },
    { key: "findings", label: "Findings", number: true, value: (i) => c.findings[i], cell: (i) => c.findings[i] || "" },
    { key: "n", label: "Clips", number: true, value: (i) => c.n[i], cell: (i) => show.count(c.n[i]) },
    ...numbers.map((key) => ({ key, label: show.title(key), number: true, title: staaData.describe[key], value: (i) => c[key][i],
      cell: (i) => (key === "accuracy" ? show.percent(c[key][i], 1) : show.number(c[key][i])) })),
    { key: "peak", label: "Peak step", number: true, value: (i) => (c.n[i] ? c.peak[i] : null), cell: (i) => (c.n[i] ? `${c.peak[i]} / ${n_times}` : "–") },
  ];
}

function tile(label, value, note) {
  return h("div", { class: "tile" }, h("dt", {}, label), h("dd", {}, h("b", {}, value), note && h("small", {}, note)));
}

function overview() {
  const { summary, states, classes, grid } = staaData;
  const found = staaData.nFindings;
  const view = h("div", {});
  const unlabelled = summary.n_ok - summary.n_labelled;
  const notes = [`${staaData.method} attributions of `, name_(staaData.model), `, ${grid[0]} time steps of ${grid[1]} × ${grid[2]} patches; classes by ${staaData.by}`];
  const confirmed = states.confirmed || 0;
  add(view, [
    h("h1", {}, staaData.classSpecific ? "What speaks for the answers" : "What the model looks at"), h("p", { class: "lead" }, notes),
    h("dl", { class: "tiles" },
      tile("Findings", staaData.audited ? show.count(found) : "–", staaData.audited ? `${show.count(confirmed)} confirmed` : "not audited yet"),
      tile("Accuracy", show.percent(summary.accuracy, 1), unlabelled ? `of ${show.count(summary.n_labelled)} labelled clips` : null),
      tile("Clips explained", show.count(summary.n_ok), `of ${show.count(summary.n_rows)}`),
      tile("Classes", show.count(classRows().length)),
      tile("Failed", show.count(summary.n_failed), summary.n_pending ? `${show.count(summary.n_pending)} still pending` : null)),
    h("section", {}, h("h2", {}, "To look at first"),
      !staaData.audited ? h("p", {}, "This run hasn't been audited as it is now: ", h("code", {}, "python -m jobs.audit RUN"), " looks for findings.")
        : !found ? h("p", {}, "The audit has found nothing that stands out from the rest.")
        : [h("div", { class: "cards" }, staaData.first.map((f, i) => findingCard(f, i + 1))),
          found > staaData.first.length && h("p", {}, h("a", { class: "all", href: "#/findings" }, `All ${many(found, "finding")} →`))]),
    classPicture(),
    h("section", {}, h("h2", {}, "Over all clips"), h("div", { class: "pair" },
      mapFigure({ title: mapTitle(), source: staaData.overall.map, alt: mapWords("all clips", staaData.overall), values: staaData.legend.map,
        note: staaData.overall.nearlyUniform ? `Nearly uniform: all of it lies between ${show.times(staaData.overall.least)} and ${show.times(staaData.overall.most.value)}.` : null }),
      profileFigure("all clips", staaData.overall.profile))),
    staaData.trust && trustSection(staaData.trust),
    summary.n_labelled > 0 && confusionSection(classes.name),
  ]);
  return view;
}

const range = (v) => (v.low === null || v.low === undefined ? "few videos" : `${show.number(v.low)} to ${show.number(v.high)}`);

/** What the model has said when it was asked about perturbed clips, over all and by class. */
function trustSection(trust) {
  const { faithfulness, time, sanity } = trust.groups;
  const flagged = faithfulness.some((f) => f.flagged);
  const head = (text, number = true) => h("th", { scope: "col", class: number && "number" }, text);
  const figures = (caption, list, own = null) => list.length > 0 && h("table", { class: "plain trust" }, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, head("Figure", false), head("Mean"), head("95 % interval"), own && head("Its own"))),
    h("tbody", {}, list.map((f) => h("tr", {}, h("th", { scope: "row" }, f.name, f.flagged && ` ${trust.flag}`, h("small", {}, f.what)),
      h("td", { class: "number" }, show.number(f.mean)), h("td", { class: "number" }, range(f)), own && h("td", { class: "number", title: range(own) }, show.number(own.mean))))));
  return h("section", {}, h("h2", {}, "How far to trust the maps"),
    h("p", { class: "lead" }, `The model was asked again about ${many(trust.n, "clip")}` + (trust.failed ? `; ${show.count(trust.failed)} more couldn't be measured` : "")),
    h("div", { class: "pair" },
      faithfulness.length > 0 && figures("Does the model need what is marked? Less random orders", faithfulness),
      h("div", {},
        figures("Which frames matter: rank agreement with their Shapley values", time, trust.own),
        time.length > 0 && h("p", { class: "note" }, "Absent frames show the clip's median frame. Its own: agreement of that reference with itself, on the clip shifted by two pixels; what is above it doesn't repeat."),
        figures("Does the map change when it has to? Lower is better", sanity),
        trust.notes.map((text) => h("p", { class: "note" }, text)))),
    flagged && h("p", { class: "note" }, `${trust.flag} ranks a corrupted truth above the truth, where the truth is known: don't go by it. A gap and what is removed are better when they are high, what is kept when it is low.`),
    trust.classes && trustOfClasses(trust.classes));
}

function trustOfClasses(t) {
  const names = staaData.classes.name;
  const rows = names.map((_, i) => i).filter((i) => t.n[i] > 0);
  return dataTable({ caption: "Gap over patches by class", rows, sort: "gap", prefix: "t", columns: [
    { key: "name", label: "Class", head: true, class: "name", value: (i) => names[i], cell: namedClass },
    { key: "gap", label: "Gap over patches", number: true, first: "asc", title: "insertion AUC less deletion AUC, less that of random orders; near 0, the model doesn't need what is marked", value: (i) => t.mean[i], cell: (i) => show.number(t.mean[i]) },
    { key: "interval", label: "95 % interval", number: true, value: (i) => t.low[i], cell: (i) => h("span", { class: "ranged" }, intervalMark(t.mean[i], t.low[i], t.high[i]), range({ low: t.low[i], high: t.high[i] })) },
    { key: "clips", label: "Clips asked about", number: true, value: (i) => t.n[i], cell: (i) => show.count(t.n[i]) },
  ] }).element;
}

/** All classes by two chosen scores, linked with the list beside it. */
function classPicture() {
  const c = staaData.classes;
  const read = () => {
    const { query } = place.read();
    const known = (key, other) => (c[key] ? key : c[other] ? other : "entropy");
    return { x: known(query.get("x"), staaData.summary.n_labelled ? "accuracy" : "probability"), y: known(query.get("y"), "border_mass") };
  };
  const area = h("div", { class: "linked" });
  const draw = () => {
    const { x, y } = read();
    const rows = classRows().filter((i) => c.n[i] > 0 && c[x][i] !== null && c[y][i] !== null);
    const points = rows.map((i) => ({ i, x: c[x][i], y: c[y][i], n: c.n[i], findings: c.findings[i], name: c.name[i] }));
    const label = (k) => (k === "n" ? "clips" : show.label(k));
    const count = h("p", { class: "count", "aria-live": "polite" });
    const shownKeys = [...new Set([x, y])].filter((k) => !["n", "findings"].includes(k));
    const ends = (k) => [Math.min(...rows.map((i) => c[k][i])), Math.max(...rows.map((i) => c[k][i]))].map(show.number).join(" to ");
    const plot = scatter({ points, xTitle: label(x), yTitle: label(y),
      words: `${many(rows.length, "class", "classes")} by ${label(x)} (${ends(x)}) and ${label(y)} (${ends(y)}); the list beside it holds the same numbers`,
      onOpen: (i) => { location.hash = place.to(`class/${i}`); },
      onBrush: (value) => list(value) });
    const table = dataTable({ caption: "Classes", rows, prefix: "c", sort: "-findings", columns: classColumns(shownKeys).filter((k) => k.key !== "peak"),
      onPoint: (i) => plot.pick(i ?? -1) });
    const list = (value) => {
      const inside = (i) => !value || (between(c[x][i], value.x) && between(c[y][i], value.y));
      const left = rows.filter(inside);
      count.textContent = value ? `${many(left.length, "class", "classes")} in the brushed area; click beside it to see all` : `${many(rows.length, "class", "classes")}; drag over the picture to choose some, click one to open it`;
      table.filter(left);
    };
    list(null);
    area.replaceChildren(h("div", {}, plot.element, count), table.element);
  };
  const between = (v, [a, b]) => v >= Math.min(a, b) && v <= Math.max(a, b);
  const { x, y } = read();
  const select = (label, name, standard) => field({ label, name, standard, options: scoreOptions(), onChange: draw });
  draw();
  return h("section", {}, h("h2", {}, "All classes"),
    h("div", { class: "fields" }, select("Across", "x", x), select("Up", "y", y),
      h("p", { class: "key" }, h("span", { class: "k dot marked" }, "has findings"), h("span", { class: "k dot" }, "has none"))), area);
}

function confusionSection(names) {
  const box = h("div", { class: "pair wide" }, h("p", {}, "…"));
  whenSeen(box, () => staa.load("confusion").then((pairs) => {
    const total = {};
    pairs.label.forEach((l, i) => (total[l] = (total[l] || 0) + pairs.n[i]));
    const wrong = pairs.n.map((n, i) => ({ n, l: pairs.label[i], p: pairs.prediction[i] })).filter((v) => v.l !== v.p && names[v.p] !== undefined)
      .sort((a, b) => b.n - a.n).slice(0, 12);
    box.replaceChildren(confusionChart(pairs, names, (i) => { location.hash = place.to(`class/${i}`); }),
      h("table", { class: "plain" }, h("caption", {}, "Most frequent confusions"),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Label"), h("th", { scope: "col" }, "Taken for"), h("th", { scope: "col", class: "number" }, "Clips"), h("th", { scope: "col", class: "number" }, "Share"))),
        h("tbody", {}, wrong.length ? wrong.map((v) => h("tr", {}, h("td", {}, classLink(v.l, names)), h("td", {}, classLink(v.p, names)),
          h("td", { class: "number" }, show.count(v.n)), h("td", { class: "number" }, show.percent(v.n / total[v.l], 1)))) : h("tr", {}, h("td", { colspan: 4 }, "None: every prediction is its label.")))));
  }));
  return h("section", {}, h("h2", {}, "What is taken for what"), box);
}

async function findings() {
  const all = (await staa.load("findings")).map((f, i) => ({ ...f, rank: i + 1 }));
  const count = h("p", { class: "count", role: "status" });
  const text = (f) => [kindName(f.kind), f.seen, f.check, ...f.subject, ...f.examples.map((e) => `${e.video_id} ${e.path || ""}`)].join(" ").toLowerCase();
  const table = dataTable({ caption: "Findings", rows: all, sort: "rank", details: findingDetails, empty: all.length ? "No finding matches the filters." : "There are no findings.",
    columns: [
      { key: "rank", label: "Rank", number: true, first: "asc", value: (f) => f.rank, cell: (f) => f.rank },
      { key: "kind", label: "Kind", value: (f) => kindName(f.kind), cell: (f) => h("span", { class: "kind" }, kindName(f.kind)) },
      { key: "subject", label: "About", class: "name", value: (f) => f.subject.join(" "), cell: subjectOf },
      { key: "seen", label: "What was seen", class: "seen", cell: (f) => f.seen },
      { key: "strength", label: "Strength", number: true, title: "0 to 1, comparable between kinds", value: (f) => f.strength, cell: (f) => f.strength.toFixed(2) },
      { key: "q", label: "q", number: true, first: "asc", title: "Benjamini-Hochberg over all tests of the kind", value: (f) => f.q, cell: (f) => show.small(f.q) },
      { key: "n", label: "Videos", number: true, value: (f) => f.n, cell: (f) => show.count(f.n) },
      { key: "proof", label: "Proof", value: (f) => f.proof.state, cell: (f) => proofBadge(f.proof.state) },
    ] });
  const filter = () => {
    const { query } = place.read();
    const words = (query.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
    const kept = all.filter((f) => (!query.get("kind") || f.kind === query.get("kind")) && (!query.get("proof") || f.proof.state === query.get("proof")) &&
      (!query.get("scope") || f.scope === query.get("scope")) && words.every((w) => text(f).includes(w)));
    const beyond = staaData.nFindings > all.length ? `; ${show.count(staaData.nFindings - all.length)} more are in findings.parquet` : "";
    count.textContent = (kept.length === all.length ? many(all.length, "finding") : `${show.count(kept.length)} of ${many(all.length, "finding")}`) + beyond;
    table.filter(kept);
  };
  const options = (of, word) => [["", `all ${word}`], ...[...new Set(all.map(of))].sort().map((v) => [v, word === "kinds" ? kindName(v) : v])];
  filter();
  return h("div", {}, h("h1", {}, "Findings"),
    !staaData.audited && h("p", {}, "This run hasn't been audited as it is now: ", h("code", {}, "python -m jobs.audit RUN"), " looks for findings."),
    h("div", { class: "fields sticky" }, field({ label: "Search", name: "q", placeholder: "words, a class, a video", onChange: filter }),
      field({ label: "Kind", name: "kind", options: options((f) => f.kind, "kinds"), onChange: filter }),
      field({ label: "Proof", name: "proof", options: options((f) => f.proof.state, "states"), onChange: filter }),
      field({ label: "About", name: "scope", options: options((f) => f.scope, "scopes"), onChange: filter }), count),
    table.element);
}

function classesView() {
  const c = staaData.classes;
  const count = h("p", { class: "count", role: "status" });
  // T of evidence says when it was read, not what the first frame weighs.
  const shown = SHOWN.filter((k) => staaData.timesWeigh || k !== "first_frame_mass");
  const numbers = shown.filter((k) => c[k] && c[k].some((v) => v !== null));
  const table = dataTable({ caption: "Classes", rows: classRows(), sort: "name", columns: [...classColumns(numbers),
    { key: "failed", label: "Failed", number: true, value: (i) => c.failed[i], cell: (i) => c.failed[i] || "" }] });
  const filter = () => {
    const { query } = place.read();
    const words = (query.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
    const kept = classRows().filter((i) => words.every((w) => c.name[i].toLowerCase().includes(w)) && (query.get("has") !== "findings" || c.findings[i] > 0));
    count.textContent = many(kept.length, "class", "classes");
    table.filter(kept);
  };
  filter();
  return h("div", {}, h("h1", {}, "Classes"), h("div", { class: "fields sticky" },
    field({ label: "Search", name: "q", placeholder: "part of a name", onChange: filter }),
    field({ label: "Show", name: "has", options: [["", "all classes"], ["findings", "those with findings"]], onChange: filter }), count), table.element);
}

async function classView([text]) {
  const index = Number(text), c = staaData.classes;
  if (!(index in c.name)) return missing(`There is no class ${text}.`);
  const [data, all] = await Promise.all([classData(index), staa.load("findings")]);
  const name = c.name[index], own = all.map((f, i) => ({ ...f, rank: i + 1 })).filter((f) => f.scope !== "clip" && f.subject.includes(name));
  const other = staaData.other && (await staa.load("other"));
  const otherName = staaData.other && shortName(staaData.other);
  const rows = classRows(), at = rows.indexOf(index);
  const beside = (i, label) => rows[i] !== undefined && h("a", { href: place.to(`class/${rows[i]}`), rel: label }, label === "prev" ? "← " : "", name_(c.name[rows[i]]), label === "next" ? " →" : "");
  const head = [h("nav", { class: "beside", "aria-label": "Neighbouring classes" }, h("span", {}, beside(at - 1, "prev")), h("span", {}, beside(at + 1, "next"))),
    h("h1", {}, name_(name)),
    h("p", { class: "lead" }, `${many(c.n[index], "clip")}, accuracy ${show.percent(c.accuracy[index], 1)}` + (c.failed[index] ? `, ${show.count(c.failed[index])} failed` : "")),
    ...gapOfClass(index)];
  if (!data) return h("div", {}, head, h("p", {}, "No clip of this class has an attribution."));
  const clips = groupsOfClips(data.clips);
  return h("div", {}, head,
    own.length > 0 && h("section", {}, h("h2", {}, "Findings"), h("div", { class: "cards" }, own.map((f) => findingCard(f, f.rank)))),
    data.map && h("section", {}, h("h2", {}, "Where and when"), classMaps(name, data, otherName && `run ${otherName}`),
      h("div", { class: "pair" }, profileFigure(name, data.profile, data.other?.profile, otherName), scoreStrips(index, other?.classes))),
    staaData.summary.n_labelled > 0 && classConfusion(index),
    h("section", {}, h("h2", {}, "Clips"), clips));
}

/** How much the model needs what is marked in a class's clips, if it was asked. */
function gapOfClass(index) {
  const t = staaData.trust?.classes;
  if (!t || !t.n[index]) return [];
  const gap = { mean: t.mean[index], low: t.low[index], high: t.high[index] };
  return [h("p", { class: "note" }, `Gap over patches ${show.number(gap.mean)} (${range(gap)}) in ${many(t.n[index], "clip")} that the model was asked about: above 0, it needs what is marked more than other parts.`)];
}

/** A class's clips by the reason why they are shown. */
function groupsOfClips(clips) {
  const order = Object.keys(staaData.reasons);
  const groups = order.map((why) => [why, clips.filter((clip) => clip.why.includes(why))]).filter(([, list]) => list.length);
  if (!groups.length) return h("p", {}, "No clip is shown.");
  return h("div", { class: "groups" }, groups.map(([why, list]) => h("section", { class: list.length > 3 ? "group broad" : "group" },
    h("h3", {}, show.title(why), h("small", {}, ` ${staaData.reasons[why]}`)), h("div", { class: "clips" }, list.map(clipCard)))));
}

function classConfusion(index) {
  const box = h("div", { class: "pair" });
  staa.load("confusion").then((pairs) => {
    const names = staaData.classes.name;
    const list = (title, mine, theirs) => {
      const rows = pairs.n.map((n, i) => ({ n, mine: pairs[mine][i], theirs: pairs[theirs][i] })).filter((v) => v.mine === index && v.theirs !== index && names[v.theirs] !== undefined).sort((a, b) => b.n - a.n);
      return h("table", { class: "plain" }, h("caption", {}, title), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Class"), h("th", { scope: "col", class: "number" }, "Clips"))),
        h("tbody", {}, rows.length ? rows.slice(0, 6).map((v) => h("tr", {}, h("td", {}, classLink(v.theirs, names)), h("td", { class: "number" }, show.count(v.n)))) : h("tr", {}, h("td", { colspan: 2 }, "none"))));
    };
    box.append(list("Its clips are taken for", "label", "prediction"), list("Taken for it are clips of", "prediction", "label"));
  });
  return h("section", {}, h("h2", {}, "Confusions"), box);
}

async function clipView([text]) {
  const clip = await clipOf(Number(text));
  if (!clip) return missing(`The page doesn't show row ${text}: analysis.show_clip(ds, ${Number(text)}) does, in a notebook.`);
  const index = await staa.load("clips");
  const group = index.class[index.row.indexOf(clip.row)], names = staaData.classes.name;
  const all = (await staa.load("findings")).map((f, i) => ({ ...f, rank: i + 1 })).filter((f) => f.examples.some((e) => e.row === clip.row));
  const otherName = clip.other && `run ${shortName(staaData.other)}`;
  const fact = (label, value) => value !== null && value !== undefined && h("div", {}, h("dt", {}, label), h("dd", {}, value));
  const inClass = group >= 0 ? (await classData(group)).clips : [];
  const at = inClass.findIndex((c) => c.row === clip.row);
  const beside = (c, label) => c && h("a", { href: place.to(`clip/${c.row}`), rel: label }, label === "prev" ? "← " : "", name_(c.video), label === "next" ? " →" : "");
  return h("div", {},
    h("nav", { class: "beside", "aria-label": "Neighbouring clips" }, h("span", {}, group >= 0 && ["in ", classLink(group, names)]), h("span", {}, beside(inClass[at - 1], "prev"), " ", beside(inClass[at + 1], "next"))),
    h("h1", {}, name_(clip.video)), h("p", { class: "lead" }, answerOf(clip)),
    h("div", { class: "clip-view" }, player(clip, otherName), h("div", {},
      clip.note && h("p", { class: "note" }, "Its frames aren't shown: ", name_(clip.note)),
      !clip.picture && !clip.note && h("p", { class: "note" }, staaData.sourceNote ? ["The clips' frames aren't shown: ", name_(staaData.sourceNote)] : `Frames are shown of ${many(staaData.nFrames, "clip")}; this one is shown by its map.`),
      h("dl", { class: "facts" }, fact("Row of the run", show.count(clip.row)), fact("Path", clip.path && name_(clip.path)), fact("Split", clip.split && name_(clip.split)),
        fact("Label", clip.label && name_(clip.label)), fact("Prediction", [name_(clip.prediction), ` ${show.percent(clip.probability, 1)}`]),
        fact("Probability of the label", clip.labelProbability !== null ? show.percent(clip.labelProbability, 1) : null),
        fact("Shown as", clip.why.join(", ")), fact("Largest patch", `${show.times(clip.top)} uniform`)),
      legend([0, 0.25, 0.5, 0.75, 1].map((level) => clip.low + (clip.high - clip.low) * level ** 2), "clip"),
      clip.range < 0.1 && h("p", { class: "note" }, "The map is nearly uniform: its contrast is stretched."),
      h("table", { class: "plain" }, h("caption", {}, "Scores"), h("tbody", {}, Object.entries(clip.scores).map(([key, v]) =>
        h("tr", {}, h("th", { scope: "row", title: staaData.describe[key] }, show.label(key)), h("td", { class: "number" }, show.number(v)))))))),
    all.length > 0 && h("section", {}, h("h2", {}, "Findings"), h("div", { class: "cards" }, all.slice(0, 12).map((f) => findingCard(f, f.rank)))));
}

async function compareView() {
  if (!staaData.other) return missing("This page shows one run: --beside RUN shows another one beside it.");
  const other = await staa.load("other"), c = staaData.classes, o = other.classes, name = shortName(staaData.other);
  const area = h("div", { class: "linked" });
  const draw = () => {
    const { query } = place.read();
    const key = c[query.get("score")] ? query.get("score") : staaData.summary.n_labelled ? "accuracy" : "entropy";
    const rows = classRows().filter((i) => c[key][i] !== null && o[key][i] !== null);
    const points = rows.map((i) => ({ i, x: o[key][i], y: c[key][i], n: c.n[i], findings: c.findings[i], name: c.name[i] }));
    const value = (v) => (key === "accuracy" ? show.percent(v, 1) : show.number(v));
    const plot = scatter({ points, diagonal: true, xTitle: `${show.label(key)} in ${name}`, yTitle: `${show.label(key)} in this run`, words: `${many(rows.length, "class", "classes")} by ${show.label(key)} in both runs; the list beside it holds the same numbers`,
      onOpen: (i) => { location.hash = place.to(`class/${i}`); } });
    const table = dataTable({ caption: "Classes in both runs", rows, sort: other.agreement ? "agreement" : "-change", onPoint: (i) => plot.pick(i ?? -1), columns: [
      { key: "name", label: "Class", head: true, class: "name", value: (i) => c.name[i], cell: namedClass },
      { key: "before", label: name, number: true, value: (i) => o[key][i], cell: (i) => value(o[key][i]) },
      { key: "now", label: "This run", number: true, value: (i) => c[key][i], cell: (i) => value(c[key][i]) },
      { key: "change", label: "Change", number: true, value: (i) => c[key][i] - o[key][i], cell: (i) => signedNumber(c[key][i] - o[key][i]) },
      ...(other.agreement ? [{ key: "agreement", label: "Maps agree", number: true, first: "asc", title: "Bhattacharyya coefficient of both mean maps: 1 where they are the same", value: (i) => other.agreement[i], cell: (i) => show.number(other.agreement[i]) }] : []),
    ] });
    area.replaceChildren(plot.element, table.element);
  };
  draw();
  const drift = (await staa.load("findings")).map((f, i) => ({ ...f, rank: i + 1 })).filter((f) => f.kind === "drift");
  return h("div", {}, h("h1", {}, "Two runs"), h("p", { class: "lead" }, "This run beside ", name_(staaData.other), `; ${many(other.nShared, "clip")} in both`),
    h("section", {}, h("h2", {}, "Where they differ"), drift.length ? h("div", { class: "cards" }, drift.slice(0, 12).map((f) => findingCard(f, f.rank))) : h("p", {}, "No class is looked at, or answered, so differently that it would be a finding.")),
    h("section", {}, h("h2", {}, "All classes"), h("div", { class: "fields" }, field({ label: "Score", name: "score", standard: staaData.summary.n_labelled ? "accuracy" : "entropy", options: scoreOptions().filter(([k]) => !["n", "findings"].includes(k)), onChange: draw })), area));
}

const signedNumber = (v) => `${v > 0 ? "+" : ""}${v.toFixed(3)}`;

async function runView() {
  const failures = await staa.load("failures");
  const { summary } = staaData;
  return h("div", {}, h("h1", {}, "The run"), h("p", { class: "lead" }, name_(staaData.run)),
    staaData.sourceNote && h("p", { class: "note" }, "Frames aren't shown: ", name_(staaData.sourceNote)),
    h("section", {}, h("h2", {}, "Failed clips"), summary.n_failed ? [h("p", {}, Object.entries(summary.failed).map(([k, v]) => `${show.count(v)} ${show.label(k)}`).join(", ")),
      dataTable({ caption: "Failed clips", rows: failures, prefix: "f", columns: [
        { key: "row", label: "Row", number: true, value: (f) => f.row, cell: (f) => f.row }, { key: "video", label: "Video", head: true, class: "name", value: (f) => f.video, cell: (f) => name_(f.video) },
        { key: "status", label: "Status", value: (f) => f.status, cell: (f) => show.label(f.status) }, { key: "message", label: "Message", class: "seen", cell: (f) => name_(f.message) }] }).element,
      summary.n_failed > failures.length && h("p", {}, `${show.count(summary.n_failed - failures.length)} more are in failures.parquet.`)] : h("p", {}, "None.")),
    h("section", {}, h("h2", {}, "What the scores mean"), h("dl", { class: "facts words" }, Object.entries(staaData.describe).map(([k, v]) => h("div", {}, h("dt", {}, show.label(k)), h("dd", {}, v))))),
    h("section", {}, h("h2", {}, "How it was made"), h("pre", { tabindex: "0" }, JSON.stringify(staaData.provenance, null, 2))));
}

async function searchView() {
  const { query } = place.read();
  const words = (query.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
  const [index, all] = await Promise.all([staa.load("clips"), staa.load("findings")]);
  const names = staaData.classes.name, has = (text) => words.length && words.every((w) => text.toLowerCase().includes(w));
  const classes = classRows().filter((i) => has(names[i]));
  const videos = index.row.map((row, i) => ({ row, video: index.video[i] })).filter((v) => has(v.video));
  const found = all.map((f, i) => ({ ...f, rank: i + 1 })).filter((f) => has([kindName(f.kind), f.seen, ...f.subject].join(" ")));
  const part = (title, list, line, most = 30) => list.length > 0 && h("section", {}, h("h2", {}, `${title} (${show.count(list.length)})`), h("ul", { class: "results" }, list.slice(0, most).map(line)), list.length > most && h("p", {}, `and ${show.count(list.length - most)} more`));
  say(`${many(classes.length, "class", "classes")}, ${many(videos.length, "video")}, ${many(found.length, "finding")}`);
  return h("div", {}, h("h1", {}, "Search"), !words.length ? h("p", {}, "Type a part of a class, a video or a finding above.") : null,
    words.length > 0 && !classes.length && !videos.length && !found.length && h("p", {}, `Nothing matches. The page holds ${show.count(index.row.length)} of ${show.count(staaData.summary.n_ok)} clips; analysis.scores(run) finds any.`),
    part("Classes", classes, (i) => h("li", {}, namedClass(i))),
    part("Findings", found, (f) => h("li", {}, h("span", { class: "kind" }, kindName(f.kind)), " ", subjectOf(f), h("p", {}, f.seen))),
    part("Videos", videos, (v) => h("li", {}, h("a", { href: place.to(`clip/${v.row}`) }, name_(v.video)))));
}

const missing = (text) => h("div", {}, h("h1", {}, "Not here"), h("p", {}, text), h("p", {}, h("a", { href: "#/" }, "To the overview")));

const VIEWS = { "": overview, findings, classes: classesView, class: classView, clip: clipView, compare: compareView, run: runView, search: searchView };
const NAV = () => [["", "Overview"], ["findings", "Findings", staaData.audited ? staaData.nFindings : null], ["classes", "Classes", classRows().length], staaData.other && ["compare", "Two runs"], ["run", "Run"]].filter(Boolean);

let asked = 0;
async function render({ focus = true } = {}) {
  const { path } = place.read(), turn = ++asked;
  const [part, ...rest] = path;
  let view;
  try {
    view = await (VIEWS[part ?? ""] || (() => missing("There is no such view.")))(rest);
  } catch (error) {
    view = missing(String(error.message || error));
  }
  if (turn !== asked) return;
  tip.element.hidden = true;
  const main = document.getElementById("main");
  main.replaceChildren(view);
  const title = view.querySelector("h1");
  document.title = `${title.textContent} · ${shortName(staaData.run)} · staa`;
  document.getElementById("nav").replaceChildren(...NAV().map(([to, label, n]) => h("a", { href: `#/${to}`, "aria-current": (part ?? "") === to && "page" }, label, n ? h("span", { class: "n" }, ` ${show.count(n)}`) : null)));
  if (!focus) return;
  scrollTo(0, 0);
  title.tabIndex = -1;
  title.focus({ preventScroll: true });
}

document.addEventListener("DOMContentLoaded", () => {
  const search = document.getElementById("search"), q = document.getElementById("q");
  staa.load("overview").then((data) => {
    staaData = data;
    palette.colors = atob(data.palette);
    q.value = place.read().path[0] === "search" ? place.read().query.get("q") || "" : "";
    render({ focus: false });
  }).catch((error) => document.getElementById("main").append(h("p", {}, String(error.message))));
  const find = () => {
    const to = place.to("search", { q: q.value });
    if (place.read().path[0] === "search") {
      history.replaceState(null, "", to);
      render({ focus: false });
    } else location.hash = to;
  };
  q.addEventListener("input", find);
  search.addEventListener("submit", (event) => {
    event.preventDefault();
    find();
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  });
});
addEventListener("hashchange", () => render({ focus: place.read().path[0] !== "search" }));
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest?.("input, select, textarea")) return;
  event.preventDefault();
  document.getElementById("q").focus();
});
dark.addEventListener("change", () => staaData && render({ focus: false }));
