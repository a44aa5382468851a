/* A feature's examples: where it fires, with the text around it and where that is from. */
'use strict';
SAE.examples = (() => {
  const {make, short, whole, site} = SAE;
  const sources = new Map();

  /* Titles and links are kept apart, some texts to a file, so that only those in sight are loaded. */
  function source(text) {
    const part = Math.floor(text / site.texts_per_file);
    if (!sources.has(part)) sources.set(part, SAE.load(`sources/${String(part).padStart(5, '0')}`));
    return sources.get(part).then(found => found[text] ?? null);
  }

  /* packed: [value, text, position, peak, [numbers of pieces], [place, activation, ...], [places left out]]. */
  function unpack(packed, vocabulary) {
    const [value, text, position, peak, numbers, sparse, out] = packed;
    const values = new Array(numbers.length).fill(0), masked = new Array(numbers.length).fill(false);
    for (let i = 0; i < sparse.length; i += 2) values[sparse[i]] = sparse[i + 1];
    for (const i of out ?? []) masked[i] = true;
    return {value, text, position, peak, pieces: numbers.map(i => vocabulary[i]), values, masked};
  }

  function one(packed, vocabulary, most) {
    const {value, text, position, peak, pieces, values, masked} = unpack(packed, vocabulary);
    const place = i => `token ${whole.format(position - peak + i)} of text ${whole.format(text)}`;
    const run = SAE.tokens.run(pieces, values, most, {peak, masked, place});
    const from = make('p', {class: 'source'}, make('span', {class: 't'}), make('span', {}, place(peak)));
    source(text).then(found => {
      if (!found) return;
      const address = SAE.outside(found[1]), title = SAE.tokens.shown(found[0] || address || '');
      from.firstChild.append(address ? make('a', {href: address, rel: 'noreferrer noopener', target: '_blank', title: address}, ...title) : make('span', {}, ...title));
    }).catch(() => { /* without its title */ });
    return make('li', {class: 'example'}, make('span', {class: 'value'}, make('span', {class: 'vh'}, 'activation '), short(value, 4)), make('div', {}, run), from);
  }

  const list = (packed, vocabulary, most) => make('ol', {class: 'examples'}, ...packed.map(each => one(each, vocabulary, most)));

  function show(place, feature, vocabulary) {
    const parts = [], most = feature.most, of = feature.least < 0 ? '|activation| ' : '';
    const head = (text, id) => make('h2', {id}, text);
    if (!feature.top.length) parts.push(make('p', {class: 'quiet'}, 'This feature fires on none of the tokens of the store.'));
    else {
      parts.push(head('Strongest examples', 'top'), list(feature.top, vocabulary, most));
      if (feature.slices.length) {
        parts.push(head('Across its range', 'range'), make('p', {class: 'quiet small'}, `Drawn at random from equal slices of the range of its ${of ? '|activations|' : 'activations'}.`));
        for (const {low, high, examples} of feature.slices) {
          parts.push(make('h3', {class: 'group'}, `${of}${short(low, 3)} to ${short(high, 3)}`));
          parts.push(examples.length ? list(examples, vocabulary, most) : make('p', {class: 'quiet small'}, 'none'));
        }
      }
      if (feature.lowest.length) parts.push(head('Weakest examples', 'lowest'), list(feature.lowest, vocabulary, most));
    }
    place.replaceChildren(...parts);
  }
  return {show};
})();
