// Which positions keep their ReLU: rows are masks, columns sites; below, every channel of one site.
const maskState = { group: 0, view: "", mask: null, site: null };
const maskGroups = () => (DATA.masks ? DATA.masks.groups.filter((one) => one.panel === state.panel && one.masks.length) : []);

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
function sumsOf(group, mask) { // per site: channels kept at each position, row by row
  if (mask.maps) return mask.maps;
  const bytes = bytesOf(mask.sums);
  let at = 0;
  mask.maps = group.sites.map(({ shape: [channels, height, width] }) => Array.from({ length: height * width }, () => (channels > 255 ? bytes[at++] + 256 * bytes[at++] : bytes[at++])));
  return mask.maps;
}
function fullestSite(group, mask) { // its channels have the most to show
  const kept = sumsOf(group, mask).map((map) => map.reduce((sum, count) => sum + count, 0));
  return kept.indexOf(Math.max(...kept));
}
function bitsOf(group, mask, site) { // of one site: 0 or 1 for each position, channel by channel
  const sizes = group.sites.map(({ shape }) => shape.reduce((product, size) => product * size, 1));
  const start = sizes.slice(0, site).reduce((sum, size) => sum + Math.ceil(size / 8), 0);
  const bytes = mask.bytes ?? (mask.bytes = bytesOf(mask.bits));
  return Uint8Array.from({ length: sizes[site] }, (_, i) => (bytes[start + (i >> 3)] >> (7 - (i & 7))) & 1);
}

function maskViews(group) {
  const counts = new Map();
  for (const mask of group.masks) counts.set(mask.asked, (counts.get(mask.asked) ?? 0) + 1);
  const budgets = [...counts].map(([asked, count]) => ({ key: "budget " + asked, text: whole(asked) + " ReLUs", count, holds: (mask) => mask.asked === asked }));
  const labels = [...new Set(group.masks.map((mask) => mask.label))].map((label) => ({ key: "method " + label, text: label, count: 0, holds: (mask) => mask.label === label }));
  return { budgets, labels };
}

function drawMasks() {
  const groups = maskGroups();
  $("masks").hidden = !groups.length;
  if (!groups.length) return;
  if (maskState.group >= groups.length) maskState.group = 0;
  const group = groups[maskState.group], { budgets, labels } = maskViews(group);
  // At first the smallest of the budgets that most masks have.
  const best = budgets.reduce((one, other) => (other.count >= one.count ? other : one));
  const view = [...budgets, ...labels].find((one) => one.key === maskState.view) ?? best;
  const rows = group.masks.filter(view.holds);
  if (!rows.includes(maskState.mask)) maskState.mask = rows.find((mask) => mask.bits) ?? rows[0];
  if (maskState.site === null || maskState.site >= group.sites.length) maskState.site = fullestSite(group, maskState.mask);
  const option = (one) => el("option", { value: one.key, selected: one.key === view.key }, one.text);
  const change = (name, cast) => (event) => { maskState[name] = cast(event.target.value); drawMasks(); };
  $("masks-controls").replaceChildren(
    groups.length > 1 ? el("select", { "aria-label": "Network", onchange: change("group", Number) }, groups.map((one, index) => el("option", { value: index, selected: one === group }, one.network))) : "",
    el("select", { "aria-label": "Rows", onchange: change("view", String) }, el("optgroup", { label: "all methods at" }, budgets.map(option)), el("optgroup", { label: "all budgets of" }, labels.map(option))),
    shareLegend("% of channels"));
  $("masks-map").replaceChildren(grid({ class: "masks" },
    [el("th", {}), group.sites.map((site) => el("th", { title: site.shape.join(" × ") }, el("span", {}, site.name)))], rows.map((mask) => maskRow(group, mask))));
  const single = group.masks.filter((mask) => !mask.bits).length;
  const leftOut = DATA.masks.leftOut;
  $("masks-note").textContent = [
    "Runs with the same mask share a row. Click a map for its channels.",
    group.missing ? `${group.missing} of ${group.missing + group.masks.length} masks are not in this page, which is kept small: later seeds and budgets of fewer methods go first.` : "",
    single ? `${group.masks.length - single} of ${group.masks.length} masks are here with their single channels, the others summed only.` : "",
    leftOut.length ? `Without a readable mask file and left out: ${leftOut.slice(0, 8).join(", ")}${leftOut.length > 8 ? ` and ${leftOut.length - 8} more` : ""}.` : "",
  ].filter(Boolean).join(" ");
  drawChannels(group, maskState.mask, maskState.site);
}

