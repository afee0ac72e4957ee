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

  // Marks tell networks of one colour apart; page.html shows the same marks beside the names.
  const symbol = (sign) => ["circle", "square", "diamond", "triangle-up", "triangle-down"][sign && 1 + (sign - 1) % 4];
  const signed = (sign) => (sign ? { mode: "lines+markers", marker: { size: 6, symbol: symbol(sign), maxdisplayed: 16 } } : {});

  function marked(line, ended, sign) {
    const last = line.values.length - 1;
    const few = line.values.length < 8 ? 5 : 0;
    if (last < 0 || (!few && !ended)) return signed(sign);
    const step = Math.ceil(last / 16) || 1;
    const usual = (k) => few || (sign && k % step === 0 ? 6 : 0);
    return { mode: "lines+markers", marker: { size: line.values.map((_, k) => (ended && k === last ? 10 : usual(k))),
      symbol: line.values.map((_, k) => (ended && k === last ? ended : symbol(sign))) } };
  }

  function errorTraces(network, k) {
    const made = [];
    for (const [which, words] of Object.entries(KINDS)) {
      const meta = { network: k, which, colour: network.colour };
      const style = which === "train" ? { dash: "dash", width: 1.4 } : { dash: "solid", width: 2.4 };
      const mean = network.mean[which];
      const name = `${text(network.name)}, ${words}`;
      if (mean.low) {
        const edge = { line: { width: 0 }, hoverinfo: "skip", hovertemplate: null, name };
        made.push(trace({ ...meta, role: "band" }, { ...mean, values: mean.low }, edge));
        made.push(trace({ ...meta, role: "band" }, { ...mean, values: mean.high }, { ...edge, fill: "tonexty" }));
      }
      const hover = "%{fullData.name}<br>iteration %{x:,}: %{y:.2f} %, seeds: %{customdata}<extra></extra>";
      const more = { line: style, name, customdata: mean.count, hovertemplate: hover };
      made.push(trace({ ...meta, role: "mean" }, mean, { ...more, ...marked(mean, network.ended, network.sign) }));
      for (const seed of network.seeds) {
        const own = { line: { ...style, width: style.width / 1.6 }, name: `${name}, seed ${seed.seed}` };
        made.push(trace({ ...meta, role: "seed" }, seed[which], { ...own, ...marked(seed[which], "", network.sign) }));
      }
      const paper = network.paper[which];
      if (paper !== undefined && paper !== null && mean.values.length) {
        const x = [0, Math.max(...data.grids[mean.grid])];
        const error = which === "train" ? "training error, which looks like running" : words;
        const own = { x, y: [paper, paper], line: { dash: "dot", width: 1.2 }, name: `${text(network.name)}: the paper's ${error}` };
        const hover = "%{fullData.name}: %{y} %<extra></extra>";
        made.push({ ...trace({ ...meta, role: "paper" }, mean, own), hovertemplate: hover });
      }
    }
    const train = network.mean.train;
    if (network.clean !== null && train.values.length) {
      const x = [data.grids[train.grid][train.values.length - 1]];
      const own = { x, y: [network.clean], mode: "markers", marker: { size: 9, symbol: "diamond", line: { width: 1, color: "white" } },
        cliponaxis: false, name: `${text(network.name)}, ${data.kinds.clean}, last iterate` };
      made.push(trace({ network: k, which: "train", colour: network.colour, role: "clean" }, train, own));
    }
    return made;
  }

  const rates = data.networks.map((network, k) => trace(
    { network: k, role: "rate", colour: network.colour }, network.rate,
    // The rate of a row held since the row before, and that of the first row since the beginning.
    { x: [0, ...data.grids[network.rate.grid]], y: [network.rate.values[0], ...network.rate.values],
      line: { shape: "vh", width: 1.8 }, name: text(network.label), ...signed(network.sign),
      hovertemplate: "%{fullData.name}<br>iteration %{x:,}: %{y}<extra></extra>" }));
  const speeds = data.networks.flatMap((network, k) => network.seeds.map((seed) => trace(
    { network: k, role: "speed", colour: network.colour }, seed.speed,
    { line: { width: 1.2 }, name: `${text(network.label)}, seed ${seed.seed}`, ...signed(network.sign),
      hovertemplate: "%{fullData.name}<br>iteration %{x:,}: %{y:,} images/s<extra></extra>" })));

  const value = (name) => document.querySelector(`[name="${name}"]:checked`)?.value;
  const on = (id) => document.getElementById(id)?.checked ?? false;

  function shown(meta) {
    if (meta.network === undefined) return true;
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
      if (own.type !== "scatter") continue;
      own.line = { ...own.line, color: shade(own.meta.colour) };
      if (own.fill) own.fillcolor = faded(own.meta.colour);
      if (own.marker) own.marker = { ...own.marker, color: shade(own.meta.colour) };
    }
    return traces;
  }

  function colours(box) {
    const style = getComputedStyle(document.documentElement);
    const [ink, grid, paper] = ["--ink", "--rule", "--paper"].map((name) => style.getPropertyValue(name).trim());
    const axes = Object.keys(box.layout).filter((name) => /^[xy]axis\d*$/.test(name));
    const each = axes.map((name) => ({ [`${name}.gridcolor`]: grid, [`${name}.zerolinecolor`]: grid, [`${name}.linecolor`]: grid }));
    return { "font.color": ink, paper_bgcolor: paper, plot_bgcolor: paper, "hoverlabel.bgcolor": paper,
      "hoverlabel.font.color": ink, ...Object.assign({}, ...each) };
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
      autosize: true, hovermode: "closest", hoverdistance: -1, dragmode: small.matches ? false : "zoom", uirevision: id,
      margin: { l: 56, r: 12, t: 32, b: 46 }, hoverlabel: { namelength: -1, align: "left" },
      font: { family: "system-ui, sans-serif", size: 13 },
      xaxis: { title: { text: "iterations" }, rangemode: "tozero", tickformat: "~s", nticks: 8 },
      yaxis: { title: { text: title }, automargin: true, ...y }, ...(more ? more() : {}),
    };
    const box = document.getElementById(id);
    box.replaceChildren();
    return Plotly.newPlot(box, coloured(traces), layout, {
      responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    }).then(() => Plotly.relayout(box, colours(box)));
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
        const name = `${text(network.name)}, ${words}`;
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
            marker: { size: 9, symbol: which === "train" ? "star" : "star-open" }, name: `${text(network.name)}: ${said}`,
            hovertemplate: `%{y} % ${text(network.name)}: ${said}<extra></extra>` }));
        }
      }
      const train = network.mean.train;
      if (network.clean !== null && train.values.length)
        made.push(trace({ role: "story", colour }, train, { ...axes, x: [data.grids[train.grid][train.values.length - 1]],
          y: [network.clean], mode: "markers", cliponaxis: false, marker: { size: 9, symbol: "diamond" },
          hovertemplate: `%{y:.1f} % ${text(network.name)}, ${data.kinds.clean}<extra></extra>` }));
      return made;
    }));
  }

  // Where a panel of several lies: beside each other, or below each other on a phone. Its axes' number in plotly.
  function domains(count, p) {
    const narrow = small.matches;
    const gap = narrow ? 0.36 / count : count > 2 ? 0.05 : 0.12;
    const size = (1 - gap * (count - 1)) / count;
    const from = p * (size + gap);
    const [across, down] = narrow ? [[0, 1], [1 - from - size, 1 - from]] : [[from, from + size], [0, 1]];
    return { n: p ? p + 1 : "", across, down, leftmost: narrow || !p, lowest: !narrow || p === count - 1 };
  }
  const titled = (words, { across, down }) => ({ text: `<b>${text(words)}</b>`, showarrow: false, xref: "paper",
    yref: "paper", x: across[0], y: down[1], xanchor: "left", yanchor: "bottom" });

  function storyLayout() {
    const narrow = small.matches;
    const count = data.panels.length;
    const top = data.ceiling || Math.max(...data.networks.flatMap((network) => network.mean.train.values));
    const extra = { hovermode: "x unified", annotations: [], margin: { l: 52, r: narrow ? 58 : 66, t: 28, b: 40 } };
    data.panels.forEach((panel, p) => {
      const place = domains(count, p);
      const { n } = place;
      extra[`xaxis${n}`] = { domain: place.across, anchor: `y${n}`, rangemode: "tozero", tickformat: "~s", nticks: 6,
        title: { text: place.lowest ? "iterations" : "", standoff: 4 }, ...(p ? { matches: "x" } : {}) };
      extra[`yaxis${n}`] = { domain: place.down, anchor: `x${n}`, title: { text: place.leftmost ? "error (%)" : "" },
        ...yLinear, ...(p ? { matches: "y" } : {}) };
      extra.annotations.push(titled(panel.title, place));
      const ends = panel.lines.map(({ network: k, colour }) => ({ k, colour, line: data.networks[k].mean.train }))
        .filter(({ line }) => line.values.length)
        .map((own) => ({ ...own, x: data.grids[own.line.grid][own.line.values.length - 1], y: own.line.values[own.line.values.length - 1] }))
        .sort((a, b) => a.y - b.y);
      let lowest = -Infinity;
      const apart = top / (narrow ? 7 : 14); // in percent: the height of a label
      for (const own of ends) {
        lowest = Math.max(own.y, lowest + apart);
        extra.annotations.push({ text: text(data.networks[own.k].name), showarrow: false, xref: `x${n}`, yref: `y${n}`,
          x: own.x, y: lowest, xanchor: "left", xshift: 7, font: { size: 12, color: shade(own.colour) } });
      }
    });
    return extra;
  }

  // Charts of chapters: views to choose from, each with panels of lines or of maps on one scale.
  const chosen = (chart) => chart.views[+(value(`${chart.id}-view`) ?? 0)];
  const even = (view) => view.even || view.panels.some((panel) => panel.map && !view.contours);
  // Where iterations are spaced evenly, a point's place is its iteration's among all of them.
  function stops(view) {
    const all = view.panels.flatMap((panel) => (panel.map ? panel.map.x : panel.lines.flatMap((line) => line.x)));
    return [...new Set(all)].sort((a, b) => a - b);
  }
  const exact = (view) => (view.log ? ".3g" : ".2f");

  function lineTraces(view, line, axes, places) {
    const x = even(view) ? line.x.map((own) => places.indexOf(own)) : line.x;
    const name = text(line.name);
    const own = { type: "scatter", mode: line.x.length < 16 ? "lines+markers" : "lines", x, meta: { colour: line.colour },
      showlegend: true, legendgroup: name, marker: { size: 4 }, name, ...axes };
    const edge = { ...own, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
    const where = line.at ?? line.x.map((at) => (view.x.startsWith("iteration") ? `iteration ${at.toLocaleString("en")}` : `${at}`));
    return [
      ...(line.low ? [{ ...edge, y: line.low }, { ...edge, y: line.high, fill: "tonexty" }] : []),
      { ...own, y: line.y, line: { width: 2, dash: line.dash ?? "solid" }, customdata: where.map(text),
        hovertemplate: `${name}<br>%{customdata}${view.contours ? "" : `: %{y:${exact(view)}}`}<extra></extra>` },
    ];
  }

  function mapTrace(view, { map, title }, axes, places, first) {
    const scaled = map.z.map((row) => row.map((z) => (z === null ? null : Math.log10(z))));
    const ends = view.panels.flatMap((panel) => panel.map.z.flat()).filter((z) => z !== null).map(Math.log10);
    const [low, high] = [Math.min(...ends), Math.max(...ends, Math.min(...ends) + 0.3)];
    const ticks = named(low, high);
    const own = { x: even(view) ? map.x.map((at) => places.indexOf(at)) : map.x, y: map.y, z: scaled, zmin: low, zmax: high,
      colorscale: "Viridis", showscale: first, meta: {}, ...axes,
      colorbar: { title: { text: view.z, side: "right" }, tickvals: ticks.map(Math.log10), ticktext: ticks.map(brieflyNamed), thickness: 12 },
      customdata: map.z.map((row, y) => row.map((z, x) => [z === null ? "none" : z, map.at ? text(map.at[y]) : map.y[y], map.x[x].toLocaleString("en")])) };
    return view.contours
      ? { ...own, type: "contour", zauto: false, contours: { start: low, end: high, size: (high - low) / 15 }, line: { width: 0.5 },
        hovertemplate: `${text(title)}<br>%{x:.2f} and %{y:.2f} along the directions: ${view.z} %{customdata[0]}<extra></extra>` }
      : { ...own, type: "heatmap", hovertemplate: `${text(title)}<br>%{customdata[1]} at iteration %{customdata[2]}: %{customdata[0]}<extra></extra>` };
  }
  // Round numbers from one power of ten to another, four or more where there is room for so many.
  function scale(low, high) {
    const steps = high - low > 3 ? [1] : [1, 2, 5];
    const powers = Array.from({ length: Math.ceil(high) - Math.floor(low) + 1 }, (_, k) => Math.floor(low) + k);
    const sparse = Math.ceil(powers.length / 9);
    return powers.filter((power) => power % sparse === 0).flatMap((power) => steps.map((step) => step * 10 ** power))
      .filter((own) => Math.log10(own) >= low && Math.log10(own) <= high);
  }
  // The same, or the ends and the middle where no round numbers lie between.
  function named(low, high) {
    const round = scale(low, high);
    return round.length > 1 ? round : [low, (low + high) / 2, high].map((own) => 10 ** own);
  }
  const brieflyNamed = (own) => (own >= 1e-3 && own < 1e5 ? String(+own.toPrecision(3)) : own.toExponential(0).replace("e+", "e"));

  function chapterTraces(chart) {
    const view = chosen(chart);
    const places = even(view) ? stops(view) : [];
    const seen = new Set();
    return view.panels.flatMap((panel, p) => {
      const axes = p ? { xaxis: `x${p + 1}`, yaxis: `y${p + 1}` } : { xaxis: "x", yaxis: "y" };
      const traces = panel.lines.flatMap((line) => lineTraces(view, line, axes, places));
      if (panel.map) return [mapTrace(view, panel, axes, places, !p), ...traces.map((own) => ({ ...own, showlegend: false }))];
      for (const own of traces.filter((each) => each.showlegend)) { // a name is said once for all panels
        own.showlegend = !seen.has(own.name);
        seen.add(own.name);
      }
      return traces;
    });
  }

  function chapterLayout(chart) {
    const view = chosen(chart);
    const narrow = small.matches;
    const maps = view.panels.some((panel) => panel.map);
    const places = even(view) ? stops(view) : [];
    const step = Math.ceil(places.length / (narrow ? 5 : Math.max(3, Math.floor(14 / view.panels.length))));
    const marks = places.map((_, k) => k).filter((k) => k % step === 0);
    const ticks = even(view) ? { tickvals: marks, ticktext: marks.map((k) => places[k].toLocaleString("en")) } : { nticks: 7 };
    const extra = { hovermode: "closest", annotations: [], margin: { l: 60, r: 14, t: 46, b: 50 },
      showlegend: !maps };
    extra.legend = { orientation: "h", x: 0, y: narrow ? -0.22 / view.panels.length : -0.2, yanchor: "top", font: { size: 12 } };
    view.panels.forEach((panel, p) => {
      const place = domains(view.panels.length, p);
      const { n } = place;
      extra[`xaxis${n}`] = { domain: place.across, anchor: `y${n}`, title: { text: place.lowest ? view.x : "", standoff: 6, font: { size: 12 } },
        ...ticks, zeroline: false, ...(p && !maps ? { matches: "x" } : {}) };
      extra[`yaxis${n}`] = { domain: place.down, anchor: `x${n}`, zeroline: false, automargin: true,
        title: { text: place.leftmost ? view.y : "", font: { size: 12 } }, showticklabels: place.leftmost || (maps && !view.contours) || view.apart,
        ...(maps ? {} : view.log ? { type: "log", tickformat: "", exponentformat: "power", nticks: 7 } : { rangemode: "tozero" }),
        ...(p && !maps ? { matches: "y" } : {}), ...(view.contours && !view.apart ? { scaleanchor: `x${n}`, constrain: "domain" } : {}) };
      if (panel.title) extra.annotations.push(titled(panel.title, place));
      if (view.contours) extra.annotations.push({ text: "+", x: 0, y: 0, xref: `x${n}`, yref: `y${n}`, showarrow: false, font: { color: "#ffffff", size: 20 } });
    });
    return extra;
  }

  const mains = Array.from({ length: data.groups }, (_, g) => document.getElementById(g ? `errors-${g}` : "errors"));
  const graphs = [
    ...(data.panels.length ? [["story", storyTraces(), "error (%)", yLinear, storyLayout]] : []),
    ...mains.map((box, g) => [box.id, data.networks.flatMap((network, k) => (network.group === g ? errorTraces(network, k) : [])), "error (%)", yLinear]),
    ...data.charts.map((chart) => [chart.id, chapterTraces(chart), "", {}, () => chapterLayout(chart)]),
    ["rates", rates, "learning rate", { type: "log", tickformat: "~g", dtick: "D2" }],
    ["speeds", speeds, "images per second", { rangemode: "tozero" }],
  ];
  // On a phone panels are below each other, and need more height.
  for (const chart of data.charts)
    if (small.matches) document.getElementById(chart.id).style.height = `${7 + 15 * chosen(chart).panels.length}rem`;
  const boxes = graphs.map(([id]) => document.getElementById(id));
  const ready = Promise.all(graphs.map((graph) => draw(...graph)));

  function update() {
    for (const box of boxes) if (!box.id.startsWith("chart")) Plotly.restyle(box, { visible: box.data.map((own) => shown(own.meta)) });
  }
  function repaint() {
    for (const box of boxes) {
      Plotly.react(box, coloured(box.data), box.layout);
      Plotly.relayout(box, { ...colours(box), ...(box.id === "story" ? { annotations: storyLayout().annotations } : {}) });
    }
  }
  function zoom(main, factor) {
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
  function pan(main, right, up) {
    const { xaxis, yaxis } = main.layout;
    const moved = ([low, high], part) => [low + (high - low) * part, high + (high - low) * part];
    Plotly.relayout(main, { "xaxis.range": moved(xaxis.range, right), "yaxis.range": moved(yaxis.range, up) });
  }

  ready.then(() => {
    for (const input of find("#controls input, .networks input")) input.addEventListener("change", input.id === "log"
      ? () => mains.forEach((main) => Plotly.relayout(main, errorAxis())) : update);
    mains.forEach((main, g) => {
      const pressed = (name, act) => document.getElementById(g ? `${name}-${g}` : name).addEventListener("click", act);
      pressed("zoom-in", () => zoom(main, 0.7));
      pressed("zoom-out", () => zoom(main, 1 / 0.7));
      for (const [way, right, up] of [["left", -0.25, 0], ["right", 0.25, 0], ["up", 0, 0.25], ["down", 0, -0.25]])
        pressed(`pan-${way}`, () => pan(main, right, up));
      pressed("zoom-reset", () => Plotly.relayout(main, { "xaxis.autorange": true, ...errorAxis() }));
    });
    for (const chart of data.charts) for (const input of find(`[name="${chart.id}-view"]`))
      input.addEventListener("change", () => draw(chart.id, chapterTraces(chart), "", {}, () => chapterLayout(chart)));
    // What was drawn while it was folded has no width yet.
    for (const folded of find("details")) folded.addEventListener("toggle", () => {
      if (folded.open) for (const box of folded.querySelectorAll(".graph")) Plotly.Plots.resize(box);
    });
    dark.addEventListener("change", repaint);
    // Paper is narrower than most screens, and has all that is folded.
    const wide = (box) => !box.closest(".pair, .experiments");
    const height = (box) => (!wide(box) ? 250 : box.id === "errors" ? 340 : 290);
    let unfolded = [];
    addEventListener("beforeprint", () => {
      unfolded = find("details:not([open], .screen)");
      for (const own of unfolded) own.open = true;
      for (const box of boxes) Plotly.relayout(box, { width: wide(box) ? 680 : 330, height: height(box) });
    });
    addEventListener("afterprint", () => {
      for (const own of unfolded) own.open = false;
      for (const box of boxes) Plotly.relayout(box, { width: null, height: null, autosize: true });
    });
    document.documentElement.dataset.ready = "yes";
  });
})();
