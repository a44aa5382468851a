/* Charts by Plotly, which is large: it is loaded when the first chart comes into sight, after the text. */
'use strict';
SAE.charts = (() => {
  const {make} = SAE;
  let plotly = null;
  const library = () => plotly ??= new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = `${SAE.site.assets}/plotly.min.js`;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error(`${script.src} is missing: copy the whole folder of the report`));
    document.head.append(script);
  });

  /* A colour of the style sheet as Plotly takes it, in the theme of the moment. */
  function colour(name) {
    const probe = make('span', {hidden: true});
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }
  const palette = i => colour(`c${i % 8}`);

  function frame(layout) {
    const ink = colour('ink'), line = colour('line'), quiet = colour('quiet');
    const axis = given => ({gridcolor: line, linecolor: line, zerolinecolor: line, tickfont: {color: quiet}, automargin: true, ...given,
      title: {text: given?.label ?? '', font: {size: 12, color: quiet}, standoff: 8}});
    return {
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: {family: 'system-ui, sans-serif', size: 12, color: ink},
      margin: {l: 52, r: 12, t: 8, b: 40}, hoverlabel: {bgcolor: colour('ink'), font: {color: colour('ground')}, bordercolor: colour('ink')},
      modebar: {bgcolor: 'rgba(0,0,0,0)', color: quiet, activecolor: ink},
      showlegend: false, legend: {orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom', font: {color: ink}}, ...layout,
      xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
    };
  }
  const config = {displaylogo: false, responsive: true, displayModeBar: true, modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d', 'toggleSpikelines']};

  const drawn = new Map();
  /* Draw into a figure whatever build() returns, {data, layout}: now or when it comes into sight, and again whenever
     the theme changes. */
  function draw(figure, build, after = null) {
    const place = figure.querySelector('.plotly-place');
    const again = drawn.has(place);
    drawn.set(place, build);
    const now = () => library().then(Plotly => {
      const {data, layout} = drawn.get(place)();
      return Plotly.react(place, data, frame(layout), config).then(() => { if (!place.classList.contains('drawn')) after?.(place); place.classList.add('drawn'); });
    }).catch(error => { place.textContent = String(error.message); console.error(error); });
    if (again && place.classList.contains('drawn')) return now();
    if (again) return null;
    const watch = new IntersectionObserver(entries => {
      if (entries.some(entry => entry.isIntersecting)) { watch.disconnect(); now(); }
    }, {rootMargin: '200px'});
    watch.observe(place);
    return null;
  }
  function redraw(paper = false) {
    for (const [place, build] of drawn) {
      if (!place.classList.contains('drawn')) continue;
      const {data, layout} = build();
      window.Plotly.react(place, data, {...frame(layout), ...(paper ? {width: place.clientWidth} : {})}, config);
    }
  }
  document.addEventListener('sae:theme', () => redraw());
  /* On paper the ground is white, and the page as wide as a sheet. */
  let before = null;
  addEventListener('beforeprint', () => {
    before = document.documentElement.dataset.theme ?? '';
    document.documentElement.dataset.theme = 'light';
    document.documentElement.classList.add('on-paper');
    redraw(true);
  });
  addEventListener('afterprint', () => {
    if (before === '') delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = before;
    document.documentElement.classList.remove('on-paper');
    redraw();
  });

  /* Bars between edges. chart: {series: [{name, colour, edges: [[low, high], ...], counts}], x, y, unit, power, log};
     power: edges are powers of ten. */
  function histogram(chart) {
    const {series} = chart, several = series.length > 1;
    const span = ([low, high]) => chart.power ? `${SAE.percent(10 ** low)} to ${SAE.percent(10 ** high)}` : `${SAE.short(low)} to ${SAE.short(high)}`;
    const ends = series.flatMap(one => [one.edges[0][0], one.edges.at(-1)[1]]);
    return {
      data: series.map(one => ({type: 'bar', name: one.name, y: one.counts, customdata: one.edges.map(span),
        x: one.edges.map(([low, high]) => (low + high) / 2), width: one.edges.map(([low, high]) => high - low),
        hovertemplate: `%{customdata}<br>%{y:,} ${chart.unit}<extra>${several ? '%{fullData.name}' : ''}</extra>`,
        marker: {color: palette(one.colour), line: {width: 0}}, opacity: several ? 0.55 : 1})),
      layout: {barmode: 'overlay', bargap: 0.06, showlegend: several, xaxis: {label: chart.x, ...(chart.power ? powers(Math.min(...ends), Math.max(...ends)) : {})},
        yaxis: {label: chart.y, ...(chart.log ? {type: 'log', dtick: 1} : {})}},
    };
  }
  function powers(low, high) {
    const tickvals = [];
    for (let power = Math.ceil(low); power <= Math.floor(high + 1e-9); power++) tickvals.push(power);
    return {tickvals, ticktext: tickvals.map(power => SAE.percent(10 ** power))};
  }

  function lines(chart) {
    return {
      data: chart.series.map((one, i) => ({type: 'scatter', mode: 'lines', x: one.x, y: one.y, name: one.name, line: {color: palette(one.colour ?? i), width: 1.8}})),
      layout: {showlegend: chart.series.length > 1, hovermode: 'x unified', xaxis: {label: chart.x}, yaxis: {label: chart.y, type: chart.log ? 'log' : 'linear'}},
    };
  }

  return {draw, colour, palette, histogram, lines};
})();
