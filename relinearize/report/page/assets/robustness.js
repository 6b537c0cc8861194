// Robustness: the table, and for one checkpoint and route its corruptions, attacks and gradient-masking checks.
const robust = { every: false, key: null, rival: "", sort: null };
const robustTable = () => DATA.robustness.find((one) => one.dataset === panel().dataset && one.title === panel().title) || null;
const methodColour = (method) => DATA.colours[method] || "#8b929c";
const tenth = (value) => percent(value, 1);

// A note breaks after its commas only: "n 10,000" stays together.
const pieces = (note) => note.split(", ").flatMap((part, index) => [index ? ", " : null, el("span", { style: { whiteSpace: part.length < 16 ? "nowrap" : null } }, part)]);

function robustCell(row, column) {
  const cell = row.cells[column.key];
  const noted = row.notes[column.key]; // of a mean
  if (!cell) return el("td", { class: "faint", title: noted ? "no mean of what was measured differently" : "not measured" }, MISSING, noted ? el("small", { style: { display: "block" } }, noted) : null);
  const value = [tenth(cell.value), isNumber(cell.deviation) ? el("small", {}, ` ±${tenth(cell.deviation)}`) : null];
  const small = column.attack || column.key === "ca";
  const hover = (event) => tip.show(event, el("b", {}, `${column.title}: ${tenth(cell.value)}${isNumber(cell.deviation) ? " ± " + tenth(cell.deviation) : ""} %`), tip.rows([
    ["measured on", cell.route ? `route ${cell.route}` : "the only route"], ["images", whole(cell.n)],
    column.settings ? [column.attack ? "attack" : "corrupted images", column.settings] : null,
    small && isNumber(cell.interval) && (cell.n < 10000 || column.key.startsWith("autoattack")) ? ["95 % interval", `± ${tenth(cell.interval)} points`] : null,
    ...(cell.each || []).map(([seed, one]) => [`seed ${seed}`, tenth(one) + " %"]),
    row.kind === "oracle" ? ["note", "not deployable: assumes that it is known which images are attacked"] : null]));
  const notes = [column.note === null ? cell.note : null, noted].filter(Boolean);
  return el("td", { onpointermove: hover, onpointerleave: () => tip.hide() }, cell.best ? el("b", {}, value) : value, notes.length ? el("small", { style: { display: "block" } }, notes.join("; ")) : null);
}

const robustStrengths = (table) => [...new Set(table.checkpoints.map((row) => row.strength).filter((strength) => strength !== "-"))];

function robustColumns(table) {
  const several = table.networks.length > 1;
  return [
    { title: "method", text: true, of: (row) => row.label, cell: (row) => el("td", { class: "text" }, dot(methodColour(row.method)), row.label) },
    several ? { title: "network", text: true, of: (row) => row.network, cell: (row) => el("td", { class: "text" }, row.network) } : null,
    { title: "ReLUs", of: (row) => row.relus, cell: (row) => el("td", { title: `${share(row.relus, row.total)} of ${whole(row.total)}` }, whole(row.relus)) },
    { title: "route", text: true, of: (row) => row.route, cell: (row) => el("td", { class: "text routes" }, row.kind === "oracle" ? [...new Set(Object.values(row.cells).map((cell) => cell.route))].join(" + ") : row.route === "-" ? el("span", { class: "faint", title: "one set of batch norms" }, MISSING) : el("span", { class: "route" }, row.route)) },
    ...table.columns.map((column) => ({ title: column.title, note: column.note, hint: column.settings, of: (row) => (row.cells[column.key] ? row.cells[column.key].value : null), cell: (row) => robustCell(row, column) })),
    robustStrengths(table).length < 2 ? null : { title: "ε / step", note: "in 255ths", of: (row) => row.strength, cell: (row) => el("td", {}, row.strength) },
    { title: "seeds", of: (row) => row.seeds.length, cell: (row) => el("td", {}, row.seeds.join(", ")) },
    { title: "checks", of: (row) => row.checks[0] - row.checks[1], cell: (row) => {
      const [passed, all] = row.checks;
      if (!all) return el("td", { class: "faint" }, MISSING);
      return el("td", { title: `${passed} of ${all} checks passed` }, el("span", { class: `verdict ${passed === all ? "pass" : "fail"}` }, passed === all ? "pass" : `${all - passed} warn`));
    } },
  ].filter(Boolean);
}

