/* The map: a point a feature, of one SAE or of several. Colours come from the table's columns; a search makes what it
   finds stand out; a click opens the feature. */
'use strict';
SAE.map = (() => {
  const {charts, whole, percent} = SAE;
  const webgl = () => { try { return !!document.createElement('canvas').getContext('webgl2'); } catch { return false; } };
  /* Plotly reads a hover text as HTML, of which it knows a few tags. */
  const plain = text => text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');

  async function draw(figure) {
    const {groups} = await SAE.load('map');
    const indices = await Promise.all(groups.map(group => SAE.index.open(group.folder)));
    const choice = figure.querySelector('select'), field = figure.querySelector('input[type=search]'), found = figure.querySelector('output');
    const points = groups.flatMap((group, g) => group.features.map((feature, i) => ({feature, group: g, x: group.x[i], y: group.y[i]})));
    const type = points.length > 3000 && webgl() ? 'scattergl' : 'scatter';
    const several = groups.length > 1, size = points.length > 8000 ? 3.5 : points.length > 1500 ? 5 : 7;
    for (const option of [...choice.options]) if (option.value !== 'sae' && !indices.every(index => index.columns.has(option.value))) option.remove();
    const label = ({feature, group}) => {
      const words = indices[group].list('tokens', feature).slice(0, 4).map(SAE.tokens.exact).join('  ');
      return `${several ? `${plain(groups[group].name)}: ` : ''}<b>feature ${feature}</b>, on ${percent(indices[group].columns.get('density')[feature])}<br>${plain(words)}`;
    };

    function colours(mine, key, kind, g) {
      if (key === 'sae') return {color: charts.palette(g)};
      const values = mine.map(({feature}) => indices[g].columns.get(key)[feature]);
      if (kind === 'names') return {color: values.map(c => c >= 0 ? charts.palette(c) : charts.colour('line'))};
      const shown = kind === 'log' ? values.map(v => v > 0 ? Math.log10(v) : null) : values;
      return {color: shown, coloraxis: 'coloraxis'};
    }

    function build() {
      const key = choice.value, kind = choice.selectedOptions[0].dataset.kind;
      let hits = 0;
      const data = groups.map((group, g) => {
        const mine = points.filter(point => point.group === g);
        const matches = indices[g].matcher(field.value), hit = matches ? mine.map(({feature}) => matches(feature)) : null;
        hits += hit ? hit.filter(Boolean).length : 0;
        const marker = {...colours(mine, key, kind, g), ...(hit ? {size: hit.map(h => h ? 2 * size : size), opacity: hit.map(h => h ? 1 : 0.1)} : {size, opacity: 0.8})};
        return {type, mode: 'markers', name: group.name, x: mine.map(p => p.x), y: mine.map(p => p.y), marker, customdata: mine.map(p => p.feature), hovertext: mine.map(label), hoverinfo: 'text'};
      });
      found.textContent = indices[0].problem(field.value) || !field.value.trim() ? indices[0].problem(field.value) : `${whole.format(hits)} found`;
      const axis = {showgrid: false, zeroline: false, showticklabels: false, showline: false, label: ''};
      const bar = {thickness: 10, len: 0.6, outlinewidth: 0, tickfont: {color: charts.colour('quiet')}, title: {text: kind === 'log' ? `log10 ${key}` : key, font: {size: 11}}};
      return {data, layout: {xaxis: axis, yaxis: {...axis, scaleanchor: 'x'}, margin: {l: 8, r: 8, t: 8, b: 8}, hovermode: 'closest', dragmode: 'pan', showlegend: several,
        coloraxis: {colorscale: 'Viridis', reversescale: !SAE.dark(), colorbar: bar}}};
    }

    const show = () => charts.draw(figure, build, place => {
      place.on('plotly_click', ({points: [point]}) => { if (point) location.href = SAE.at(point.customdata, groups[point.curveNumber].folder); });
      figure.dataset.ready = 'map';
    });
    choice.addEventListener('change', show);
    field.addEventListener('input', show);
    field.addEventListener('keydown', event => {
      if (event.key !== 'Enter' || !field.value.trim()) return;
      const first = points.find(({feature, group}) => indices[group].matcher(field.value)?.(feature));
      if (first) location.href = SAE.at(first.feature, groups[first.group].folder);
    });
    show();
  }

  /* Loads what it needs when it comes near the window. */
  function watch(figure) {
    if (!figure) return;
    const watching = new IntersectionObserver(entries => {
      if (entries.some(entry => entry.isIntersecting)) { watching.disconnect(); draw(figure).catch(SAE.failed); }
    }, {rootMargin: '300px'});
    watching.observe(figure);
  }
  return {watch};
})();
