// Search trajectories: one row of small charts per method, from the records alone.
function searchesOf(one) { // methods that share their searches are one entry
  const found = [];
  for (const series of one.series) {
    const first = new Map(); // asked budget -> run of the first seed
    for (const index of series.runs) {
      const run = DATA.runs[index];
      if (run.narrower) continue; // its budget is not what the search was for
      const stage = run.stages.find((other) => other.name === "search");
      const history = stage && DATA.histories[stage.history];
      if (history && history.epoch && history.epoch.length && !first.has(run.budget.asked)) first.set(run.budget.asked, { key: stage.key, history, sites: run.sites, asked: run.budget.asked });
    }
    const searches = [...first.values()].sort((a, b) => a.asked - b.asked);
    if (!searches.length) continue;
    // One search may pass several budgets: key and budget together identify a row.
    const name = ({ key, asked }) => `${key} ${asked}`;
    const same = found.find((other) => searches.every((search) => other.searches.some((its) => name(its) === name(search))));
    const label = series.label.replace(`, ${series.network}`, "");
    if (same) same.labels.push(label);
    else found.push({ labels: [label], network: series.network, searches });
  }
  return found;
}

const SEARCH_CHARTS = [
  { name: "relu/count", title: "ReLUs left" },
  { name: "lasso", title: "Lasso weight (log)", log: true },
  { name: "mask/distance", title: "Share of kept ReLUs that moved" },
];
const varies = (values) => { const known = (values || []).filter(isNumber); return known.length > 0 && Math.max(...known) > Math.min(...known); };

// One heat map per search: of the budgets that it passed, the smallest.
function trajectoriesOf(searches) {
  const furthest = new Map(searches.map((search) => [search.key, search]).reverse());
  return [...furthest.values()].reverse().map((search) => ({ ...search, map: siteTrajectory(search.history, search.sites) })).filter(({ map }) => map);
}

function drawSearches() {
  const rows = searchesOf(panel()).map((row) => ({ ...row, maps: trajectoriesOf(row.searches), charts: SEARCH_CHARTS.filter(({ name }) => row.searches.some(({ history }) => varies(history[name]))) })).filter(({ charts, maps }) => charts.length || maps.length);
  $("searches").hidden = !rows.length;
  const named = (row, ...content) => el("div", {}, el("p", { class: "sub", title: row.network }, row.labels.join(", ")), content);
  $("searches-charts").replaceChildren(el("div", { class: "grids" }, rows.flatMap((row) => [
    ...row.charts.map(({ name, title, log }) => named(row, lineChart({ title, log, lines: row.searches.map(({ history, asked }, index) => ({ name: short(asked), x: history.epoch, y: history[name] || [], colour: LINE_COLOURS[index % LINE_COLOURS.length] })) }))),
    ...row.maps.map(({ asked, map }) => named({ ...row, labels: [`${row.labels.join(", ")}: to ${short(asked)}`] }, map)),
  ])));
  $("searches-legend").replaceChildren(rows.some(({ maps }) => maps.length) ? shareLegend("% of a site's positions") : "");
}