function drawRobustTable(table) {
  const columns = robustColumns(table), rows = [...(robust.every ? table.checkpoints : table.rows)];
  const sorted = robust.sort && columns[robust.sort.column];
  if (sorted) rows.sort(inOrder(sorted.of, robust.sort.direction, () => 0));
  const head = columns.map((column, index) => {
    const first = column.text ? 1 : -1, direction = sorted === column ? robust.sort.direction : 0;
    const sort = () => { // one direction, the other, the table's own order
      robust.sort = direction === -first ? null : { column: index, direction: direction ? -first : first };
      drawRobustness();
    };
    return sortingHead(column, direction, sort, el("span", { class: "title" }, pieces(column.title)), column.note ? el("small", {}, pieces(column.note)) : null);
  });
  const chosen = (row) => row.records.some((position) => table.records[position].key === robust.key);
  const open = (row) => { robust.key = table.records[row.records[0]].key; drawRobustness(); };
  const own = rows.map((row, index) => el("tr", {
    class: !sorted && index && rows[index - 1].relus !== row.relus ? "budget" : null, ...opening(() => open(row)), "aria-selected": String(chosen(row)),
  }, columns.map((column) => column.cell(row))));
  const oracle = table.oracles.length ? el("tbody", { class: "oracle" },
    el("tr", {}, el("td", { class: "text banner", colspan: columns.length }, "Oracle (not deployable): clean and corrupted images on one route, attacked ones on another, as if it were known which is which. In no mean, no order, no mark above.")),
    table.oracles.map((row) => el("tr", {}, columns.map((column) => column.cell(row))))) : null;
  $("robust-table").replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", { class: "own" }, own), oracle));
}

function drawRobustHeat(table, record) {
  const rival = table.records.find((one) => one.key === robust.rival && one.key !== record.key && one.corruptions) || null;
  const own = record.corruptions;
  $("h-robust-heat").textContent = rival && own ? "Corruptions: difference in points" : "Corruptions: accuracy by severity";
  if (!own) { $("robust-heat").replaceChildren(el("p", { class: "note" }, "Not measured.")); $("robust-heat-note").textContent = ""; return; }
  // One scale for all checkpoints of the table, so that they can be compared by eye.
  const all = table.records.filter((one) => one.corruptions).flatMap((one) => [one.clean.accuracy, ...Object.values(one.corruptions.accuracy).flat()]);
  const low = Math.min(...all), high = Math.max(...all);
  const mean = (values) => spread(values).mean;
  const square = (name, what, value, other, extra) => {
    const shown = rival ? (isNumber(other) ? value - other : null) : value;
    const strength = rival ? Math.min(1, Math.abs(shown ?? 0) / 25) : Math.max(0, Math.min(1, (value - low) / (high - low || 1)));
    const colour = rival ? (shown >= 0 ? "#0d8a63" : "#c23a3a") : methodColour(record.method);
    return el("td", {
      class: extra, style: { background: tinted(colour, rival ? 0.85 * strength : 0.05 + 0.95 * strength), color: strength > (rival ? 0.72 : 0.6) ? "#fff" : "var(--ink)" },
      title: `${name}, ${what}: ${tenth(value)} %` + (isNumber(other) ? `, other: ${tenth(other)} %` : `, ${tenth(record.clean.accuracy - value)} points below clean`),
    }, rival ? signed(shown, 1) : tenth(value));
  };
  const line = (name, values, others, kind) => el("tr", { class: kind }, el("th", { class: "text" }, name),
    values.map((value, index) => square(name, `severity ${index + 1}`, value, others && others[index])), square(name, "mean", mean(values), others && mean(others), "gap"));
  const rows = Object.entries(own.accuracy).map(([name, values]) => line(name, values, rival && rival.corruptions.accuracy[name]));
  // Two means are compared over the corruptions that both have.
  const names = Object.keys(own.accuracy).filter((name) => !rival || rival.corruptions.accuracy[name]);
  const columnMeans = (one) => [0, 1, 2, 3, 4].map((index) => mean(names.map((name) => one.accuracy[name][index])));
  const left = own.left_out.map((name) => el("tr", {}, el("th", { class: "text faint" }, name), el("td", { colspan: 5, class: "faint" }, "left out"), el("td", { class: "faint gap" }, MISSING)));
  const extra = Object.entries(own.extra).map(([name, values], index) => line(name, values, rival && rival.corruptions.extra[name], index ? null : "apart"));
  $("robust-heat").replaceChildren(grid({ class: "heat" },
    [el("th", { class: "text" }, "severity"), [1, 2, 3, 4, 5].map((severity) => el("th", {}, String(severity))), el("th", {}, "mean")],
    [rows, left, !names.length ? null : line(names.length < Object.keys(own.accuracy).length ? "mean of both" : "mean (NPA)", columnMeans(own), rival && columnMeans(rival.corruptions), "mean"), extra]));
  $("robust-heat-note").textContent = [
    `Images: ${own.note}; n ${whole(own.n)} for each corruption and severity. Clean: ${tenth(record.clean.accuracy)} %.`,
    rival ? `Green: better than ${rival.label}${rival.corruptions.source === own.source && rival.corruptions.note === own.note ? "" : `, whose images are others: ${rival.corruptions.note}`}.` : "", extra.length ? "Below the mean: extra corruptions, not part of NPA and mCE." : "",
    `mCE ${tenth(own.mce)} (anchor: ${own.mce_anchor}).`].filter(Boolean).join(" ");
}

