/* What every page shares: data that is loaded when it is asked for, what is remembered, theme, keys. */
'use strict';
const SAE = (() => {
  const site = JSON.parse(document.getElementById('site').textContent);
  const slots = new Map();

  /* A page that was opened from disk may not fetch files, but it may run scripts. Each data file is one: it calls
     SAE.data with what it holds. */
  function load(name, folder = '') {
    const address = `${folder}data/${name}.js`;
    if (!slots.has(address)) {
      const slot = {};
      slot.promise = new Promise((resolve, reject) => Object.assign(slot, {resolve, reject}));
      slots.set(address, slot);
      const script = document.createElement('script');
      script.src = address;
      script.dataset.address = address;
      script.onerror = () => slot.reject(new Error(`${address} is missing: copy the whole folder of the report`));
      document.head.append(script);
    }
    return slots.get(address).promise;
  }
  const data = value => slots.get(document.currentScript.dataset.address).resolve(value);

  /* Storage may be forbidden or full: then nothing is remembered, and everything else works. */
  function remembered(key, kind = localStorage) {
    try { return JSON.parse(kind.getItem(`sae_lightning:${site.id}:${key}`)); } catch { return null; }
  }
  function remember(key, value, kind = localStorage) {
    try { kind.setItem(`sae_lightning:${site.id}:${key}`, JSON.stringify(value)); return true; } catch { return false; }
  }
  const session = {
    get: key => { try { return remembered(key, sessionStorage); } catch { return null; } },
    set: (key, value) => { try { return remember(key, value, sessionStorage); } catch { return false; } },
  };

  /* Notes: those the report was written with, and over them what was written here. */
  const notes = {
    given: {},
    load: () => load('notes').then(found => { notes.given = found; return notes; }),
    own: () => remembered('notes') ?? {},
    of: feature => notes.own()[feature] ?? notes.given[feature] ?? '',
    write(feature, text) {
      const own = notes.own();
      if (text === (notes.given[feature] ?? '')) delete own[feature]; else own[feature] = text;
      return remember('notes', own);
    },
    all() {
      const every = {...notes.given, ...notes.own()};
      return Object.fromEntries(Object.entries(every).filter(([, text]) => text.trim() !== ''));
    },
  };

  const whole = new Intl.NumberFormat('en-US');
  function short(value, digits = 4) {
    if (value === null || value === undefined || Number.isNaN(value)) return '–';
    if (Number.isInteger(value) && Math.abs(value) < 1e8) return whole.format(value);
    const size = Math.abs(value);
    return size >= 1e6 || (size < 1e-4 && size > 0) ? value.toExponential(Math.max(0, digits - 2)).replace('.0e', 'e') : String(+value.toPrecision(digits));
  }
  const percent = value => value === null || Number.isNaN(value) ? '–' : value === 0 ? '0 %' : `${short(100 * value, 3)} %`;

  /* make('td', {class: 'number'}, 'text', node, ...): text only ever becomes text. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith('--')) element.style.setProperty(key, value); else element.setAttribute(key, value === true ? '' : value);
    }
    element.append(...children);
    return element;
  }
  const at = (feature, folder = '') => `${folder}feature.html?f=${feature}`;
  const link = (feature, text = String(feature)) => make('a', {href: at(feature), 'data-feature': feature}, text);
  /* Checked when the report was written, and once more here. */
  const outside = address => /^https?:\/\/[^\s]+$/i.test(address ?? '') ? address : null;

  function save(name, text, type = 'application/json') {
    const address = URL.createObjectURL(new Blob([text], {type}));
    make('a', {href: address, download: name}).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }
  const exportNotes = () => save(`notes-${site.slug}.json`, JSON.stringify(notes.all(), null, 2) + '\n');

  /* What was said of an earlier page's failure goes when there is something to show again. */
  const clear = () => document.querySelectorAll('#main > .failed[role=alert]').forEach(said => said.remove());
  function failed(error) {
    console.error(error);
    clear();
    document.getElementById('main').prepend(make('p', {class: 'failed', role: 'alert'}, String(error.message ?? error)));
  }

  /* Theme. */
  const dark = () => getComputedStyle(document.documentElement).colorScheme === 'dark'
    || (document.documentElement.dataset.theme ?? '') === '' && matchMedia('(prefers-color-scheme: dark)').matches;
  const repaint = () => document.dispatchEvent(new Event('sae:theme'));
  function showTheme() {
    const button = document.getElementById('theme');
    button.textContent = dark() ? '☀ Light' : '☾ Dark';
    button.setAttribute('aria-label', dark() ? 'Change to light colours' : 'Change to dark colours');
  }
  document.getElementById('theme').addEventListener('click', () => {
    const next = dark() ? 'light' : 'dark';
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem('sae_lightning:theme', next); } catch { /* not remembered */ }
    showTheme();
    repaint();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { showTheme(); repaint(); });
  showTheme();

  /* Keys: pages add their own; none while something is typed, a modifier is down or a dialog is open. */
  const keys = new Map();
  const typing = target => target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
  document.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target) || document.querySelector('dialog[open]')) return;
    const act = keys.get(event.key);
    if (act) { event.preventDefault(); act(event); }
  });
  const help = document.getElementById('help');
  keys.set('/', () => { const field = document.querySelector('[data-search]'); field?.focus(); field?.select(); });
  keys.set('?', () => help.showModal());
  document.getElementById('keys').addEventListener('click', () => help.showModal());

  return {site, load, data, notes, session, short, percent, whole, make, at, link, outside, save, exportNotes, failed, clear, dark, keys, typing};
})();
