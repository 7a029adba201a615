"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const said = document.getElementById("said");

  // Tables: a button in each head; numbers by data-value, missing ones last in either direction.
  const value = (row, column) => {
    const cell = row.cells[column];
    if (!cell) return null;
    if ("value" in cell.dataset) return cell.dataset.value === "" ? null : cell.dataset.value;
    const text = cell.textContent.trim();
    return text === "" || text === "–" ? null : text;
  };
  const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const sort = (table, column, head) => {
    const numeric = head.classList.contains("n");
    const before = head.getAttribute("aria-sort");
    const down = before ? before === "ascending" : false;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, index) => ({ row, index, value: value(row, column) }));
    // A reason that stands in place of figures is no number: it comes last, as what is missing does.
    if (numeric) for (const each of rows) if (Number.isNaN(Number(each.value))) each.value = null;
    const number = numeric || rows.every((each) => each.value === null || !Number.isNaN(Number(each.value)));
    rows.sort((a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.index - b.index;
      const found = number ? Number(a.value) - Number(b.value) : order.compare(a.value, b.value);
      return (down ? -found : found) || a.index - b.index;
    });
    body.append(...rows.map((each) => each.row));
    all("thead th", table).forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    said.textContent = `sorted by ${head.textContent}, ${down ? "largest first" : "smallest first"}`;
  };
  for (const table of all("table.sortable")) {
    if (table.tBodies[0].rows.length < 2) continue;
    all("thead th", table).forEach((head, column) => {
      if ("fixed" in head.dataset) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column, head));
      head.append(button);
    });
  }

  // Tooltips: what a mark's title says, at once and for the keyboard too. Escape closes.
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  for (const mark of all(".mark")) {
    const title = mark.querySelector("title");
    const text = title.textContent;
    title.remove();
    const show = () => {
      tip.textContent = text;
      tip.hidden = false;
      const place = mark.getBoundingClientRect();
      const wide = document.documentElement.clientWidth;
      const left = Math.max(6, Math.min(place.left + place.width / 2 - tip.offsetWidth / 2, wide - tip.offsetWidth - 6));
      const above = place.top - tip.offsetHeight - 8;
      tip.style.left = `${left + window.scrollX}px`;
      tip.style.top = `${(above < 4 ? place.bottom + 8 : above) + window.scrollY}px`;
    };
    mark.addEventListener("pointerenter", show);
    mark.addEventListener("focus", show);
    mark.addEventListener("pointerleave", hide);
    mark.addEventListener("blur", hide);
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  // Scripts: a button that copies. A page from a file may not be let at the clipboard; then the old way.
  const copied = async (pre) => {
    try {
      await navigator.clipboard.writeText(pre.textContent);
      return true;
    } catch {
      const range = document.createRange();
      range.selectNodeContents(pre);
      const selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      return document.execCommand("copy");
    }
  };
  for (const pre of all("pre.copy")) {
    const box = document.createElement("div");
    box.className = "copier";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    pre.replaceWith(box);
    box.append(pre, button);
    button.addEventListener("click", async () => {
      const done = await copied(pre);
      button.textContent = done ? "Copied" : "Selected";
      said.textContent = done ? "copied" : "selected, copy it with the keyboard";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  // A link into a folded part opens it; paper shows everything.
  const unfold = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    for (let at = target || null; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  };
  window.addEventListener("hashchange", unfold);
  unfold();
  window.addEventListener("beforeprint", () => all("details").forEach((each) => { each.open = true; }));
})();
