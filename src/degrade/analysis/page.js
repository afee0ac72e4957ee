"use strict";
// Draws the page's graphs and keeps them in step with its controls, which are native inputs.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("screen and (prefers-color-scheme: dark)");
  const KINDS = { train: data.kinds.train, test: data.kinds.test };
  const find = (selector) => [...document.querySelectorAll(selector)];
  // plotly reads markup in names; what comes from records is text.
  const brief = (words) => (words.length > 70 ? `${words.slice(0, 44)}…${words.slice(-25)}` : words);
  const text = (words) => brief(words).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  // These colours would be too dark on a dark page; page.html has the same ones for the swatches.
  const LIGHTER = { "#000000": "#f4f4f4", "#0072B2": "#2f8fd6" };
  const shade = (colour) => (dark.matches && LIGHTER[colour]) || colour;
  const faded = (colour) => shade(colour) + "30";

  const trace = (meta, line, more) => ({
    type: "scatter", mode: "lines", x: data.grids[line.grid], y: line.values, meta, showlegend: false,
    line: { width: 1.5 }, hovertemplate: "%{fullData.name}<br>iteration %{x:,}: %{y:.2f} %<extra></extra>", ...more,
  });

  // Where colours run out, marks tell networks apart; page.html shows the same marks beside the names.
  const symbol = (k) => ["circle", "square", "diamond", "triangle-up", "triangle-down"][k < 8 ? 0 : 1 + ((k >> 3) - 1) % 4];
  const signed = (k) => (k < 8 ? {} : { mode: "lines+markers", marker: { size: 6, symbol: symbol(k) } });

  function marked(line, ended, network) {
    const last = line.values.length - 1;
    const few = line.values.length < 8 ? 5 : 0;
    if (last < 0 || (!few && !ended)) return signed(network);
    const at = (end, usual) => line.values.map((_, k) => (ended && k === last ? end : usual));
    return { mode: "lines+markers", marker: { size: at(10, network < 8 ? few : 6), symbol: at(ended, symbol(network)) } };
  }

  function errorTraces(network, k) {
    const made = [];
    for (const [which, words] of Object.entries(KINDS)) {
      const meta = { network: k, which, colour: network.colour };
      const style = which === "train" ? { dash: "dash", width: 1.4 } : { dash: "solid", width: 2.4 };
      const mean = network.mean[which];
      const name = `${text(network.label)}, ${words}`;
      if (mean.low) {
        const edge = { line: { width: 0 }, hoverinfo: "skip", hovertemplate: null, name };
        made.push(trace({ ...meta, role: "band" }, { ...mean, values: mean.low }, edge));
        made.push(trace({ ...meta, role: "band" }, { ...mean, values: mean.high }, { ...edge, fill: "tonexty" }));
      }
      const hover = "%{fullData.name}<br>iteration %{x:,}: %{y:.2f} %, seeds: %{customdata}<extra></extra>";
      const more = { line: style, name, customdata: mean.count, hovertemplate: hover };
      made.push(trace({ ...meta, role: "mean" }, mean, { ...more, ...marked(mean, network.ended, k) }));
      for (const seed of network.seeds) {
        const own = { line: { ...style, width: style.width / 1.6 }, name: `${name}, seed ${seed.seed}` };
        made.push(trace({ ...meta, role: "seed" }, seed[which], { ...own, ...marked(seed[which], "", k) }));
      }
      const paper = network.paper[which];
      if (paper !== undefined && paper !== null && mean.values.length) {
        const x = [0, Math.max(...data.grids[mean.grid])];
        const error = which === "train" ? "training error, which looks like running" : words;
        const own = { x, y: [paper, paper], line: { dash: "dot", width: 1.2 }, name: `${text(network.label)}: the paper's ${error}` };
        const hover = "%{fullData.name}: %{y} %<extra></extra>";
        made.push({ ...trace({ ...meta, role: "paper" }, mean, own), hovertemplate: hover });
      }
    }
    const train = network.mean.train;
    if (network.clean !== null && train.values.length) {
      const x = [data.grids[train.grid][train.values.length - 1]];
      const own = { x, y: [network.clean], mode: "markers", marker: { size: 9, symbol: "diamond", line: { width: 1, color: "white" } },
        cliponaxis: false, name: `${text(network.label)}, ${data.kinds.clean}, last iterate` };
      made.push(trace({ network: k, which: "train", colour: network.colour, role: "clean" }, train, own));
    }
    return made;
  }

  const rates = data.networks.map((network, k) => trace(
    { network: k, role: "rate", colour: network.colour }, network.rate,
    // The rate of a row held since the row before, and that of the first row since the beginning.
    { x: [0, ...data.grids[network.rate.grid]], y: [network.rate.values[0], ...network.rate.values],
      line: { shape: "vh", width: 1.8 }, name: text(network.label), ...signed(k),
      hovertemplate: "%{fullData.name}<br>iteration %{x:,}: %{y}<extra></extra>" }));
  const speeds = data.networks.flatMap((network, k) => network.seeds.map((seed) => trace(
    { network: k, role: "speed", colour: network.colour }, seed.speed,
    { line: { width: 1.2 }, name: `${text(network.label)}, seed ${seed.seed}`, ...signed(k),
      hovertemplate: "%{fullData.name}<br>iteration %{x:,}: %{y:,} images/s<extra></extra>" })));

  const value = (name) => document.querySelector(`[name="${name}"]:checked`)?.value;
  const on = (id) => document.getElementById(id)?.checked ?? false;

  function shown(meta) {
    if (meta.role === "story") return true;
    if (!on(`network-${meta.network}`)) return false;
    if (meta.which && !on(`which-${meta.which}`)) return false;
    if (meta.role === "paper") return on("paper");
    if (meta.role === "seed") return value("seeds") === "each";
    if (meta.role === "mean" || meta.role === "band") return value("seeds") !== "each";
    return true;
  }

  function coloured(traces) {
    for (const own of traces) {
      own.visible = shown(own.meta);
      own.line = { ...own.line, color: shade(own.meta.colour) };
      if (own.fill) own.fillcolor = faded(own.meta.colour);
      if (own.marker) own.marker = { ...own.marker, color: shade(own.meta.colour) };
    }
    return traces;
  }

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const [ink, grid, paper] = ["--ink", "--rule", "--paper"].map((name) => style.getPropertyValue(name).trim());
    const axis = (name) => ({ [`${name}.gridcolor`]: grid, [`${name}.zerolinecolor`]: grid, [`${name}.linecolor`]: grid });
    const numbers = ["", ...data.panels.slice(1).map((_, p) => p + 2)]; // plotly's of the axes of the panels
    return { "font.color": ink, paper_bgcolor: paper, plot_bgcolor: paper, "hoverlabel.bgcolor": paper,
      "hoverlabel.font.color": ink, ...Object.assign({}, ...numbers.flatMap((n) => [axis(`xaxis${n}`), axis(`yaxis${n}`)])) };
  }

  const yLinear = data.ceiling ? { range: [0, data.ceiling], autorange: false } : { rangemode: "tozero", autorange: true };
  function errorAxis() {
    return on("log") ? { "yaxis.type": "log", "yaxis.autorange": true }
      : data.ceiling ? { "yaxis.type": "linear", "yaxis.range": yLinear.range }
      : { "yaxis.type": "linear", "yaxis.autorange": true };
  }

  const small = matchMedia("(max-width: 40rem)");
  function draw(id, traces, title, y, more) {
    const layout = {
      autosize: true, hovermode: "closest", hoverdistance: 60, dragmode: small.matches ? false : "zoom", uirevision: id,
      margin: { l: 56, r: 12, t: 32, b: 46 }, hoverlabel: { namelength: -1, align: "left" },
      font: { family: "system-ui, sans-serif", size: 13 },
      xaxis: { title: { text: "iterations" }, rangemode: "tozero", tickformat: "~s", nticks: 8 },
      yaxis: { title: { text: title }, automargin: true, ...y }, ...(more ? more() : {}),
    };
    const box = document.getElementById(id);
    box.replaceChildren();
    return Plotly.newPlot(box, coloured(traces), layout, {
      responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    }).then(() => Plotly.relayout(box, colours()));
  }

  // The first chart: a panel per family, on one scale, with the lines named at their ends.
  function storyTraces() {
    return data.panels.flatMap((panel, p) => panel.lines.flatMap(({ network: k, colour }) => {
      const network = data.networks[k];
      const axes = p ? { xaxis: `x${p + 1}`, yaxis: `y${p + 1}` } : {};
      const made = [];
      for (const [which, words] of Object.entries(KINDS)) {
        const meta = { role: "story", colour };
        const mean = network.mean[which];
        if (!mean.values.length) continue;
        const name = `${text(network.label)}, ${words}`;
        if (mean.low && which === "train") {
          const edge = { ...axes, line: { width: 0 }, hoverinfo: "skip", hovertemplate: null, name };
          made.push(trace(meta, { ...mean, values: mean.low }, edge));
          made.push(trace(meta, { ...mean, values: mean.high }, { ...edge, fill: "tonexty" }));
        }
        const width = which === "train" ? 3 : 1.1;
        made.push(trace(meta, mean, { ...axes, name, line: { width }, hovertemplate: "%{y:.1f} % " + name + "<extra></extra>" }));
        if (network.paper[which] !== undefined && network.paper[which] !== null && data.follows_paper) {
          const x = [data.grids[mean.grid][mean.values.length - 1]];
          const said = `the paper's ${which === "train" ? "training error, which looks like running" : words}`;
          made.push(trace(meta, mean, { ...axes, x, y: [network.paper[which]], mode: "markers", cliponaxis: false,
            marker: { size: 9, symbol: which === "train" ? "star" : "star-open" }, name: `${text(network.label)}: ${said}`,
            hovertemplate: `%{y} % ${text(network.label)}: ${said}<extra></extra>` }));
        }
      }
      const train = network.mean.train;
      if (network.clean !== null && train.values.length)
        made.push(trace({ role: "story", colour }, train, { ...axes, x: [data.grids[train.grid][train.values.length - 1]],
          y: [network.clean], mode: "markers", cliponaxis: false, marker: { size: 9, symbol: "diamond" },
          hovertemplate: `%{y:.1f} % ${text(network.label)}, ${data.kinds.clean}<extra></extra>` }));
      return made;
    }));
  }

  function storyLayout() {
    const narrow = small.matches;
    const count = data.panels.length;
    const top = data.ceiling || Math.max(...data.networks.flatMap((network) => network.mean.train.values));
    const extra = { hovermode: "x unified", annotations: [], margin: { l: 52, r: narrow ? 58 : 66, t: 28, b: 40 } };
    data.panels.forEach((panel, p) => {
      const n = p ? p + 1 : "";
      const gap = narrow ? 0.16 : 0.12;
      const size = (1 - gap * (count - 1)) / count;
      const from = p * (size + gap);
      const [across, down] = narrow ? [[0, 1], [1 - from - size, 1 - from]] : [[from, from + size], [0, 1]];
      extra[`xaxis${n}`] = { domain: across, anchor: `y${n}`, rangemode: "tozero", tickformat: "~s", nticks: 6,
        title: { text: narrow && p < count - 1 ? "" : "iterations", standoff: 4 }, ...(p ? { matches: "x" } : {}) };
      extra[`yaxis${n}`] = { domain: down, anchor: `x${n}`, title: { text: p && !narrow ? "" : "error (%)" },
        ...yLinear, ...(p ? { matches: "y" } : {}) };
      extra.annotations.push({ text: `<b>${text(panel.title)}</b>`, showarrow: false, xref: "paper", yref: "paper",
        x: across[0], y: down[1], xanchor: "left", yanchor: "bottom" });
      const ends = panel.lines.map(({ network: k, colour }) => ({ k, colour, line: data.networks[k].mean.train }))
        .filter(({ line }) => line.values.length)
        .map((own) => ({ ...own, x: data.grids[own.line.grid][own.line.values.length - 1], y: own.line.values[own.line.values.length - 1] }))
        .sort((a, b) => a.y - b.y);
      let lowest = -Infinity;
      const apart = top / (narrow ? 7 : 14); // in percent: the height of a label
      for (const own of ends) {
        lowest = Math.max(own.y, lowest + apart);
        extra.annotations.push({ text: text(data.networks[own.k].label), showarrow: false, xref: `x${n}`, yref: `y${n}`,
          x: own.x, y: lowest, xanchor: "left", xshift: 7, font: { size: 12, color: shade(own.colour) } });
      }
    });
    return extra;
  }

  const graphs = [
    ...(data.panels.length ? [["story", storyTraces(), "error (%)", yLinear, storyLayout]] : []),
    ["errors", data.networks.flatMap(errorTraces), "error (%)", yLinear],
    ["rates", rates, "learning rate", { type: "log", tickformat: "~g", dtick: "D2" }],
    ["speeds", speeds, "images per second", { rangemode: "tozero" }],
  ];
  const boxes = graphs.map(([id]) => document.getElementById(id));
  const main = document.getElementById("errors");
  const ready = Promise.all(graphs.map((graph) => draw(...graph)));

  function update() {
    for (const box of boxes) Plotly.restyle(box, { visible: box.data.map((own) => shown(own.meta)) });
  }
  function repaint() {
    for (const box of boxes) {
      Plotly.react(box, coloured(box.data), box.layout);
      Plotly.relayout(box, { ...colours(), ...(box.id === "story" ? { annotations: storyLayout().annotations } : {}) });
    }
  }
  function zoom(factor) {
    const { xaxis, yaxis } = main.layout;
    const [left, right] = xaxis.range;
    const [low, high] = yaxis.range;
    // The zoom goes towards where the curves end, if that is in sight.
    const ends = main.data.filter((own) => own.visible === true && (own.meta.role === "mean" || own.meta.role === "seed"))
      .map((own) => own.y[own.y.length - 1]).filter((y) => y !== undefined).map((y) => (on("log") ? Math.log10(y) : y));
    const mean = ends.reduce((sum, y) => sum + y, 0) / ends.length;
    const centre = mean > low && mean < high ? mean : (low + high) / 2;
    Plotly.relayout(main, {
      "xaxis.range": [Math.max(0, right - (right - left) * factor), right],
      "yaxis.range": [centre - (centre - low) * factor, centre + (high - centre) * factor],
    });
  }
  function pan(right, up) {
    const { xaxis, yaxis } = main.layout;
    const moved = ([low, high], part) => [low + (high - low) * part, high + (high - low) * part];
    Plotly.relayout(main, { "xaxis.range": moved(xaxis.range, right), "yaxis.range": moved(yaxis.range, up) });
  }

  ready.then(() => {
    for (const input of find("#controls input")) input.addEventListener("change", input.id === "log"
      ? () => Plotly.relayout(main, errorAxis()) : update);
    document.getElementById("zoom-in").addEventListener("click", () => zoom(0.7));
    document.getElementById("zoom-out").addEventListener("click", () => zoom(1 / 0.7));
    for (const [way, right, up] of [["left", -0.25, 0], ["right", 0.25, 0], ["up", 0, 0.25], ["down", 0, -0.25]])
      document.getElementById(`pan-${way}`).addEventListener("click", () => pan(right, up));
    document.getElementById("zoom-reset").addEventListener("click", () =>
      Plotly.relayout(main, { "xaxis.autorange": true, ...errorAxis() }));
    dark.addEventListener("change", repaint);
    // Paper is narrower than most screens.
    const sheet = (box) => (box.id === "errors" || box.id === "story" ? { width: 680, height: box.id === "story" ? 320 : 400 } : { width: 330, height: 250 });
    addEventListener("beforeprint", () => boxes.forEach((box) => Plotly.relayout(box, sheet(box))));
    addEventListener("afterprint", () => boxes.forEach((box) =>
      Plotly.relayout(box, { width: null, height: null, autosize: true })));
    document.documentElement.dataset.ready = "yes";
  });
})();
