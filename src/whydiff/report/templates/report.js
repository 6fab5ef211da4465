"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const make = (tag, text, name) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  return node;
};
const number = (value) => (value === null || value === undefined ? "–" : value === 0 ? "0" : Number(value).toExponential(1));
const real = (value) => (typeof value === "string" ? Number(value) : value);

/* theme: the reader's choice, else the system's */
const root = document.documentElement;
const themeButton = byId("theme");
const setTheme = (dark) => {
  root.dataset.theme = dark ? "dark" : "light";
  themeButton.setAttribute("aria-pressed", String(dark));
  themeButton.textContent = dark ? "Light" : "Dark";
  if (window.Plotly) document.querySelectorAll(".chart[data-wired]").forEach(draw);
};
const system = window.matchMedia("(prefers-color-scheme: dark)");
setTheme(system.matches);
system.addEventListener("change", (event) => setTheme(event.matches));
themeButton.addEventListener("click", () => setTheme(root.dataset.theme !== "dark"));

/* copy buttons */
document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    window.getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

/* ops: rows hold indices into the tables of texts */
const table = data.ops;
const rows = table ? table.rows : [];
const S = {};
if (table) table.columns.forEach((name, index) => { S[name] = index; });
const scopeOf = (row) => table.scope[row[S.scope]];
const stateOf = (row) => table.state[row[S.state]];
const list = (row, column) => row[S[column]].map((index) => table.spec[index]).join(", ");
const opName = (row) => table.op[row[S.op]] + (row[S.occurrence] ? ` (${row[S.occurrence] + 1})` : "") + table.suffix[row[S.suffix]];

const swatch = (state, rel) => {
  const value = real(rel);
  if (state === "agrees") return "agrees";
  if (state !== "differs" && state !== "starts here") return "gone";
  if (value === null || value === undefined) return "differs";
  return value < 1e-6 ? "d1" : value < 1e-4 ? "d2" : value < 1e-2 ? "d3" : "d4";
};

/* module tree */
const tree = byId("tree");
let filterOps = () => {};
if (tree) {
  const top = { name: "(the whole program)", path: "", children: new Map(), ops: 0, differ: 0, starts: 0, gone: 0, rel: null };
  const known = new Map([["", top]]);
  const node = (path) => {
    const found = known.get(path);
    if (found) return found;
    const cut = path.lastIndexOf(".");
    const parent = node(cut < 0 ? "" : path.slice(0, cut));
    const made = { name: path.slice(cut + 1), path, children: new Map(), ops: 0, differ: 0, starts: 0, gone: 0, rel: null, parent };
    parent.children.set(path, made);
    known.set(path, made);
    return made;
  };
  const chains = table.scope.map((path) => {
    const chain = [];
    for (let one = node(path); one; one = one.parent) chain.push(one);
    return chain;
  });
  for (const row of rows) {
    const state = stateOf(row), rel = row[S.rel];
    chains[row[S.scope]].forEach((one) => {
      one.ops += 1;
      if (state === "differs" || state === "starts here") one.differ += 1;
      else if (state !== "agrees") one.gone += 1;
      if (state === "starts here") one.starts += 1;
      if (rel !== null) one.rel = Math.max(one.rel ?? 0, Number.isNaN(real(rel)) ? Infinity : real(rel));
    });
  }
  const worst = (one) => (one.differ ? "differs" : one.gone === one.ops && one.ops ? "not compared" : "agrees");
  const words = (one) => {
    const said = [one.differ ? `${one.differ} of ${one.ops} ops differ` : one.gone === one.ops ? "not compared" : `${one.ops} ops agree`];
    if (one.starts) said.push(one.starts === 1 ? "a difference starts here" : `differences start in ${one.starts} places`);
    if (one.differ && one.rel !== null) said.push(`relative error up to ${number(one.rel)}`);
    return said.join("; ");
  };
  const label = (one, query) => {
    const line = make("span");
    line.append(make("span", "", `swatch ${swatch(worst(one), one.rel)}`));
    const at = query ? one.name.toLowerCase().indexOf(query) : -1;
    if (at >= 0) line.append(one.name.slice(0, at), make("mark", one.name.slice(at, at + query.length)), one.name.slice(at + query.length));
    else line.append(make(one.starts ? "b" : "span", one.name));
    line.append(" ", make("span", words(one), "dim"));
    return line;
  };
  const shown = (one, keep, query) => {
    const item = make("li");
    const only = make("button", "show ops", "only");
    only.type = "button";
    only.setAttribute("aria-label", `show ops of ${one.path || one.name}`);
    only.addEventListener("click", (event) => { event.preventDefault(); filterOps(one.path); });
    const children = [...one.children.values()].filter((child) => !keep || keep.has(child));
    if (!children.length) {
      const leaf = make("div", undefined, "leaf");
      leaf.append(label(one, query), only);
      item.append(leaf);
      return item;
    }
    const details = make("details"), summary = make("summary");
    summary.append(label(one, query));
    details.append(summary, only);
    const fill = () => {
      if (details.querySelector("ul")) return;
      const inner = make("ul");
      children.forEach((child) => inner.append(shown(child, keep, query)));
      details.append(inner);
    };
    details.addEventListener("toggle", () => details.open && fill());
    if (keep || one === top || (one.starts && one.path.split(".").length < 3)) { fill(); details.open = true; }
    item.append(details);
    return item;
  };
  const search = byId("tree-search"), counted = byId("tree-count");
  const MOST = 200;
  const show = () => {
    const query = search.value.trim().toLowerCase();
    let keep = null;
    if (query) {
      keep = new Set();
      let hits = 0;
      for (const [path, one] of known) {
        if (!path.toLowerCase().includes(query)) continue;
        hits += 1;
        if (hits > MOST) continue;
        for (let up = one; up; up = up.parent) keep.add(up);
      }
      counted.textContent = hits > MOST ? `${hits} modules match; the first ${MOST} are shown` : hits === 1 ? "1 module matches" : `${hits} modules match`;
    } else counted.textContent = `${known.size} modules, ${rows.length} ops`;
    const list = make("ul");
    list.append(shown(top, keep, query));
    tree.replaceChildren(list);
  };
  let waiting;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(show, 120); });
  byId("tree-close").addEventListener("click", () => tree.querySelectorAll("details").forEach((one) => { one.open = false; }));
  show();
}

