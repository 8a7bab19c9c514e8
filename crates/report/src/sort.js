// A click on a column's head sorts by it, another one the other way; references and the heads of facets stay where they are.
(() => {
  const scale = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18 };
  const value = (text) => {
    const plain = text.trim().replace(/−/g, "-");
    const time = plain.match(/^(?:(\d+) h )?(?:(\d+) min ?)?(?:([\d.]+) s)?$/);
    if (plain && time) return 3600 * (time[1] || 0) + 60 * (time[2] || 0) + +(time[3] || 0);
    const number = plain.match(/^<?([+-]?[\d.]+) ?([kMGTPE])?/);
    return number ? +number[1] * (scale[number[2]] || 1) : null;
  };
  for (const table of document.querySelectorAll("table.sorts")) {
    table.querySelectorAll("thead th").forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        for (const body of table.querySelectorAll("tbody:not(.references)")) {
          const rows = [...body.querySelectorAll("tr:not(.facet)")].map((row) => {
            const text = row.children[column].textContent.trim();
            return { row, text, number: column ? value(text) : null };
          });
          rows.sort((a, b) => {
            if (column && (a.number === null) !== (b.number === null)) return a.number === null ? 1 : -1;
            const order = column ? a.number - b.number : a.text.localeCompare(b.text, "en");
            return down ? -order : order;
          });
          body.append(...rows.map(({ row }) => row));
        }
      });
    });
  }
})();
