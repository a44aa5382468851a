/* Runs before anything is painted: the theme that was chosen last, if any. */
'use strict';
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem('sae_lightning:theme'); } catch { /* no storage: the system's theme */ }
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
})();
