"use strict";
// Tables sort by a click on a column's title; empty cells stay last. In print nothing is folded.
const order = new Intl.Collator("en", { numeric: true });
function compare(a, b, numeric) {
  const [x, y] = [a.dataset.sort, b.dataset.sort];
  return numeric ? Number(x) - Number(y) : order.compare(x, y);
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex;
    const numeric = head.classList.contains("number");
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const known = (row) => row.cells[column].dataset.sort !== undefined;
    const rows = Array.from(body.rows);
    const sorted = rows.filter(known);
    sorted.sort((a, b) => {
      const way = compare(a.cells[column], b.cells[column], numeric);
      return down ? -way : way;
    });
    body.append(...sorted, ...rows.filter((row) => !known(row)));
  });
}
let closed = [];
window.addEventListener("beforeprint", () => {
  closed = Array.from(document.querySelectorAll("details:not([open])"));
  for (const fold of closed) fold.open = true;
});
window.addEventListener("afterprint", () => {
  for (const fold of closed) fold.open = false;
});
