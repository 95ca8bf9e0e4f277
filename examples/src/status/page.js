"use strict";
// Keeps the page up to date: reads status.json again and again, and fills in what the server filled in first.
// The formats are those of format.rs, under the same names.
(() => {
  const every = Number(document.documentElement.dataset.liveMs);
  const patience = 5000; // ms until a reading counts as lost
  const historyLength = 60, sparkWidth = 118, sparkHeight = 26, changesShown = 10;

  const isNumber = (v) => typeof v === "number";
  const count = (n) => n.toFixed(0).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const iso = (ms) => new Date(Math.min(ms, 253402300799999)).toISOString();
  const formats = {
    text: (v) => typeof v === "string" ? v : null,
    plain: (v) => isNumber(v) ? String(v) : null,
    count: (v) => isNumber(v) ? count(v) : null,
    rate: (v) => !isNumber(v) ? null : v < 100 ? v.toFixed(1) : count(v),
    bytes(v) {
      if (!isNumber(v)) return null;
      const units = ["B", "KiB", "MiB", "GiB", "TiB"];
      let unit = 0;
      while (v >= 1024 && unit < units.length - 1) { v /= 1024; unit++; }
      return `${v.toFixed(unit > 0 && v < 100 ? 1 : 0)}\u00a0${units[unit]}`;
    },
    latency(v) {
      if (!isNumber(v)) return null;
      if (v < 0.001) return `${(v * 1e6).toFixed(0)}\u00a0µs`;
      const [scaled, unit] = v < 1 ? [v * 1e3, "ms"] : [v, "s"];
      return `${scaled.toFixed(scaled < 10 ? 2 : scaled < 100 ? 1 : 0)}\u00a0${unit}`;
    },
    age(v) {
      if (!isNumber(v)) return null;
      const s = Math.trunc(Math.max(v, 0)), whole = Math.trunc;
      if (s < 60) return `${s}\u00a0s`;
      if (s < 3600) return `${whole(s / 60)}\u00a0min ${s % 60}\u00a0s`;
      if (s < 86400) return `${whole(s / 3600)}\u00a0h ${whole(s / 60) % 60}\u00a0min`;
      return `${whole(s / 86400)}\u00a0d ${whole(s / 3600) % 24}\u00a0h`;
    },
    ratio: (v) => isNumber(v) ? `${(v * 100).toFixed(0)}\u00a0%` : null,
    limit: (v) => isNumber(v) ? `of ${count(v)}` : "no limit",
    length: (v) => Array.isArray(v) ? String(v.length) : null,
    passed: (v) => typeof v !== "boolean" ? null : v ? "passed" : "failed",
    clock: (v) => isNumber(v) ? `${iso(v).slice(0, 19).replace("T", " ")} UTC` : null,
  };
  const show = (format, value) => formats[format](value) ?? "–";

  // A JSON pointer without escapes: the page's pointers hold field names and indices only.
  const at = (root, pointer) => pointer.split("/").slice(1).reduce((value, key) => value?.[key], root);
  const is = (value) => Array.isArray(value) ? value.length > 0 : value === 0 || Boolean(value);

  function spark(values) {
    const shown = (values ?? []).slice(-historyLength);
    const largest = Math.max(...shown.filter(isNumber)) > 0 ? Math.max(...shown.filter(isNumber)) : 1;
    let path = "", drawing = false;
    shown.forEach((value, index) => {
      if (!isNumber(value)) { drawing = false; return; }
      const x = 1 + (historyLength - shown.length + index) * (sparkWidth - 2) / (historyLength - 1);
      const y = sparkHeight - 1.5 - value / largest * (sparkHeight - 3);
      const point = `${x.toFixed(1)} ${y.toFixed(1)}`;
      path += drawing ? `L${point}` : `M${point}L${point}`;
      drawing = true;
    });
    return path;
  }

  function sparkLabel(values) {
    const known = (values ?? []).filter(isNumber);
    return known.length === 0
      ? "Latency of the last minute: nothing measured"
      : `Latency of the last minute, at most ${show("latency", Math.max(...known))}`;
  }

  function change({ time_unix_ms, to, reason }) {
    const item = document.createElement("li"), time = document.createElement("time"), state = document.createElement("b");
    item.dataset.state = to;
    time.dateTime = iso(time_unix_ms);
    time.textContent = show("clock", time_unix_ms);
    state.textContent = to;
    item.append(time, " ", state, ` ${reason}`);
    return item;
  }

  const all = (selector, act) => document.querySelectorAll(selector).forEach(act);
  const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };

  function fill(status) {
    const { summary, name, node } = status;
    document.title = `${show("count", summary.usable)} ${show("limit", summary.servers)} usable · ${name} · ${node}`;
    all("[data-p]", (node) => setText(node, show(node.dataset.f, at(status, node.dataset.p))));
    all("[data-if]", (node) => { node.hidden = !is(at(status, node.dataset.if)); });
    all("[data-unless]", (node) => { node.hidden = is(at(status, node.dataset.unless)); });
    all("[data-state-p]", (node) => { node.dataset.state = String(at(status, node.dataset.stateP) ?? ""); });
    all("[data-bar]", (node) => node.setAttribute("width", `${((at(status, node.dataset.bar) ?? 0) * 100).toFixed(0)}%`));
    all("[data-spark]", (node) => {
      const values = at(status, node.dataset.spark);
      node.firstElementChild.setAttribute("d", spark(values));
      node.setAttribute("aria-label", sparkLabel(values));
    });
    all("[data-list]", (node) => {
      const changes = (at(status, node.dataset.list) ?? []).slice(-changesShown).reverse();
      const key = JSON.stringify(changes);
      if (node.dataset.key !== key) { node.dataset.key = key; node.replaceChildren(...changes.map(change)); }
    });
    sortAll(status);
  }

  // Which names stand behind the rows; the server writes the same into data-shape.
  const shape = (status) => JSON.stringify([
    status.frontends.map((f) => [f.name, f.bind.length]),
    status.backends.map((b) => [b.name, b.servers.map((s) => s.name)]),
  ]);

  // Sorting. A heading goes from unsorted to ascending to descending and back to the configuration's order.
  const sorting = new Map(); // a table's label -> { by, down }
  const keyOf = (table) => table.closest(".frame").getAttribute("aria-label");
  let last = null;

  function makeSortable() {
    all("th[data-sort]", (heading) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heading.textContent;
      button.title = `Sort by ${heading.textContent}`;
      button.addEventListener("click", () => {
        const key = keyOf(heading.closest("table")), now = sorting.get(key), by = heading.dataset.sort;
        if (now?.by !== by) sorting.set(key, { by, down: false });
        else if (!now.down) sorting.set(key, { by, down: true });
        else sorting.delete(key);
        if (last) sortAll(last);
      });
      heading.replaceChildren(button);
    });
  }

  function sortAll(status) {
    all("table", (table) => {
      const order = sorting.get(keyOf(table)), body = table.tBodies[0];
      table.querySelectorAll("th[data-sort]").forEach((heading) => {
        const mine = order?.by === heading.dataset.sort;
        heading.setAttribute("aria-sort", !mine ? "none" : order.down ? "descending" : "ascending");
      });
      if (body.contains(document.activeElement)) return; // rows do not run away from who is reading them
      const place = (row) => Number(row.dataset.row.split("/").pop());
      const value = (row) => at(status, row.dataset.row + order.by);
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x == null || y == null) return (x == null) - (y == null); // what is not known comes last
        const by = isNumber(x) ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
        return order.down ? -by : by;
      };
      const rows = [...body.rows];
      const sorted = [...rows].sort((a, b) => (order ? compare(a, b) : 0) || place(a) - place(b));
      if (sorted.some((row, index) => row !== rows[index])) body.append(...sorted);
    });
  }

  // Reading.
  const mode = document.getElementById("mode"), lost = document.getElementById("lost");
  const button = document.getElementById("pause");
  let paused = false, timer = 0;

  function say(state, text) {
    document.body.dataset.live = state;
    setText(mode, text);
  }

  async function get(address) {
    const response = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(patience) });
    if (!response.ok) throw new Error(`the director answered ${response.status}`);
    return response;
  }

  async function read() {
    const status = await (await get("status.json")).json();
    const main = document.querySelector("main");
    if (main.dataset.shape !== shape(status)) {
      const page = new DOMParser().parseFromString(await (await get("./")).text(), "text/html");
      main.replaceWith(document.adoptNode(page.querySelector("main")));
      makeSortable();
    }
    last = status;
    fill(status);
  }

  async function tick() {
    const started = performance.now();
    try {
      await read();
      lost.hidden = true;
      if (!paused) say("live", `Live, every ${every / 1000} s`);
    } catch (error) {
      const since = last ? `The numbers are those of ${show("clock", last.time_unix_ms)}.` : "The numbers are old.";
      setText(lost, `Cannot read status.json: ${error.message}. ${since} Trying again every ${every / 1000} s.`);
      lost.hidden = false;
      if (!paused) say("lost", "Not live");
    }
    if (!paused) timer = setTimeout(tick, Math.max(0, every - (performance.now() - started)));
  }

  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Resume" : "Pause";
    clearTimeout(timer);
    if (paused) say("paused", "Paused");
    else tick();
  });
  button.hidden = false;
  makeSortable();
  tick();
})();
