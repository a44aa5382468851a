/* All features as columns, and the two questions asked of them: which match, and in what order. */
'use strict';
SAE.index = (() => {
  const {notes} = SAE;
  /* density>1%, cluster=3, active on<0.1, count>1,000: a column's name, a sign, a number; none yet: being typed. */
  const sign = '(<=|>=|<|>|=)', number = '([-+]?[\\d.,_]*(?:e[-+]?\\d+)?)(%?)';
  const unknown = new RegExp(`^([a-z_|][a-z_| ]*)${sign}${number.replace('*', '+')}$`);
  const escaped = text => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  const signs = {'<': (a, b) => a < b, '>': (a, b) => a > b, '<=': (a, b) => a <= b, '>=': (a, b) => a >= b, '=': (a, b) => a === b};

  class Index {
    constructor(found) {
      this.n = found.n;
      this.vocabulary = found.vocabulary;
      /* By what a search may call a column of numbers, its key; longer names are looked for first. */
      this.names = new Map(Object.entries(found.names));
      const names = [...this.names.keys()].sort((a, b) => b.length - a.length).map(escaped);
      this.condition = new RegExp(`"[^"]*"?|(?<!\\S)(${names.join('|')}) ?${sign} ?${number}(?!\\S)`, 'g');
      this.columns = new Map();
      for (const [key, values] of Object.entries(found.columns)) {
        this.columns.set(key, Float64Array.from(values, value => value === null ? NaN : value));
      }
      this.columns.set('feature', Float64Array.from({length: this.n}, (_, i) => i));
      this.lists = new Map();
      for (const [key, list] of Object.entries(found.lists)) {
        const items = Int32Array.from(list.items);
        this.lists.set(key, {width: list.width, items});
        /* The vocabulary is in alphabetical order: a word's number is its rank. */
        this.columns.set(key, Float64Array.from({length: this.n}, (_, i) => items[i * list.width] < 0 ? NaN : items[i * list.width]));
      }
      /* Texts of some features, by column: their order is the alphabet's. */
      this.texts = new Map(Object.entries(found.texts ?? {}));
      for (const [key, texts] of this.texts) this.columns.set(key, this.#ranks(texts));
      this.orders = new Map();
      this.lower = this.vocabulary.map(word => word.toLowerCase());
      this.words = Array.from({length: this.n}, (_, i) => this.#words(i));
      this.noted = this.words.map(() => '');
      this.readNotes();
    }

    #words(feature) {
      let text = '';
      for (const {width, items} of this.lists.values()) {
        for (let j = feature * width; j < (feature + 1) * width && items[j] >= 0; j++) text += this.lower[items[j]] + '\u0000';
      }
      for (const texts of this.texts.values()) text += (texts[feature] ?? '').toLowerCase() + '\u0000';
      return text;
    }

    #ranks(texts) {
      const ranks = new Float64Array(this.n).fill(NaN);
      const folded = Object.fromEntries(Object.entries(texts).map(([feature, text]) => [feature, text.trim().toLowerCase()]));
      Object.keys(texts).filter(f => f < this.n).sort((a, b) => folded[a] < folded[b] ? -1 : folded[a] > folded[b] ? 1 : a - b).forEach((feature, rank) => { ranks[feature] = rank; });
      return ranks;
    }

    /* A list of a feature, as texts. */
    list(key, feature) {
      const {width, items} = this.lists.get(key);
      const found = [];
      for (let j = feature * width; j < (feature + 1) * width && items[j] >= 0; j++) found.push(this.vocabulary[items[j]]);
      return found;
    }

    readNotes() {
      this.noted.fill('');
      const all = notes.all();
      const ranked = Object.keys(all).filter(f => f < this.n).sort((a, b) => all[a].toLowerCase() < all[b].toLowerCase() ? -1 : 1);
      const ranks = new Float64Array(this.n).fill(NaN);
      ranked.forEach((feature, rank) => { ranks[feature] = rank; this.noted[feature] = all[feature].toLowerCase(); });
      this.columns.set('note', ranks);
      this.orders.delete('note');
    }

    /* Every feature in ascending order of a column, of equal ones the lower number first; without a value: last. */
    #ascending(key) {
      if (!this.orders.has(key)) {
        const values = this.columns.get(key);
        const there = new Uint32Array(this.n), missing = [];
        let n = 0;
        for (let i = 0; i < this.n; i++) if (Number.isNaN(values[i])) missing.push(i); else there[n++] = i;
        const sorted = there.subarray(0, n).sort((a, b) => values[a] - values[b] || a - b);
        this.orders.set(key, {sorted, missing});
      }
      return this.orders.get(key);
    }

    order(key, descending = false) {
      const {sorted, missing} = this.#ascending(key);
      const out = new Uint32Array(this.n);
      if (!descending) out.set(sorted);
      else {
        /* Backwards, but equal ones still by number. */
        const values = this.columns.get(key);
        let place = 0;
        for (let end = sorted.length; end > 0;) {
          let begin = end - 1;
          while (begin > 0 && values[sorted[begin - 1]] === values[sorted[end - 1]]) begin--;
          for (let i = begin; i < end; i++) out[place++] = sorted[i];
          end = begin;
        }
      }
      out.set(missing, sorted.length);
      return out;
    }

    /* Returns {tests, problem}: what every feature found must pass, and what is wrong with the query, in words. */
    #parse(query) {
      const tests = [];
      let problem = '';
      const words = query.toLowerCase().replace(this.condition, (found, name, sign, said, percent) => {
        if (name === undefined) return found;  // in quotes
        if (said === '') return ' ';
        const values = this.columns.get(this.names.get(name)), compare = signs[sign];
        const plain = /^[-+]?\d{1,3}([,_]\d{3})+(?!\d)/.test(said) ? said.replace(/[,_]/g, '') : said;
        const limit = Number(plain) / (percent ? 100 : 1);
        if (Number.isNaN(limit)) problem ||= `“${said}” is no number: write 1000, 1,000, 0.5, 1e-3 or 5%.`;
        tests.push(i => compare(values[i], limit));
        return ' ';
      });
      for (const found of words.matchAll(/"([^"]+)"?|(\S+)/g)) {
        const word = found[1] ?? found[2];
        const asked = found[1] === undefined ? unknown.exec(word) : null;
        if (asked) {
          problem ||= `No column of numbers is called “${asked[1]}”. There are: ${[...new Set(this.names.values())].join(', ')}; a text stands in quotes.`;
        } else if (/^#?\d+$/.test(word)) {
          const number = Number(word.replace('#', ''));
          tests.push(word[0] === '#' ? i => i === number : i => i === number || this.words[i].includes(word) || this.noted[i].includes(word));
        } else {
          tests.push(i => this.words[i].includes(word) || this.noted[i].includes(word));
        }
      }
      return {tests, problem};
    }

    /* What is wrong with a query; empty where nothing is. */
    problem(query) { return this.#parse(query).problem; }

    /* Returns what tells whether a feature matches: every word and condition of the query must hold; null for none. */
    matcher(query) {
      const {tests, problem} = this.#parse(query);
      if (problem) return () => false;
      return tests.length ? i => tests.every(test => test(i)) : null;
    }

    /* The features that match, in order; a feature asked for by its number comes first. */
    find(query, key = 'feature', descending = false) {
      const order = this.order(key, descending), matches = this.matcher(query);
      if (!matches) return order;
      const found = order.filter(matches);
      const number = /^\s*#?(\d+)\s*$/.exec(query);
      if (!number) return found;
      const place = found.indexOf(Number(number[1]));
      if (place > 0) { found.copyWithin(1, 0, place); found[0] = Number(number[1]); }
      return found;
    }
  }

  /* folder: of which SAE, on a page of several; notes are those of the page's own. */
  const opened = new Map();
  function open(folder = '') {
    if (!opened.has(folder)) {
      const noted = folder === '' ? notes.load() : null;
      opened.set(folder, Promise.all([SAE.load('table', folder), noted]).then(([found]) => new Index(found)));
    }
    return opened.get(folder);
  }
  return {open};
})();
