// Keeps a page of the dashboard up to date by one stream of server-sent events, and paints the map of units.
// It adds nothing that the page does not tell without it: markup comes from the coordinator, escaped there.
"use strict";

(() => {
  const RETRY_MS = 3000;
  // A tab that nobody sees needs no stream, and a browser has few connections for one host.
  const HIDDEN_MS = 30000;

  const main = document.getElementById("main");
  const path = main.dataset.stream;
  if (!path) return;

  const alive = (state, word) => {
    document.getElementById("alive").dataset.alive = state;
    document.getElementById("alive-word").textContent = word;
  };

  // ---- parts of the page

  let said = null;

  const isSelected = (part) => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  };

  const replaceParts = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    const focused = document.activeElement ? document.activeElement.id : "";
    for (const fresh of template.content.querySelectorAll(".part")) {
      const part = document.getElementById(fresh.id);
      if (!part || part.innerHTML === fresh.innerHTML || isSelected(part)) continue;
      const scrolled = [...part.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
      part.replaceChildren(...fresh.childNodes);
      part.querySelectorAll(".scroll").forEach((box, at) => { box.scrollLeft = scrolled[at] || 0; });
    }
    if (focused && document.activeElement === document.body) {
      const again = document.getElementById(focused);
      if (again) again.focus({ preventScroll: true });
    }
  };

  const onPage = (event) => {
    const page = JSON.parse(event.data);
    main.dataset.state = page.state;
    document.title = `${page.title} · pgconvoy`;
    replaceParts(page.html);
    if (said !== null && said !== page.said) document.getElementById("said").textContent = page.said;
    said = page.said;
    if (map) map.describe();
  };

  // ---- the map

  const WORDS = { p: "pending", l: "in hand", a: "in hand, not for the first time", d: "done" };

  const makeMap = (canvas) => {
    const HEIGHT = 340, CELL_MIN = 5, CELL_MAX = 24, FRESH_MS = 900;
    const told = document.getElementById("unit");
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)");
    const pen = canvas.getContext("2d");
    let states = [], held = new Map(), cursor = -1, colours = {}, cell = CELL_MAX, columns = 1;
    let detail = null, laidOut = 0;

    const readColours = () => {
      const style = getComputedStyle(canvas);
      for (const name of ["pending", "leased", "again", "done", "fresh", "ink", "card"]) {
        colours[name] = style.getPropertyValue(`--unit-${name}`).trim();
      }
    };

    const paint = (at, isFresh) => {
      const gap = cell >= 9 ? 2 : 1, size = cell - gap;
      const x = (at % columns) * cell, y = Math.floor(at / columns) * cell;
      pen.fillStyle = colours.card;
      pen.fillRect(x, y, cell, cell);
      const state = states[at];
      if (state === "p") {
        pen.strokeStyle = colours.pending;
        pen.lineWidth = 1;
        pen.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
      } else {
        pen.fillStyle = isFresh ? colours.fresh : { l: colours.leased, a: colours.again, d: colours.done }[state];
        pen.fillRect(x, y, size, size);
      }
      // A second mark for whoever tells no colours: a dot is in hand, a bar is in hand again.
      if (state === "l" && size >= 6) {
        pen.fillStyle = colours.ink;
        pen.beginPath();
        pen.arc(x + size / 2, y + size / 2, Math.max(1.2, size / 5), 0, 2 * Math.PI);
        pen.fill();
      } else if (state === "a" && size >= 6) {
        pen.fillStyle = colours.ink;
        pen.fillRect(x + size / 4, y + size / 2 - 1, size / 2, 2);
      }
      if (at === cursor) {
        pen.strokeStyle = colours.ink;
        pen.lineWidth = 2;
        pen.strokeRect(x + 1, y + 1, size - 2, size - 2);
      }
    };

    const layOut = () => {
      const width = canvas.clientWidth;
      if (!width) return;
      laidOut = width;
      const count = Math.max(states.length, 1);
      cell = Math.max(CELL_MIN, Math.min(CELL_MAX, Math.floor(Math.sqrt((width * HEIGHT) / count))));
      while (cell > CELL_MIN && Math.ceil(count / Math.floor(width / cell)) * cell > HEIGHT) cell -= 1;
      columns = Math.max(1, Math.floor(width / cell));
      const height = Math.ceil(count / columns) * cell + 2;
      const scale = window.devicePixelRatio || 1;
      canvas.style.height = `${height}px`;
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      pen.setTransform(scale, 0, 0, scale, 0, 0);
      pen.fillStyle = colours.card;
      pen.fillRect(0, 0, width, height);
      for (let at = 0; at < states.length; at += 1) paint(at, false);
    };

    const tell = () => {
      if (cursor < 0 || cursor >= states.length) { told.textContent = ""; return; }
      const holder = held.get(cursor);
      const by = holder ? `, ${holder.worker}, attempt ${holder.attempt}` : "";
      told.textContent = `Unit ${cursor}: ${WORDS[states[cursor]]}${by}${detail && detail.at === cursor ? detail.text : ""}`;
    };

    const point = (at) => {
      const before = cursor;
      cursor = at;
      if (before >= 0 && before < states.length) paint(before, false);
      if (cursor >= 0) paint(cursor, false);
      tell();
    };

    const ask = async () => {
      const at = cursor;
      if (at < 0 || isOver) return;
      const answer = await fetch(`${canvas.dataset.units}${at}`, { cache: "no-store" }).catch(() => null);
      if (!answer || !answer.ok) return;
      const unit = await answer.json();
      const by = unit.worker && !held.has(at) ? `, by ${unit.worker}, attempt ${unit.attempt}` : "";
      detail = { at, text: `${by}, ${(unit.bytes / 1048576).toFixed(2)} MiB planned` };
      tell();
    };

    const KEYS = {
      ArrowRight: (at) => at + 1,
      ArrowLeft: (at) => at - 1,
      ArrowDown: (at) => at + columns,
      ArrowUp: (at) => at - columns,
      Home: () => 0,
      End: () => states.length - 1,
    };

    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Enter") { ask(); return; }
      const move = KEYS[event.key];
      if (!move || !states.length || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      const next = cursor < 0 ? 0 : move(cursor);
      if (next >= 0 && next < states.length) point(next);
    });
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const column = Math.floor((event.clientX - box.left) / cell);
      const at = Math.floor((event.clientY - box.top) / cell) * columns + column;
      if (column < columns && at >= 0 && at < states.length) { point(at); ask(); }
    });
    new ResizeObserver(() => { if (canvas.clientWidth !== laidOut) requestAnimationFrame(layOut); }).observe(canvas);
    for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)"]) {
      matchMedia(query).addEventListener("change", () => { readColours(); layOut(); });
    }
    readColours();

    return {
      whole(runs) {
        states = [];
        for (const [, length, letter] of runs.matchAll(/(\d+)([plad])/g)) {
          for (let left = Number(length); left > 0; left -= 1) states.push(letter);
        }
        if (cursor >= states.length) cursor = -1;
        layOut();
        this.describe();
      },
      change(changes) {
        const changed = [];
        for (const [, begin, length, letter] of changes.matchAll(/(\d+)(?:x(\d+))?([plad])/g)) {
          const first = Number(begin), end = first + Number(length || 1);
          for (let at = first; at < end && at < states.length; at += 1) {
            states[at] = letter;
            changed.push(at);
            paint(at, letter === "d" && !isCalm.matches);
          }
        }
        if (!isCalm.matches) setTimeout(() => { for (const at of changed) if (at < states.length) paint(at, false); }, FRESH_MS);
        this.describe();
        if (changed.includes(cursor)) { detail = null; tell(); }
      },
      hold(list) {
        held = new Map(list.map(([at, worker, attempt]) => [at, { worker, attempt }]));
        tell();
      },
      describe() {
        const count = (letter) => states.reduce((sum, state) => sum + (state === letter ? 1 : 0), 0);
        canvas.setAttribute("aria-label", `Map of ${states.length} units: ${count("d")} done, ${count("l")} in hand, ${count("a")} in hand again, ${count("p")} pending`);
        canvas.dataset.done = count("d");
        canvas.dataset.total = states.length;
      },
    };
  };

  const canvas = document.getElementById("map");
  const map = canvas ? makeMap(canvas) : null;

  // ---- the stream

  let source = null, retry = 0, isOver = false, hiding = 0;

  const close = () => {
    if (source) source.close();
    source = null;
  };

  // A stream that is refused says nothing about why: the page itself does. A redirect is one to the login.
  const askAgain = async () => {
    const answer = await fetch(location.href, { redirect: "manual", cache: "no-store" }).catch(() => null);
    if (answer && answer.type === "opaqueredirect") location.reload();
    else open();
  };

  const open = () => {
    close();
    clearTimeout(retry);
    if (isOver) return;
    source = new EventSource(path);
    source.onopen = () => alive("live", "live");
    source.onerror = () => {
      alive("lost", "connecting…");
      if (source && source.readyState === EventSource.CLOSED) {
        close();
        retry = setTimeout(askAgain, RETRY_MS);
      }
    };
    source.addEventListener("page", onPage);
    source.addEventListener("gone", () => { close(); location.reload(); });
    source.addEventListener("end", () => { isOver = true; close(); alive("over", "over"); });
    if (map) {
      source.addEventListener("map", (event) => map.whole(JSON.parse(event.data)));
      source.addEventListener("changes", (event) => map.change(JSON.parse(event.data)));
      source.addEventListener("held", (event) => map.hold(JSON.parse(event.data)));
    }
  };

  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(() => { close(); alive("still", "standing still"); }, HIDDEN_MS);
    else if (!source) open();
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  open();
})();
