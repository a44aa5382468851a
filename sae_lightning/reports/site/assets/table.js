/* The table of features. Only the rows in sight exist; the rest is two empty rows of the right height. */
'use strict';
SAE.table = (() => {
  const {make, short, percent, whole, notes, session, keys, site} = SAE;
  const grid = document.getElementById('grid'), table = grid.querySelector('table'), body = table.tBodies[0];
  const field = document.getElementById('q'), count = document.getElementById('count'), alive = document.getElementById('alive');
  const heads = [...table.tHead.rows[0].cells];
  const columns = heads.map(head => ({...head.dataset, minor: head.classList.contains('minor')}));
  const MARGIN = 8;
  const state = {index: null, rows: new Uint32Array(0), key: 'feature', descending: false, active: 0, first: -1, last: -1, height: 34, problem: ''};

  function cell(column, feature) {
    const {index} = state;
    const classes = [column.kind === 'number' || column.kind === 'percent' ? 'number' : null, column.minor ? 'minor' : null];
    const put = (attributes, ...children) => make('td', {...attributes, class: [...classes, attributes.class].filter(Boolean).join(' ') || null}, ...children);
    if (column.key === 'feature') return put({class: 'number'}, SAE.link(feature));
    if (column.kind === 'tokens') {
      const texts = index.list(column.key, feature);
      return put({title: texts.map(SAE.tokens.exact).join(' ')}, SAE.tokens.list(texts));
    }
    if (column.kind === 'text') { const text = index.texts.get(column.key)?.[feature] ?? ''; return put({title: SAE.tokens.plain(text), dir: 'auto'}, ...(text ? SAE.tokens.shown(text) : [])); }
    if (column.kind === 'note') { const text = notes.of(feature); return put({title: text}, ...(text ? SAE.tokens.shown(text) : [])); }
    const value = index.columns.get(column.key)[feature];
    if (Number.isNaN(value)) return put({}, '');
    if (column.kind === 'percent') {
      const share = value > 0 ? Math.max(0, 1 + Math.log10(value) / 6) : 0;
      return put({class: 'meter', '--w': share.toFixed(3)}, percent(value));
    }
    return put({}, short(value, 3));
  }

  function row(place) {
    const feature = state.rows[place];
    const dead = state.index.columns.get('count')[feature] === 0;
    const line = make('tr', {class: dead ? 'item dead' : 'item', 'aria-rowindex': place + 2, 'data-place': place}, ...columns.map(column => cell(column, feature)));
    line.querySelector('a').tabIndex = place === state.active ? 0 : -1;
    return line;
  }
  /* A narrow window leaves columns out. */
  const across = () => heads.filter(head => getComputedStyle(head).display !== 'none').length;
  const space = rows => make('tr', {class: 'space', 'aria-hidden': 'true'}, make('td', {colspan: across(), style: `height:${rows * state.height}px`}));

  function draw(force = false, from = null, to = null) {
    const top = Math.max(0, grid.scrollTop), seen = Math.ceil(grid.clientHeight / state.height);
    const first = from ?? Math.max(0, Math.floor(top / state.height) - MARGIN);
    const last = to ?? Math.min(state.rows.length, Math.floor(top / state.height) + seen + MARGIN);
    if (!force && first === state.first && last === state.last) return;
    const focused = body.contains(document.activeElement);
    Object.assign(state, {first, last});
    const lines = [];
    for (let place = first; place < last; place++) lines.push(row(place));
    if (first > 0) lines.unshift(space(first));
    if (last < state.rows.length) lines.push(space(state.rows.length - last));
    if (!state.rows.length) lines.push(make('tr', {}, make('td', {class: 'empty', colspan: across()}, state.problem || `No feature matches. ${document.getElementById('hint').dataset.words}`)));
    body.replaceChildren(...lines);
    if (focused) linkAt(state.active)?.focus({preventScroll: true});
  }
  const linkAt = place => body.querySelector(`tr[data-place="${place}"] a`);

  /* Everything that changes what is shown goes through here. */
  function update({query = field.value, key = state.key, descending = state.descending} = {}) {
    if (!state.index) return;
    Object.assign(state, {key, descending, active: 0, problem: state.index.problem(query)});
    let rows = state.index.find(query, key, descending);
    if (alive.checked) { const fired = state.index.columns.get('count'); rows = rows.filter(feature => fired[feature] > 0); }
    state.rows = rows;
    table.setAttribute('aria-rowcount', rows.length + 1);
    heads.forEach(head => head.dataset.key === key ? head.setAttribute('aria-sort', descending ? 'descending' : 'ascending') : head.removeAttribute('aria-sort'));
    count.textContent = state.problem ? state.problem : rows.length === site.d_sae ? `${whole.format(site.d_sae)} features` : `${whole.format(rows.length)} of ${whole.format(site.d_sae)} features`;
    grid.scrollTop = 0;
    draw(true);
    const said = new URLSearchParams({...(query ? {q: query} : {}), sort: key, ...(descending ? {down: 1} : {}), ...(alive.checked ? {alive: 1} : {})});
    try { history.replaceState(null, '', `#${said}`); } catch { /* the address then says less */ }
  }

  function go(place) {
    if (!state.rows.length) return;
    state.active = Math.max(0, Math.min(state.rows.length - 1, place));
    const room = grid.clientHeight - state.height - table.tHead.offsetHeight, at = state.active * state.height;
    if (at < grid.scrollTop) grid.scrollTop = at;
    else if (at > grid.scrollTop + room) grid.scrollTop = at - room;
    draw(true);
    linkAt(state.active)?.focus({preventScroll: true});
  }

  /* The list is remembered, so that a feature's page can go on to the next of it. */
  function open(place) {
    const feature = state.rows[place];
    if (feature === undefined) return;
    keep(place);
    location.href = SAE.at(feature);
  }
  function keep(place) {
    const first = Math.max(0, place - 2000), head = heads.find(one => one.dataset.key === state.key);
    const label = [field.value.trim() ? `“${field.value.trim()}”` : 'all features', `by ${head.dataset.label}`].join(', ');
    session.set('list', {label, first, total: state.rows.length, features: [...state.rows.subarray(first, first + 4000)], back: location.hash});
  }

  function listen() {
    field.addEventListener('input', () => update());
    field.form.addEventListener('submit', event => { event.preventDefault(); open(0); });
    field.addEventListener('keydown', event => {
      if (event.key === 'ArrowDown') { event.preventDefault(); go(0); }
      if (event.key === 'Escape') { field.value = ''; update(); }
    });
    alive.addEventListener('change', () => update());
    heads.forEach(head => head.querySelector('button').addEventListener('click', () => {
      const key = head.dataset.key, again = state.key === key;
      update({key, descending: again ? !state.descending : head.dataset.first === 'down'});
    }));
    grid.addEventListener('scroll', () => draw(), {passive: true});
    addEventListener('resize', () => draw(true));
    body.addEventListener('click', event => {
      const line = event.target.closest('tr.item');
      if (!line) return;
      const place = Number(line.dataset.place);
      if (event.target.closest('a')) { keep(place); return; }
      if (document.getSelection().isCollapsed) open(place);
    });
    body.addEventListener('keydown', event => {
      const page = Math.max(1, Math.floor(grid.clientHeight / state.height) - 2);
      const steps = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -state.rows.length, End: state.rows.length};
      if (event.key === 'ArrowUp' && state.active === 0) { event.preventDefault(); field.focus(); }
      else if (event.key in steps) { event.preventDefault(); go(state.active + steps[event.key]); }
      else if (event.key === 'Enter') { event.preventDefault(); open(state.active); }
    });
    /* Paper shows what the screen's window would hide, up to a limit. */
    addEventListener('beforeprint', () => draw(true, 0, Math.min(state.rows.length, 1000)));
    addEventListener('afterprint', () => draw(true));
    addEventListener('storage', () => { state.index.readNotes(); draw(true); });
    document.getElementById('export').addEventListener('click', SAE.exportNotes);
  }

  const said = new URLSearchParams(location.hash.slice(1) || location.search);
  field.value = said.get('q') ?? '';
  alive.checked = said.get('alive') === '1';
  const ready = SAE.index.open().then(index => {
    state.index = index;
    listen();
    const key = heads.some(head => head.dataset.key === said.get('sort')) ? said.get('sort') : 'feature';
    update({key, descending: said.get('down') === '1'});
    state.height = body.querySelector('tr.item')?.getBoundingClientRect().height || state.height;
    draw(true);
    document.documentElement.dataset.ready = 'table';
  }).catch(SAE.failed);
  return {state, update, go, ready};
})();