/* op table */
if (byId("ops")) {
  const PAGE = 50;
  const columns = [
    ["place", scopeOf], ["op", opName], ["state", stateOf], ["output", (row) => list(row, "writes")], ["inputs", (row) => list(row, "reads")],
    ["max abs", (row) => row[S.max], true], ["rel L2", (row) => row[S.rel], true], ["operator", (row) => table.target[row[S.target]]], ["source", (row) => table.source[row[S.source]]],
  ];
  const head = document.querySelector("#ops thead tr"), body = document.querySelector("#ops tbody");
  const filter = byId("op-filter"), state = byId("op-state"), page = byId("op-page"), counted = byId("op-count");
  let sorted = -1, down = false, found = rows;
  table.state.forEach((name) => { const option = make("option", name); option.value = name; state.append(option); });
  const texts = new Map();
  const haystack = (row) => {
    const key = row[S.scope] * 65536 + row[S.op];
    if (!texts.has(key)) texts.set(key, `${scopeOf(row)}:${table.op[row[S.op]]}`.toLowerCase());
    return texts.get(key);
  };
  const show = () => {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    const now = Math.min(pages, Math.max(1, Math.trunc(Number(page.value)) || 1));
    page.value = now; page.max = pages;
    byId("op-previous").disabled = now === 1; byId("op-next").disabled = now === pages;
    counted.textContent = `${found.length} of ${rows.length} ops; page ${now} of ${pages}`;
    body.replaceChildren(...found.slice((now - 1) * PAGE, now * PAGE).map((row) => {
      const line = make("tr");
      for (const [name, read, numeric] of columns) {
        const value = read(row);
        const cell = make("td", numeric ? number(real(value)) : value || "–", numeric ? "number" : "");
        if (name === "state") cell.prepend(make("span", "", `swatch ${swatch(value, row[S.rel])}`));
        line.append(cell);
      }
      return line;
    }));
    body.parentElement.dataset.ready = "yes";
  };
  const choose = () => {
    const query = filter.value.trim().toLowerCase();
    const wanted = state.value;
    found = rows.filter((row) => (!query || haystack(row).includes(query)) && (!wanted || stateOf(row) === wanted));
    if (sorted >= 0) {
      const [, read, numeric] = columns[sorted];
      const keyed = found.map((row) => [read(row), row]);
      const rank = (value) => (value === null ? -1 : Number.isNaN(real(value)) ? Infinity : real(value));
      keyed.sort(([a], [b]) => (numeric ? rank(a) - rank(b) : a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1));
      found = keyed.map(([, row]) => row);
    }
    page.value = 1;
    show();
  };
  columns.forEach(([name, , numeric], index) => {
    const cell = make("th", undefined, numeric ? "number" : "");
    cell.scope = "col";
    const button = make("button", name);
    button.type = "button";
    button.addEventListener("click", () => {
      down = sorted === index ? !down : Boolean(numeric);
      sorted = index;
      head.querySelectorAll("th").forEach((one, i) => {
        if (i === index) one.setAttribute("aria-sort", down ? "descending" : "ascending");
        else one.removeAttribute("aria-sort");
      });
      choose();
    });
    cell.append(button);
    head.append(cell);
  });
  let waiting;
  filter.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(choose, 120); });
  state.addEventListener("change", choose);
  page.addEventListener("change", show);
  byId("op-previous").addEventListener("click", () => { page.value = Number(page.value) - 1; show(); });
  byId("op-next").addEventListener("click", () => { page.value = Number(page.value) + 1; show(); });
  filterOps = (path) => { filter.value = path; state.value = ""; choose(); byId("ops").scrollIntoView(); filter.focus({ preventScroll: true }); };
  choose();
}

