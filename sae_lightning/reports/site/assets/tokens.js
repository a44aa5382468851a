/* Tokens as they are: characters that are not seen get a symbol, activations a colour, and copying gives the source. */
'use strict';
SAE.tokens = (() => {
  const {make, short} = SAE;
  const hidden = /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff]|\p{Cs}/gu;
  const symbols = {'\n': '↵', '\t': '⇥', '\r': '␍', '\u007f': '␡'};
  const coded = character => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`;

  /* A text's exact form in quotes, in which nothing hides. */
  const exact = text => JSON.stringify(text).replace(hidden, c => `\\u${c.codePointAt(0).toString(16).padStart(4, '0')}`);

  /* A text in one line for a tooltip, in which nothing hides or turns what is around it. */
  const plain = text => text.replace(hidden, c => symbols[c] ?? `[${coded(c)}]`);

  function symbol(character) {
    const code = character.codePointAt(0);
    const picture = symbols[character] ?? (code < 0x20 ? String.fromCharCode(0x2400 + code) : null);
    const shown = make('span', {class: picture ? 'sym' : 'sym code'}, picture ?? coded(character));
    shown.exact = character;
    shown.dataset.exact = '';
    return shown;
  }

  /* A text with symbols for what is not seen. spaces: which white space gets one too: 'edges', or 'only' for a text of
     nothing else. */
  function shown(text, spaces = 'only') {
    const parts = [];
    if (text === '') {
      const mark = make('span', {class: 'sym', title: 'a part of a character that the token before begins'}, '▫');
      mark.exact = '';
      mark.dataset.exact = '';
      return [mark];
    }
    const blank = /^ +$/.test(text);
    const pattern = spaces === 'edges' ? /^ +| +$/g : blank ? / /g : null;
    const plain = piece => {
      let last = 0;
      for (const found of piece.matchAll(hidden)) {
        if (found.index > last) parts.push(piece.slice(last, found.index));
        parts.push(symbol(found[0]));
        last = found.index + found[0].length;
      }
      if (last < piece.length) parts.push(piece.slice(last));
    };
    if (pattern === null) { plain(text); return parts; }
    let last = 0;
    for (const found of text.matchAll(pattern)) {
      plain(text.slice(last, found.index));
      const mark = make('span', {class: 'sym'}, '␣'.repeat(found[0].length));
      mark.exact = found[0];
      mark.dataset.exact = '';
      parts.push(mark);
      if (spaces === 'only') parts.push(make('wbr'));
      last = found.index + found[0].length;
    }
    plain(text.slice(last));
    return parts;
  }

  /* One token in a list of tokens: its edges count, so spaces there are seen. */
  const token = text => make('span', {class: 'token', title: exact(text)}, ...shown(text, 'edges'));
  const list = texts => make('span', {class: 'tokens'}, ...texts.map(token));

  /* A stretch of text. values: activations, of the same length; most: the |activation| of the fullest colour, which
     is another for values below 0; peak: the
     token it is about; masked: which are left out by the mask. */
  function run(pieces, values, most, {peak = -1, masked = null, place = null} = {}) {
    const line = make('p', {class: 'run', dir: 'auto'});
    pieces.forEach((text, i) => {
      const value = values[i] ?? 0;
      const classes = ['tok'];
      if (value !== 0) classes.push('on');
      if (value < 0) classes.push('neg');
      if (i === peak) classes.push('peak');
      if (masked?.[i]) classes.push('masked');
      const span = make('span', {class: classes.join(' ')}, ...shown(text));
      if (value !== 0 || i === peak) {
        const where = place ? `, ${place(i)}` : '';
        span.style.setProperty('--a', most > 0 ? Math.min(1, Math.abs(value) / most).toFixed(3) : 0);
        span.title = `${exact(text)}: activation ${short(value)}${where}`;
        span.setAttribute('role', 'img');
        span.setAttribute('aria-label', `${text.trim() === '' ? exact(text) : text.trim()}, activation ${short(value)}`);
        span.dataset.value = short(value, 3);
        span.dataset.read = `${exact(text)}  ${short(value)}${most > 0 ? `  (${Math.round(100 * value / most)} % of ${short(most)})` : ''}${where}`;
      } else if (/^\s*$|[\u0000-\u001f\u007f]/.test(text) || masked?.[i]) {
        span.title = exact(text) + (masked?.[i] ? ': left out by the mask' : '');
      }
      line.append(span);
    });
    return line;
  }

  /* What is copied is the source: symbols give way to what they stand for. */
  document.addEventListener('copy', event => {
    const selection = document.getSelection();
    if (!selection || selection.isCollapsed || SAE.typing(event.target)) return;
    const range = selection.getRangeAt(0);
    const around = range.commonAncestorContainer;
    const holder = around instanceof Element ? around : around.parentElement;
    if (!holder?.closest('.run, .tokens')) return;  // over several paragraphs the browser's own way is the better one
    const part = range.cloneContents();
    const originals = [...holder.querySelectorAll('[data-exact]')].filter(mark => range.intersectsNode(mark));
    [...part.querySelectorAll('[data-exact]')].forEach((mark, i) => { mark.textContent = originals[i]?.exact ?? mark.textContent; });
    event.clipboardData.setData('text/plain', part.textContent);
    event.preventDefault();
  });

  /* The token under the pointer is read out at the bottom of the window. */
  const readout = make('output', {class: 'readout', hidden: true, 'aria-hidden': 'true'});
  document.body.append(readout);
  document.addEventListener('pointerover', event => {
    const found = event.target instanceof Element ? event.target.closest('.tok.on') : null;
    readout.hidden = !found;
    if (found) readout.textContent = found.dataset.read;
  });

  return {exact, plain, shown, token, list, run};
})();
