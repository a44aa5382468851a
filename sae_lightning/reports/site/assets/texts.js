/* Whole texts, coloured by how strongly the chosen feature fires on each token. */
'use strict';
(() => {
  const {make, short, whole} = SAE;
  const by = id => document.getElementById(id);
  const state = {features: [], feature: null};

  async function show() {
    const number = Number(by('text').value), feature = state.features.find(([f]) => f === state.feature);
    const found = await SAE.load(`texts/${String(number).padStart(5, '0')}`);
    if (number !== Number(by('text').value)) return;  // another was chosen meanwhile
    const pieces = found.pieces.map(i => found.vocabulary[i]), values = new Array(pieces.length).fill(0), masked = new Array(pieces.length).fill(false);
    const sparse = found.active.find(([f]) => f === state.feature)?.[1] ?? [];
    for (let i = 0; i < sparse.length; i += 2) values[sparse[i]] = sparse[i + 1];
    by('main').classList.toggle('signed', found.active.some(([, pairs]) => pairs.some((value, i) => i % 2 && value < 0)));
    for (const i of found.masked) masked[i] = true;
    const most = feature?.[1] ?? 1;
    by('full').textContent = feature ? `${short(most)}, the largest activation of feature ${state.feature}` : 'no feature is active on these texts';
    by('shown').replaceChildren(SAE.tokens.run(pieces, values, most, {masked, place: i => `token ${whole.format(i)}`}));
    document.documentElement.dataset.ready = `text ${number} feature ${state.feature}`;
  }

  SAE.load('texts').then(({texts, features}) => {
    Object.assign(state, {features, feature: features[0]?.[0] ?? null});
    by('text').append(...texts.map((begin, i) => make('option', {value: i}, `${i}: ${begin.replace(/\s+/g, ' ').trim()}`)));
    by('features').append(...features.map(([feature, , largest, tokens, top], i) => {
      const choice = make('input', {type: 'radio', name: 'feature', value: feature, checked: i === 0, 'aria-label': `feature ${feature}`});
      const row = make('tr', {}, make('td', {}, make('label', {}, choice, ' ', SAE.link(feature))), make('td', {}, SAE.tokens.list(top)),
        make('td', {class: 'number'}, short(largest, 3)), make('td', {class: 'number'}, whole.format(tokens)));
      row.addEventListener('click', event => { if (!event.target.closest('a, input')) { choice.checked = true; choice.dispatchEvent(new Event('change', {bubbles: true})); } });
      return row;
    }));
    by('features').addEventListener('change', event => { state.feature = Number(event.target.value); show().catch(SAE.failed); });
    by('text').addEventListener('change', () => show().catch(SAE.failed));
    by('numbers').addEventListener('change', event => by('shown').classList.toggle('numbers', event.target.checked));
    return show();
  }).catch(SAE.failed);
})();
