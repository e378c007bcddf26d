"use strict";
document.documentElement.classList.add("js");

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent.trim();
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const compare = (a, b) => {
      const [one, other] = [key(a, column), key(b, column)];
      if (!one || !other) return !one - !other; // what is lacking comes last in both directions
      const order = head.matches(".number") ? one - other : one.localeCompare(other, undefined, { numeric: true });
      return down ? -order : order;
    };
    body.append(...[...body.rows].sort(compare));
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }));
}

const filters = [...document.querySelectorAll("input[data-table]")];
for (const input of filters) {
  const rows = [...document.getElementById(input.dataset.table).tBodies[0].rows];
  const output = input.closest("p").querySelector("output");
  const filter = () => {
    const wanted = input.value.trim().toLocaleLowerCase();
    for (const row of rows) row.hidden = !row.cells[0].textContent.toLocaleLowerCase().includes(wanted);
    output.value = wanted ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} classes` : "";
  };
  input.addEventListener("input", filter);
  filter(); // a browser may fill in what was typed before the page was loaded again
}
addEventListener("click", (event) => { // a link to a class that is filtered out
  const row = event.target.closest("a[href^='#class-']") && document.getElementById(event.target.closest("a").hash.slice(1));
  if (!row?.hidden) return;
  for (const input of filters) {
    input.value = "";
    input.dispatchEvent(new Event("input"));
  }
});

for (const box of document.querySelectorAll(".canvas")) {
  const canvas = box.querySelector("canvas"), output = box.querySelector("output"), pen = canvas.getContext("2d");
  const matrix = JSON.parse(box.querySelector("script").textContent);
  const classes = matrix.labels.length, side = Math.max(1, Math.floor(1000 / classes));
  const counts = new Map(matrix.cells.map(([row, column, count]) => [row * classes + column, count]));
  canvas.width = canvas.height = classes * side;

  function draw(row, column) {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    for (const [i, j, count] of matrix.cells) {
      pen.fillStyle = i === j ? "#4b8fdc" : "#e07b18"; // on white and on black
      pen.globalAlpha = 0.4 + 0.6 * Math.sqrt(count / matrix.totals[i]);
      pen.fillRect(j * side, i * side, side, side);
    }
    if (row === undefined) return;
    pen.fillStyle = "#808890";
    pen.globalAlpha = 0.45;
    pen.fillRect(0, row * side, canvas.width, side);
    pen.fillRect(column * side, 0, side, canvas.height);
  }

  let row = 0, column = 0;
  function show(newRow, newColumn) {
    [row, column] = [newRow, newColumn].map((index) => Math.min(classes - 1, Math.max(0, index)));
    draw(row, column);
    const count = counts.get(row * classes + column) ?? 0, total = matrix.totals[row];
    const share = total ? `${count} of ${total} pictures (${((100 * count) / total).toFixed(1)}%)` : "no pictures";
    const label = (index) => `\u2068${matrix.labels[index]}\u2069`; // isolated, as <bdi> does it
    output.value = `True class ${label(row)}, answer ${label(column)}: ${share}`;
  }

  const point = (event) => {
    const area = canvas.getBoundingClientRect();
    const index = (at, start, length) => Math.floor(((at - start) / length) * classes);
    show(index(event.clientY, area.top, area.height), index(event.clientX, area.left, area.width));
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible")) show(row, column); });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const step = event.shiftKey ? 10 : 1;
    show(row + step * move[0], column + step * move[1]);
  });
  for (const pair of box.parentElement.querySelectorAll("[data-pair]")) {
    const [i, j] = pair.dataset.pair.split(" ").map((id) => matrix.class_ids.indexOf(Number(id)));
    pair.addEventListener("pointerenter", () => show(i, j));
    pair.addEventListener("focusin", () => show(i, j));
  }
  draw();
}
