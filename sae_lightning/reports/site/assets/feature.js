/* The page of one feature, whichever the address names; going to the next one loads no page anew. */
'use strict';
(() => {
  const {site, make, short, percent, whole, charts, notes, session, keys} = SAE;
  const by = id => document.getElementById(id);
  const state = {feature: null, list: session.get('list')};

  const part = (id, shown) => { const section = by(id); section.hidden = !shown; return section.querySelector('.body'); };
  /* What features are said to mean: words of a language model that read the corpus, so they are shown as the corpus is. */
  function explained(found) {
    const place = by('explanations');
    place.hidden = !found.length;
    place.replaceChildren(...found.map(([text, author, scores]) => make('li', {}, make('p', {class: 'said', dir: 'auto'}, ...SAE.tokens.shown(text)),
      make('p', {class: 'quiet small'}, 'explained by ', ...SAE.tokens.shown(author), ...scores.flatMap(([name, value]) => [' ', make('span', {class: 'score'}, '· ', ...SAE.tokens.shown(name.replaceAll('_', ' ')), ' ', short(value, 3))])))));
  }
  const meant = (number, vocabulary) => number === undefined ? [] : [make('div', {class: 'meant', title: SAE.tokens.plain(vocabulary[number]), dir: 'auto'}, ...SAE.tokens.shown(vocabulary[number]))];

  const words = (numbers, vocabulary) => SAE.tokens.list(numbers.map(i => vocabulary[i]));

  function related(id, rows, heads, {vocabulary, said}) {
    const body = part(id, rows.length > 0);
    const head = make('thead', {}, make('tr', {}, make('th', {scope: 'col', class: 'number'}, 'feature'), make('th', {scope: 'col'}, 'top tokens'), ...heads.map(([text, title]) => make('th', {scope: 'col', class: 'number', title}, text))));
    const lines = rows.map(([feature, tokens, ...values]) => make('tr', {}, make('td', {class: 'number'}, SAE.link(feature)), make('td', {}, words(tokens, vocabulary), ...meant(said?.[feature], vocabulary)),
      ...values.map(value => make('td', {class: 'number'}, short(value, 3)))));
    body.replaceChildren(make('div', {class: 'scroll'}, make('table', {}, head, make('tbody', {}, ...lines))));
  }

  function logits(found, vocabulary) {
    const body = part('logits', !!found);
    if (!found) return;
    const side = (title, kind, [tokens, values]) => {
      const most = Math.max(...values.map(Math.abs), 1e-12);
      return make('div', {class: kind}, make('h3', {}, title), make('ol', {}, ...tokens.map((token, i) => make('li', {'--w': (Math.abs(values[i]) / most).toFixed(3)},
        SAE.tokens.token(vocabulary[token]), make('span', {}, (values[i] > 0 ? '+' : '') + short(values[i], 3))))));
    };
    body.replaceChildren(make('div', {class: 'logits'}, side('Promoted', 'up', found[0]), side('Suppressed', 'down', found[1])));
  }

  function cluster(found) {
    const body = part('cluster', !!found);
    if (!found) return;
    const [number, size, members] = found;
    const more = size - 1 - members.length;
    body.replaceChildren(make('p', {class: 'quiet small'}, `Cluster ${number}, ${whole.format(size)} features that fire together. `, make('a', {href: `features.html?q=cluster%3D${number}`}, 'In the table')),
      make('ul', {class: 'chips'}, ...members.map(feature => make('li', {}, SAE.link(feature))), ...(more > 0 ? [make('li', {class: 'quiet small'}, `and ${whole.format(more)} more`)] : [])));
  }

  function closest(rows) {
    const body = part('closest', rows.length > 0);
    body.replaceChildren(make('ul', {}, ...rows.map(([sibling, feature, cosine]) => make('li', {}, `${site.siblings[sibling].name}: `,
      make('a', {href: SAE.at(feature, `${site.siblings[sibling].folder}/`)}, `feature ${feature}`), make('span', {class: 'quiet'}, ` cosine ${short(cosine, 3)}`)))));
  }

  function stats(found) {
    const rows = [['active on', percent(found.density), 'of tokens'], ['tokens', whole.format(found.count), ''], [found.least < 0 ? 'largest |activation|' : 'largest', short(found.most, 4), ''], ['mean when active', short(found.mean, 4), '']];
    if (found.neuron) rows.push(['nearest neuron', `layer ${found.neuron[0]}, neuron ${whole.format(found.neuron[1])}`, `r ${short(found.neuron[2], 2)}`]);
    by('stats').replaceChildren(...rows.map(([name, value, unit]) => make('div', {}, make('dt', {}, name), make('dd', {}, value, ' ', make('small', {}, unit)))));
  }

  function histogram(found) {
    part('activations', found.bins.length > 0);
    if (!found.bins.length) return;
    const step = (found.highest - found.least) / found.bins.length;
    const edges = found.bins.map((_, i) => [found.least + i * step, found.least + (i + 1) * step]);
    const chart = {series: [{name: 'tokens', colour: 0, edges, counts: found.bins}], x: 'activation', y: 'tokens (log)', unit: 'tokens', log: true};
    const figure = by('activations').querySelector('figure');
    figure.querySelector('.plotly-place').setAttribute('aria-label', `Histogram of ${whole.format(found.count)} activations from ${short(found.least)} to ${short(found.highest)}, mean ${short(found.mean)}`);
    charts.draw(figure, () => charts.histogram(chart));
  }

  /* Notes. */
  const field = by('note'), saved = by('saved');
  field.addEventListener('input', () => {
    const kept = notes.write(state.feature, field.value);
    saved.textContent = kept ? 'Kept in this browser. Export to keep it elsewhere.' : 'This browser keeps nothing for pages opened from disk: export before you leave.';
  });
  by('export').addEventListener('click', SAE.exportNotes);

  /* Where n and p go: along the list it was opened from, or by number. */
  function neighbours(feature) {
    const {list} = state, place = list ? list.features.indexOf(feature) : -1;
    if (place >= 0) return {before: list.features[place - 1], after: list.features[place + 1], text: `${whole.format(list.first + place + 1)} of ${whole.format(list.total)} in ${list.label}`, inList: true};
    return {before: feature > 0 ? feature - 1 : undefined, after: feature + 1 < site.d_sae ? feature + 1 : undefined, text: `of ${whole.format(site.d_sae)}`, inList: false};
  }
  function steps() {
    const {before, after, text, inList} = neighbours(state.feature);
    for (const [id, to] of [['before', before], ['after', after]]) { const button = by(id); button.disabled = to === undefined; button.dataset.to = to ?? ''; }
    const back = by('back');
    back.href = inList ? `features.html${state.list.back}` : 'features.html';
    back.textContent = inList ? text : 'All features';
  }
  for (const id of ['before', 'after']) by(id).addEventListener('click', event => { if (event.currentTarget.dataset.to) go(Number(event.currentTarget.dataset.to)); });
  keys.set('n', () => by('after').click());
  keys.set('p', () => by('before').click());
  keys.set('ArrowRight', () => by('after').click());
  keys.set('ArrowLeft', () => by('before').click());
  keys.set('e', () => { if (!by('feature').hidden) field.focus(); });

  async function show(feature) {
    state.feature = feature;
    if (!Number.isInteger(feature) || feature < 0 || feature >= site.d_sae) {
      by('feature').hidden = true;
      for (const id of ['before', 'after']) { by(id).disabled = true; by(id).dataset.to = ''; }
      delete document.documentElement.dataset.ready;
      document.title = `No such feature: ${site.name}`;
      SAE.failed(new Error(`There is no such feature: this SAE has features 0 to ${site.d_sae - 1}.`));
      return;
    }
    const file = Math.floor(feature / site.features_per_file);
    const [chunk] = await Promise.all([SAE.load(`features/${String(file).padStart(5, '0')}`), notes.load()]);
    if (state.feature !== feature) return;  // somebody went on meanwhile
    const found = chunk.features[feature - file * site.features_per_file], {vocabulary} = chunk;
    SAE.clear();
    by('feature').hidden = false;
    document.title = `Feature ${feature}: ${site.name}`;
    by('number').textContent = feature;
    by('tokens').replaceChildren(words(found.tokens, vocabulary));
    field.value = notes.of(feature);
    saved.textContent = '';
    stats(found);
    histogram(found);
    logits(found.logits, vocabulary);
    explained(found.explanations ?? []);
    related('neighbours', found.neighbours, site.measure, chunk);
    related('partners', found.partners, [['tokens', 'on which both fire'], ['Jaccard', 'both over either'], ['PMI', 'pointwise mutual information, nats'], ['r', 'correlation of activations']], chunk);
    cluster(found.cluster);
    closest(found.closest);
    by('feature').classList.toggle('signed', found.least < 0);
    SAE.examples.show(by('examples'), found, vocabulary);
    by('steer').textContent = `python -m sae_lightning.steer store=STORE prompt="I think" 'clamp={${feature}:5x}'`;
    by('near').textContent = `python -m sae_lightning.search store=STORE near=${feature}`;
    steps();
    document.documentElement.dataset.ready = `feature ${feature}`;
  }

  function go(feature) {
    try { history.pushState(null, '', SAE.at(feature)); } catch { location.href = SAE.at(feature); return; }
    by('title').focus({preventScroll: true});
    scrollTo(0, 0);
    show(feature).catch(SAE.failed);
  }
  const asked = () => { const said = new URLSearchParams(location.search).get('f') ?? '0'; return /^\d+$/.test(said) ? Number(said) : NaN; };
  addEventListener('popstate', () => show(asked()).catch(SAE.failed));
  document.addEventListener('click', event => {
    const link = event.target instanceof Element ? event.target.closest('a[data-feature]') : null;
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    go(Number(link.dataset.feature));
  });
  by('numbers').addEventListener('change', event => by('examples').classList.toggle('numbers', event.target.checked));
  show(asked()).catch(SAE.failed);
})();
