// Stacked bars: one row per thing, its parts in colour, the sum at its end; the same scale for all rows.
function stackedBars({ rows, parts, unit }) { // rows: label, lengths (part -> number), open; parts: part -> words, colour
  const sum = (row) => Object.keys(parts).reduce((total, part) => total + (row.lengths[part] || 0), 0);
  const most = Math.max(...rows.map(sum)) || 1;
  const used = Object.entries(parts).filter(([part]) => rows.some((row) => row.lengths[part]));
  const hover = (row) => (event) => tip.show(event, el("b", {}, row.name ?? row.label), tip.rows([
    ...used.map(([part, { words }]) => [words, `${significant(row.lengths[part] || 0)} ${unit} (${share(row.lengths[part] || 0, sum(row) || 1)})`]), ["together", `${significant(sum(row))} ${unit}`]]));
  return el("div", { class: "stacked" },
    el("div", { class: "small-legend" }, used.map(([, { words, colour }]) => el("span", {}, el("i", { class: "square", style: { background: colour } }), words))),
    el("div", { class: "rows" }, rows.map((row) => el("div", { class: row.open ? "row open" : "row", onpointermove: hover(row), onpointerleave: () => tip.hide(), onclick: row.open || null },
      el("span", { class: "label" }, row.mark || null, row.label),
      el("span", { class: "room" }, used.map(([part, { colour }]) => (row.lengths[part] ? el("i", { style: { width: ((100 * row.lengths[part]) / most).toFixed(3) + "%", background: colour } }) : null)),
        el("b", {}, `${significant(sum(row))} ${unit}`))))));
}
