// What every part of the page stands on: elements, data on demand, numbers, and the address.
"use strict";

const staa = (() => {
  const kept = new Map();
  const waiting = new Map();

  /** Data arrives: each script of data/ calls this once. */
  function take(name, value) {
    kept.set(name, value);
    waiting.get(name)?.resolve(value);
  }

  /** Load a script of data/ when it is first asked for; a page from disk can't fetch. */
  function load(name) {
    if (kept.has(name)) return Promise.resolve(kept.get(name));
    if (!waiting.has(name)) {
      const entry = {};
      entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
      waiting.set(name, entry);
      addScript(`data/${name}.js`).catch(() => {
        waiting.delete(name);
        entry.reject(new Error(`data/${name}.js can't be read`));
      });
    }
    return waiting.get(name).promise;
  }

  function addScript(source) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = source;
      script.onload = resolve;
      script.onerror = reject;
      document.head.append(script);
    });
  }

  let library = null;
  /** Load the charts' library and their specifications, after the first paint. */
  function charts() {
    library ??= new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 0)))
      .then(() => Promise.all([load("charts"), addScript("charts.js")]))
      .then(([specs]) => ({ specs, ...window.vegaCharts }), () => null);
    return library;
  }

  return { take, load, charts };
})();

/** Make an element. Texts become text nodes, so no name can be markup. */
function h(tag, attributes, ...children) {
  const svg = /^(svg|g|path|line|circle|rect|text|title)$/.test(tag);
  const element = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [p, v] of Object.entries(value)) element.style.setProperty(p, v);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Text that comes from data, kept apart from the direction of what is around it. */
const name_ = (text) => h("bdi", {}, text);

const show = {
  count: (v) => (v ?? 0).toLocaleString("en"),
  percent: (v, digits = 0) => (v === null || v === undefined ? "–" : `${(100 * v).toFixed(digits)}\u00a0%`),
  number: (v) => {
    if (v === null || v === undefined) return "–";
    if (Number.isInteger(v)) return v.toLocaleString("en");
    const size = Math.abs(v);
    return size !== 0 && size < 0.001 ? v.toExponential(1) : v.toFixed(size < 10 ? 3 : 1);
  },
  times: (v) => (v === null || v === undefined ? "–" : `${v.toFixed(v < 10 ? 2 : 0)}×`),
  small: (v) => (v === null || v === undefined ? "–" : v < 0.001 ? v.toExponential(0) : v.toFixed(3)),
  label: (key) => key.replaceAll("_", " ") + (staaData?.flagged?.includes(key) ? " !" : ""),
  title: (key) => show.label(key).replace(/^./, (c) => c.toUpperCase()),
};

const many = (n, one, more = `${one}s`) => `${show.count(n)} ${n === 1 ? one : more}`;

/** The address: `#/path/of/a/view?filters`. */
const place = {
  read() {
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
    const decode = (part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part;
      }
    };
    return { path: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(query || "") };
  },
  /** Keep filters in the address without leaving the view; an empty value leaves it. */
  keep(values) {
    const { query } = place.read();
    for (const [name, value] of Object.entries(values)) {
      if (value === "" || value === null || value === undefined) query.delete(name);
      else query.set(name, value);
    }
    const text = query.toString();
    const path = location.hash.split("?")[0] || "#/";
    history.replaceState(null, "", text ? `${path}?${text}` : path);
  },
  to: (path, values = {}) => {
    const text = new URLSearchParams(Object.entries(values).filter(([, v]) => v !== null)).toString();
    return `#/${path}${text ? `?${text}` : ""}`;
  },
};

/** Say something to who listens instead of looking. */
function say(text) {
  document.getElementById("said").textContent = text;
}

const still = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Call once an element comes into sight. */
function whenSeen(element, call) {
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    call();
  }, { rootMargin: "200px" }).observe(element);
  return element;
}

/** A link to a class, by its index. */
function classLink(index, names) {
  return h("a", { href: place.to(`class/${index}`) }, name_(names[index]));
}