performance.mark("whydiff-ready");

/* charts: labels are text, and Plotly reads markup and formulas in text */
const inert = (label) => String(label).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;");
const short = (label) => (label.length > 34 ? `${label.slice(0, 12)}…${label.slice(-20)}` : label);
const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
function draw(holder) {
  const chart = data.charts[Number(holder.dataset.chart)];
  const x = chart.x.map((_, index) => index);
  const axis = { gridcolor: color("--grid"), zerolinecolor: color("--grid"), linecolor: color("--line"), automargin: true };
  const ticks = { tickvals: x.filter((i) => i % Math.ceil(x.length / 12) === 0), tickangle: x.length > 8 ? -35 : 0 };
  ticks.ticktext = ticks.tickvals.map((i) => inert(short(chart.x[i])));
  const names = chart.x.map(inert);
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: color("--ink"), size: 12 }, margin: { l: 60, r: 16, t: 10, b: 60 },
    height: chart.kind === "heat" ? 340 : 320, xaxis: { ...axis, ...ticks }, yaxis: { ...axis, title: { text: inert(chart.unit) } },
    showlegend: chart.series.length > 1 || chart.marks.length > 0, legend: { orientation: "h", y: 1.12 },
  };
  let traces;
  const values = (series) => series.map((value) => (value === null ? null : real(value)));
  if (chart.kind === "heat") {
    const z = chart.series.map(([, series]) => values(series));
    layout.yaxis = { ...axis, tickvals: z.map((_, i) => i).filter((i) => i % Math.ceil(z.length / 12) === 0), autorange: "reversed" };
    layout.yaxis.ticktext = layout.yaxis.tickvals.map((i) => inert(short(chart.series[i][0])));
    const dark = root.dataset.theme === "dark";
    const hover = z.map((row, i) => row.map((value, j) => `${inert(chart.series[i][0])}, ${names[j]}: ${number(value)}`));
    traces = [{ type: "heatmap", z, text: hover, hoverinfo: "text", colorscale: [[0, dark ? "#161b22" : "#f6f8fa"], [0.001, color("--d1")], [0.4, color("--d2")], [1, color("--d4")]], colorbar: { thickness: 12, outlinewidth: 0 } }];
  } else {
    traces = chart.series.map(([name, series], index) => ({
      type: chart.kind === "bar" ? "bar" : "scatter", mode: "lines+markers", name: inert(name), x, y: values(series), text: names, hovertemplate: "%{text}<br>%{y:.2e}<extra></extra>",
      textposition: "none", marker: { color: color(`--series${(index % 3) + 1}`), size: 5 }, line: { color: color(`--series${(index % 3) + 1}`) }, connectgaps: false,
    }));
    if (chart.log) layout.yaxis.type = "log";
    layout.yaxis.exponentformat = "e";
    if (chart.marks.length) {
      const [, first] = chart.series[0];
      const seen = values(first).filter((value) => value > 0 && Number.isFinite(value));
      const floor = seen.length ? Math.min(...seen) : 1e-12;
      traces.push({ type: "scatter", mode: "markers", name: "a difference starts", x: chart.marks, y: chart.marks.map((i) => real(first[i]) || floor), text: chart.marks.map((i) => names[i]), hovertemplate: "%{text}<extra></extra>", marker: { symbol: "diamond-open", size: 14, color: color("--mark"), line: { width: 3 } } });
    }
  }
  window.Plotly.react(holder, traces, layout, { displayModeBar: false, responsive: true });
  if (!holder.dataset.wired) {
    holder.dataset.wired = "yes";
    holder.on("plotly_click", (event) => chart.opens && filterOps(chart.x[event.points[0].x]));
  }
}
/* the charts' library is large: it is read when the first chart comes into view, and each chart is drawn then */
const idle = window.requestIdleCallback ? (work) => window.requestIdleCallback(work, { timeout: 1000 }) : (work) => setTimeout(work, 50);
window.whydiffCharts = () => {
  const library = byId("plotly");
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      idle(() => {
        if (!window.Plotly) { const script = make("script", library.textContent); document.body.append(script); library.remove(); }
        draw(target);
      });
    }
  }, { rootMargin: "200px" });
  const begin = () => document.querySelectorAll(".chart").forEach((holder) => seen.observe(holder));
  if (document.readyState === "complete") begin(); else window.addEventListener("load", () => setTimeout(begin, 50));
};
})();
