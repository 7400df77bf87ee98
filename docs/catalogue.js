// The catalogue's filters: a row is shown if every chosen filter's cell has the chosen words.
document.addEventListener("DOMContentLoaded", () => {
  const bar = document.querySelector(".catalogue-filters");
  if (!bar) return;
  const columns = ["inputs", "family", "status", "cost"];
  const tables = [...document.querySelectorAll(".catalogue table")]
    .map((table) => {
      let heading = table;
      while (heading && heading.tagName !== "H2") heading = heading.previousElementSibling || heading.parentElement;
      const names = [...table.querySelectorAll("th")].map((cell) => cell.textContent.trim());
      return { table, heading, names, family: heading.firstChild.textContent.trim() };
    })
    .filter(({ names }) => names.includes("inputs"));
  const value = (entry, row, column) => {
    if (column === "family") return [entry.family];
    const place = entry.names.indexOf(column);
    if (place < 0) return [column === "status" ? "wrapped" : ""];
    const text = row.cells[place].innerText.split("\n")[0].replace(/[[\]]/g, "");
    return text.split(",").map((word) => word.trim()).filter(Boolean);
  };
  const words = document.createElement("input");
  words.type = "search";
  words.placeholder = "any word";
  words.setAttribute("aria-label", "any word");
  const selects = columns.map((column) => {
    const select = document.createElement("select");
    select.setAttribute("aria-label", column);
    const all = tables.flatMap((entry) => [...entry.table.tBodies[0].rows].flatMap((row) => value(entry, row, column)));
    select.append(new Option(`${column}: any`, ""), ...[...new Set(all)].sort().map((word) => new Option(word, word)));
    return select;
  });
  const count = document.createElement("span");
  const apply = () => {
    let shown = 0;
    for (const entry of tables) {
      let left = 0;
      for (const row of entry.table.tBodies[0].rows) {
        const fits =
          columns.every((column, i) => !selects[i].value || value(entry, row, column).includes(selects[i].value)) &&
          row.textContent.toLowerCase().includes(words.value.toLowerCase());
        row.hidden = !fits;
        left += fits;
      }
      entry.table.hidden = entry.heading.hidden = !left;
      shown += left;
    }
    count.textContent = `${shown} losses`;
  };
  for (const control of [...selects, words]) control.addEventListener("input", apply);
  bar.append(...selects, words, count);
  apply();
});
