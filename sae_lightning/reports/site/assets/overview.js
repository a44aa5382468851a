/* The overview's charts and curves; of one SAE, or of several side by side. */
'use strict';
(() => {
  const {make, short, charts} = SAE;
  const by = id => document.getElementById(id);

  /* Every chart can be read as a table. */
  function asTable(figure, heads, rows) {
    const place = figure.querySelector('details');
    if (!place) return;
    place.hidden = false;
    place.addEventListener('toggle', () => {
      if (!place.open || place.querySelector('table')) return;
      const head = make('thead', {}, make('tr', {}, ...heads.map(text => make('th', {scope: 'col', class: 'number'}, text))));
      const lines = rows().map(row => make('tr', {}, ...row.map(value => make('td', {class: 'number'}, typeof value === 'number' ? short(value) : value))));
      place.append(make('div', {class: 'scroll'}, make('table', {}, head, make('tbody', {}, ...lines))));
    });
  }

  function histograms(list) {
    for (const chart of list) {
      const figure = document.querySelector(`[data-chart="${chart.id}"]`);
      if (!figure) continue;
      charts.draw(figure, () => charts.histogram(chart));
      const several = chart.series.length > 1;
      asTable(figure, [...(several ? [''] : []), 'from', 'to', chart.unit],
        () => chart.series.flatMap(one => one.edges.map((edge, i) => [...(several ? [one.name] : []), ...edge, one.counts[i]])));
    }
  }

  /* curves: [{tag, series: [{name, colour, x, y}]}]; one is shown, all can be chosen. */
  function curves(list) {
    const figure = by('curves'), choice = by('curve'), log = by('curve-log');
    if (!figure || !list.length) return;
    list.forEach((curve, i) => choice.append(make('option', {value: i}, curve.tag)));
    const show = () => {
      const curve = list[choice.value];
      charts.draw(figure, () => charts.lines({x: 'step', y: curve.tag, log: log.checked, series: curve.series}));
    };
    choice.addEventListener('change', show);
    log.addEventListener('change', show);
    choice.value = 0;
    show();
  }

  /* A table's head sorts its rows, as on the other pages of the house; here a row may hold links. */
  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector('button')?.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach(one => one.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => {
        const x = key(a), y = key(b);
        if (x === '' || y === '') return (x === '') - (y === '');
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y;
        return down ? -order : order;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    }));
  }

  document.querySelectorAll('table.sortable').forEach(sortable);
  SAE.load('overview').then(found => {
    histograms(found.charts);
    curves(found.curves);
    SAE.map?.watch(by('map-figure'));
    document.documentElement.dataset.ready = 'overview';
  }).catch(SAE.failed);
})();