function drawRobustDetails(table, record) {
  const line = (attack) => [attack.epsilon === null ? null : `ε ${compact(attack.epsilon)}/255`, attack.step === null ? null : `step ${compact(attack.step)}/255`,
    attack.steps === null ? null : `${attack.steps} step${attack.steps === 1 ? "" : "s"}`, attack.restarts === null ? null : `${attack.restarts} restart${attack.restarts === 1 ? "" : "s"}`,
    attack.losses.length ? `loss ${attack.losses.join(" and ")}` : null, attack.version, `seed ${attack.seed}`].filter(Boolean).join(", ");
  $("robust-attacks").replaceChildren(record.attacks.length ? grid({},
    [el("th", { class: "text" }, "attack"), el("th", { class: "text" }, "settings"), el("th", {}, "n"), el("th", {}, "accuracy"), el("th", {}, "time")],
    record.attacks.map((attack) => el("tr", {}, el("td", { class: "text" }, attack.label), el("td", { class: "text" }, el("small", {}, line(attack))), el("td", {}, whole(attack.n)),
      el("td", { style: { whiteSpace: "nowrap" } }, tenth(attack.accuracy), el("small", { title: "95 % interval" }, ` ±${tenth(attack.interval)}`)), el("td", { style: { whiteSpace: "nowrap" } }, el("small", {}, duration(attack.seconds)))))) : el("p", { class: "note" }, "No attacks were run."));
  const passed = record.checks.filter((check) => check.passed).length;
  $("h-robust-checks").textContent = record.checks.length ? `Gradient-masking checks: ${passed} of ${record.checks.length} passed` : "Gradient-masking checks";
  $("robust-checks").replaceChildren(...(record.checks.length ? record.checks.map((check) => el("div", { class: "check" },
    el("span", { class: `verdict ${check.passed ? "pass" : "fail"}` }, check.passed ? "pass" : "warn"), el("span", {}, el("b", {}, check.name), " ", check.message),
    Object.keys(check.numbers).length ? el("div", { class: "numbers" }, Object.entries(check.numbers).map(([name, value]) => el("span", {}, el("i", {}, name), " ", compact(value)))) : null)) : [el("p", { class: "note" }, "No checks were run.")]));
}

function drawRobustness() {
  const table = robustTable();
  $("robustness").hidden = !table;
  if (!table) return;
  const record = table.records.find((one) => one.key === robust.key) || table.records[0];
  robust.key = record.key;
  $("h-robust").textContent = `Robustness, ${table.title}`;
  $("robust-sub").textContent = [table.networks.length === 1 ? table.networks[0] : `${table.networks.length} networks`, "one row: one checkpoint on one route of its batch norms", "percent"].join(" · ");
  const means = table.rows.some((row) => row.kind === "mean");
  $("robust-controls").replaceChildren(means ? segments([[false, "means over seeds"], [true, "every checkpoint"]], robust.every, (every) => { robust.every = every; robust.sort = null; drawRobustness(); }, "Rows") : "");
  drawRobustTable(table);
  $("robust-note").textContent = ["CA: clean accuracy. NPA: mean accuracy under corruption. mCE: lower is better.", means ? "±: standard deviation over seeds." : "",
    robustStrengths(table).length === 1 ? `Attacks: ε / step ${robustStrengths(table)[0]} in 255ths.` : "",
    "Bold: best of the same network and ReLU count, measured the same way. Hover for settings and intervals; click a row for its details below."].filter(Boolean).join(" ");
  $("h-robust-one").replaceChildren(dot(methodColour(record.method)), ` ${record.label}`);
  $("robust-one-sub").textContent = `${record.name} · ${record.hardware.accelerator}: ${record.hardware.name} · ${duration(record.seconds)} · ${record.created.slice(0, 10)}`;
  const choice = (label, value, change, empty, records) => el("select", { "aria-label": label, style: { maxWidth: "min(100%, 560px)" }, onchange: (event) => { change(event.target.value); drawRobustness(); } },
    empty ? el("option", { value: "" }, empty) : null, records.map((one) => el("option", { value: one.key, selected: one.key === value }, one.label)));
  $("robust-one-controls").replaceChildren(
    choice("Checkpoint and route", record.key, (key) => { robust.key = key; }, null, table.records),
    choice("Compare corruptions with", robust.rival, (key) => { robust.rival = key; }, "compare corruptions with…", table.records.filter((one) => one.key !== record.key && one.corruptions)));
  drawRobustHeat(table, record);
  drawRobustDetails(table, record);
}

$("panels").addEventListener("click", () => { robust.key = null; robust.rival = ""; robust.sort = null; drawRobustness(); });
drawRobustness();
