// Draws the figures, and turns tables to browse into rows that are searched, filtered, sorted,
// selected and saved. Text from data becomes text of the page by textContent alone.
(() => {
  "use strict";
  const PAGE = 25, SHOWN = 240;
  const data = JSON.parse(document.getElementById("data").textContent);
  const unseen = /[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]/gu;
  const seen = (text) => text.replace(unseen, (c) => "\\u" + c.codePointAt(0).toString(16).padStart(4, "0"));
  const number = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 4 });
  const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
  const worded = (x) => x === null ? "" : (Number.isInteger(x) || Math.abs(x) >= 1e4 ? whole : number).format(x);

  function make(tag, options = {}, ...children) {
    const { data: names = {}, aria = {}, ...rest } = options;
    const element = Object.assign(document.createElement(tag), rest);
    Object.assign(element.dataset, names);
    for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
    element.append(...children);
    return element;
  }
  const labelled = (text, control) => make("label", {}, text, control);

  document.getElementById("theme").addEventListener("change", (event) => {
    document.documentElement.dataset.theme = event.target.value;
  });

  function browse(place, table) {
    const { columns } = table;
    const count = (columns[0].values || columns[0].codes).length;
    const cell = (column, row) => column.values ? column.values[row] : column.words[column.codes[row]];
    const selected = new Set();
    const filters = new Map(); // of a column: which of its words let a row through
    let order = null, sorted = null, rows = [], page = 0, wanted = null;

    const search = make("input", { type: "search", placeholder: "words of texts and ids" });
    const tools = make("div", { className: "tools" }, labelled("Search", search));
    const said = make("span", { className: "note", role: "status" });
    const body = make("tbody");
    const every = make("input", { type: "checkbox" });
    const back = make("button", { type: "button", textContent: "Previous" });
    const next = make("button", { type: "button", textContent: "Next" });
    const at = make("span", { className: "note" });
    const save = make("button", { type: "button" });

    function matching(words) {
      // Of each column the words that hold what is looked for; a text is looked through once.
      const hits = columns.filter((column) => column.words).map((column) =>
        [column.codes, column.words.map((word) => words.map((w) => word.toLowerCase().includes(w)))]);
      return (row) => words.every((_, n) => hits.some(([codes, hit]) => hit[codes[row]][n]));
    }

    function refresh() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const tests = words.length ? [matching(words)] : [];
      for (const [column, through] of filters) tests.push((row) => through[column.codes[row]]);
      if (wanted) tests.push((row) => selected.has(row));
      rows = [];
      for (let n = 0; n < count; n++) {
        const row = order ? order[n] : n;
        if (tests.every((test) => test(row))) rows.push(row);
      }
      page = 0;
      show();
    }

    function text(value, target) {
      const shown = seen(value);
      if (shown.length <= SHOWN) { target.textContent = shown; return; }
      const part = make("span", { textContent: shown.slice(0, SHOWN) + "… " });
      const more = make("button", { type: "button", className: "more", textContent: "more", aria: { expanded: false } });
      more.addEventListener("click", () => {
        const open = more.textContent === "more";
        part.textContent = open ? shown + " " : shown.slice(0, SHOWN) + "… ";
        more.textContent = open ? "less" : "more";
        more.setAttribute("aria-expanded", open);
      });
      target.append(part, more);
    }

    function show() {
      const pages = Math.max(1, Math.ceil(rows.length / PAGE));
      body.replaceChildren(...rows.slice(page * PAGE, (page + 1) * PAGE).map((row) => {
        const mark = make("input", { type: "checkbox", checked: selected.has(row), data: { row },
          aria: { label: `Select row ${row + 1}` } });
        const line = make("tr", { className: mark.checked ? "selected" : "" }, make("td", {}, mark));
        for (const column of columns) {
          if (column.kind === "id") {
            line.lastChild.append(make("small", { textContent: seen(cell(column, row)), dir: "auto" }));
            continue;
          }
          const td = make("td", { className: column.kind, dir: "auto", data: { name: column.name } });
          if (column.values) td.textContent = worded(column.values[row]);
          else text(cell(column, row), td);
          if (column.kind === "text" && td.textContent.length > 24) td.className = "text prose";
          line.append(td);
        }
        return line;
      }));
      back.disabled = page === 0;
      next.disabled = page + 1 >= pages;
      at.textContent = `Page ${whole.format(page + 1)} of ${whole.format(pages)}`;
      tell();
    }

    function tell() {
      const part = rows.length === count ? "" : `${whole.format(rows.length)} of `;
      said.textContent = `${part}${whole.format(count)} rows, ${whole.format(selected.size)} selected`;
      const marked = rows.filter((row) => selected.has(row)).length;
      every.checked = rows.length > 0 && marked === rows.length;
      every.indeterminate = marked > 0 && !every.checked;
      save.disabled = selected.size === 0;
    }

    function turn(step) {
      const last = Math.max(0, Math.ceil(rows.length / PAGE) - 1);
      const to = Math.min(last, Math.max(0, page + step));
      if (to === page) return false;
      page = to;
      show();
      return true;
    }

    search.addEventListener("input", refresh);
    for (const column of columns.filter((each) => each.kind === "word")) {
      const parts = column.words.map((word) => word.split("; "));
      const names = [...new Set(parts.flat())].filter(Boolean).sort();
      if (names.length < 2 && !column.words.includes("")) continue;
      const choice = make("select", {}, make("option", { value: "", textContent: "all" }),
        ...names.map((name) => make("option", { value: name, textContent: seen(name) })));
      choice.addEventListener("change", () => {
        if (choice.value) filters.set(column, parts.map((each) => each.includes(choice.value)));
        else filters.delete(column);
        refresh();
      });
      tools.append(labelled(column.name, choice));
    }
    if (Object.keys(table.export).length) {
      const only = make("input", { type: "checkbox" });
      only.addEventListener("change", () => { wanted = only.checked; refresh(); });
      save.textContent = "Save selected ids";
      save.addEventListener("click", () => {
        const byName = new Map(columns.map((column) => [column.name, column]));
        const lines = [...selected].sort((a, b) => a - b).map((row) => JSON.stringify(
          Object.fromEntries(Object.entries(table.export).map(([key, name]) => [key, cell(byName.get(name), row)]))));
        const url = URL.createObjectURL(new Blob([[...new Set(lines)].join("\n") + "\n"], { type: "application/jsonl" }));
        make("a", { href: url, download: table.file }).click();
        setTimeout(() => URL.revokeObjectURL(url), 10000);
      });
      tools.append(labelled("selected only", only), save);
    }
    every.setAttribute("aria-label", "Select all rows that are shown, on all pages");
    every.addEventListener("change", () => {
      for (const row of rows) if (every.checked) selected.add(row); else selected.delete(row);
      show();
    });
    body.addEventListener("change", ({ target }) => {
      const row = Number(target.dataset.row);
      if (target.checked) selected.add(row); else selected.delete(row);
      target.closest("tr").className = target.checked ? "selected" : "";
      tell();
    });
    body.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1, PageDown: PAGE, PageUp: -PAGE }[event.key];
      if (!step || event.target.type !== "checkbox") return;
      event.preventDefault();
      const marks = [...body.querySelectorAll("input")];
      const to = Math.abs(step) === 1 ? marks[marks.indexOf(event.target) + step] : null;
      if (to) { to.focus(); return; }
      if (turn(Math.sign(step))) [...body.querySelectorAll("input")].at(step === -1 ? -1 : 0).focus();
    });
    back.addEventListener("click", () => turn(-1));
    next.addEventListener("click", () => turn(1));

    const head = make("tr", {}, make("th", { scope: "col" }, every));
    for (const column of columns.filter((each) => each.kind !== "id")) {
      const button = make("button", { type: "button", textContent: column.name });
      const th = make("th", { scope: "col", className: column.kind }, button);
      button.addEventListener("click", () => {
        const down = sorted === th && th.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        if (sorted) sorted.removeAttribute("aria-sort");
        sorted = th;
        th.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
        let keys = column.values;
        if (!keys) {
          const ranks = new Array(column.words.length);
          column.words.map((word, code) => [word, code]).sort((a, b) => a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0)
            .forEach(([, code], rank) => { ranks[code] = rank; });
          keys = column.codes.map((code) => ranks[code]);
        }
        order = Array.from({ length: count }, (_, row) => row);
        // What is empty stays last, whichever way.
        order.sort((a, b) => keys[a] === null || keys[b] === null
          ? (keys[a] === null) - (keys[b] === null) : down * (keys[a] - keys[b]));
        refresh();
      });
      head.append(th);
    }
    place.append(tools, make("p", {}, said), make("p", { className: "note", textContent: table.caption }),
      make("div", { className: "scroll", role: "region", tabIndex: 0, aria: { label: table.caption } },
        make("table", { aria: { label: table.caption } }, make("thead", {}, head), body)),
      make("div", { className: "tools pager" }, back, at, next));
    refresh();
  }

  for (const place of document.querySelectorAll("[data-table]")) browse(place, data.tables[place.dataset.table]);
  const root = document.documentElement;
  root.dataset.tables = performance.now().toFixed(0);
  const drawn = [...document.querySelectorAll("[data-figure]")].map((place) =>
    vegaEmbed(place, data.figures[place.dataset.figure], { mode: "vega-lite", ast: true, renderer: "svg", actions: false,
      logLevel: 1, defaultStyle: false, tooltip: { disableDefaultStyle: true } }));
  Promise.all(drawn).then(
    () => { root.dataset.ready = performance.now().toFixed(0); },
    (error) => { root.dataset.failed = String(error); throw error; });
})();
