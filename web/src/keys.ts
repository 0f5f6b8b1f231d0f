// The keyboard map, in one place. Digits are positions (event.code), so that AZERTY has them too.

import { signal } from '@preact/signals';

import { togglePause } from './fleet/moment';
import { stepInTime } from './fleet/replay';
import { COLORS, GROUPS } from './fleet/spec';
import { go, route, setQuery } from './router';

export const helpOpen = signal(false);

const PLACES: Record<string, string> = { f: '/', j: '/jobs', q: '/queue', u: '/usage' };
const CHORD_MS_MAX = 1200;

let chordAtMs = -Infinity;

const typing = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement &&
  (target.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(target.tagName));

export function listenToKeys(): void {
  document.addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey) return;
    if (typing(event.target) || document.querySelector('dialog[open]')) return;
    if (pressed(event)) event.preventDefault();
  });
}

function pressed(event: KeyboardEvent): boolean {
  const chord = performance.now() - chordAtMs < CHORD_MS_MAX;
  chordAtMs = -Infinity;
  const place = PLACES[event.key.toLowerCase()];
  if (chord && place) {
    go(place);
    return true;
  }
  if (event.key === '/') {
    document.querySelector<HTMLInputElement>('#search')?.focus();
    return true;
  }
  if (event.key === '?') {
    helpOpen.value = true;
    return true;
  }
  if (event.key === 'g') {
    chordAtMs = performance.now();
    return true;
  }
  if (event.key === 'Escape') {
    setQuery({ where: null, select: null });
    return true;
  }
  if (route.value.page === 'fleet' && timed(event)) return true;
  const digit = /^Digit([1-5])$/.exec(event.code);
  if (!digit || route.value.page !== 'fleet') return false;
  const at = Number(digit[1]) - 1;
  setQuery(event.shiftKey ? { color: COLORS[at]! } : { group: GROUPS[at]! });
  return true;
}

/** Space and the two keys right of P, wherever a layout has its brackets. */
function timed(event: KeyboardEvent): boolean {
  const onButton = event.target instanceof HTMLElement && event.target.closest('button, a, select');
  if (event.key === ' ' && !onButton) togglePause();
  else if (event.key === '[' || event.code === 'BracketLeft') stepInTime(-1);
  else if (event.key === ']' || event.code === 'BracketRight') stepInTime(1);
  else return false;
  return true;
}