function maskRow(group, mask) {
  const maps = sumsOf(group, mask);
  const twins = group.masks.filter((other) => other.label === mask.label && other.asked === mask.asked).length;
  const total = group.sites.reduce((sum, site) => sum + site.shape.reduce((a, b) => a * b, 1), 0);
  return el("tr", {},
    el("th", { class: "text", title: mask.names.join("\n") }, mask.label + (twins > 1 ? `, seed ${mask.seeds.join(", ")}` : ""), el("small", {}, `${whole(mask.met)} · ${share(mask.met, total)}`)),
    group.sites.map((site, index) => {
      const [channels, height, width] = site.shape, canvas = el("canvas", {});
      paint(canvas, width, height, (x, y) => shareColour(maps[index][y * width + x] / channels));
      const kept = maps[index].reduce((sum, value) => sum + value, 0), all = channels * height * width;
      const open = () => { maskState.mask = mask; maskState.site = index; drawMasks(); };
      return el("td", { ...opening(open), "aria-selected": String(mask === maskState.mask && index === maskState.site),
        onpointermove: (event) => tip.show(event, el("b", {}, site.name), tip.rows([["mask", mask.label], ["channels × height × width", site.shape.join(" × ")], ["kept", `${whole(kept)} of ${whole(all)}, ${share(kept, all)}`]])), onpointerleave: tip.hide },
        canvas, el("small", {}, share(kept, all)));
    }));
}

function drawChannels(group, mask, index) {
  const { name, shape: [channels, height, width] } = group.sites[index];
  $("h-channels").textContent = `Channels of ${name}: ${mask.label}, ${whole(mask.met)} ReLUs`;
  if (!mask.bits) {
    $("channels-sub").textContent = "The single channels of this mask are not in the page, which is kept small.";
    $("channels").replaceChildren();
    return;
  }
  const bits = bitsOf(group, mask, index), size = height * width;
  const counts = Array.from({ length: channels }, (_, channel) => bits.subarray(channel * size, (channel + 1) * size).reduce((sum, bit) => sum + bit, 0));
  const full = counts.filter((count) => count === size).length, none = counts.filter((count) => count === 0).length;
  $("channels-sub").textContent = `${channels} channels in order, ${height} × ${width} each; dark: ReLU kept. ${none} keep none, ${full} keep all.`;
  const factor = Math.max(1, Math.floor(40 / Math.max(height, width))), gap = 6, wide = factor * width + gap, high = factor * height + gap;
  const columns = Math.min(channels, Math.max(1, Math.floor(($("channels").clientWidth || 1000) / wide)));
  const dark = SHARE_PARTS[SHARE_PARTS.length - 1], light = [222, 226, 233], canvas = el("canvas", {});
  const channelAt = (x, y) => {
    const channel = Math.floor(y / high) * columns + Math.floor(x / wide);
    return x % wide < wide - gap && y % high < high - gap && Math.floor(x / wide) < columns && channel < channels ? channel : null;
  };
  paint(canvas, columns * wide, Math.ceil(channels / columns) * high, (x, y) => {
    const channel = channelAt(x, y);
    return channel === null ? null : bits[channel * size + Math.floor((y % high) / factor) * width + Math.floor((x % wide) / factor)] ? dark : light;
  });
  canvas.addEventListener("pointermove", (event) => {
    const channel = channelAt(Math.floor(event.offsetX), Math.floor(event.offsetY));
    if (channel === null) tip.hide();
    else tip.show(event, el("b", {}, `channel ${channel}`), tip.rows([["kept", `${counts[channel]} of ${size}`]]));
  });
  canvas.addEventListener("pointerleave", tip.hide);
  $("channels").replaceChildren(canvas);
}
